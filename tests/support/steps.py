"""What a test does between the training steps of a run in its own process, and slow decoding for other processes."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from alexnet_torch.data import loader
from alexnet_torch.training import trainer
from alexnet_torch.training.step import train_step

decode_crops = loader.decode_crops


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


def slow_crops(task: loader.CropTask) -> np.ndarray:
    """Takes 1.5 s for each image."""
    time.sleep(1.5 * len(task[0]))
    return decode_crops(task)
