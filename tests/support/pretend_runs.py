"""Runs the two command lines on the pretend device, in the process of the fixture `pretend_process`.

The commands accept only devices that a user can have, which is not what is tested here: the check is left out.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch

from alexnet_torch.data.loader import Batch
from alexnet_torch.distributed import placement
from alexnet_torch.model import devices
from alexnet_torch.model.architecture import PAPER
from alexnet_torch.recipes.catalogue import RECIPES
from alexnet_torch.recipes.recipe import Recipe
from alexnet_torch.training.trainer import Trainer
from tests.support.commands import run_cli, run_train
from tests.support.nets import narrow_demo

Copy = tuple[str, str, tuple[int, ...]]


def _across_towers() -> Recipe:
    """Its norms read the other tower's nearest channels, which are copied."""
    net = narrow_demo().architecture
    return replace(narrow_demo(), architecture=replace(net, norm=replace(PAPER.norm, across_towers=True)))


VARIANTS: dict[str, Callable[[], Recipe]] = {
    "sgd": narrow_demo,
    "adam": lambda: replace(narrow_demo(), optimizer="adam"),
    "across-towers": _across_towers,
}
"""What `--recipe demo` is in these runs."""


@dataclass(frozen=True)
class DeviceRun:
    """What a command returned, and the copies between devices in each of its training steps."""

    done: CompletedProcess[str]
    copies: list[list[Copy]]


@contextmanager
def _any_device(double: bool, variant: str) -> Iterator[pytest.MonkeyPatch]:
    torch.set_default_dtype(torch.float64 if double else torch.float32)
    with pytest.MonkeyPatch.context() as patch:
        for module in (placement, devices):
            patch.setattr(module, devices.checked_devices.__name__, devices.tower_devices)
        patch.setitem(RECIPES, "demo", VARIANTS[variant])
        yield patch
    torch.set_default_dtype(torch.float32)


def train_on_devices(
    options: Sequence[str], cache: Path, double: bool = True, variant: str = "sgd", stop_before: int | None = None
) -> DeviceRun:
    """Trains with options of train.py; before the step `stop_before` (from 0) the run gets SIGTERM."""
    from tests.support import pretend_device as pretend  # in the process of the fixture

    copies, train_batch = list[list[Copy]](), Trainer.train_batch

    def recorded(trainer: Trainer, batch: Batch) -> None:
        if trainer.state.step == stop_before:
            trainer.stop.signal = 15
        pretend.COPIES.clear()
        train_batch(trainer, batch)
        copies.append(list(pretend.COPIES))

    with _any_device(double, variant) as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        patch.setattr(Trainer, "train_batch", recorded)
        return DeviceRun(run_train(*options), copies)


def run_command_on_devices(options: Sequence[str], cache: Path) -> CompletedProcess[str]:
    """Runs `python -m alexnet_torch` with these options, in float32."""
    with _any_device(double=False, variant="sgd") as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        return run_cli(*options)
