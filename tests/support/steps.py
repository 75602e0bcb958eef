"""What a test does between the training steps of a run in its own process."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from alexnet_torch.training import trainer
from alexnet_torch.training.step import train_step


@contextmanager
def before_step(number: int, action: Callable[[], object]) -> Iterator[None]:
    """Calls `action` before the step of this number, counted from 1 in the block."""
    steps = 0

    def step(*given: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == number:
            action()
        return train_step(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "train_step", step)
        yield


def send_sigterm() -> None:
    """Sends SIGTERM to this process."""
    signal.raise_signal(signal.SIGTERM)
