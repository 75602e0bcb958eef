"""train.py with few channels, and with a fault at a given step, for tests of several ranks.

    torchrun --nproc_per_node=2 tests/support/narrow_train.py --data DIR --output DIR --split ranks ...

In the environment, DOUBLE=1 makes float64 torch's default type, and FAULT=<rank>:<step>:<name> injects a fault
of FAULTS into that rank before that step, only the first time that torchrun starts it. SLOW_DECODING=1 makes each
image take 1.5 s.
"""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

import train as train_script
from alexnet_torch.data import loader
from alexnet_torch.data.loader import Batch
from alexnet_torch.distributed.world import World
from alexnet_torch.recipes.catalogue import RECIPES, demo, tensorflow_post
from alexnet_torch.recipes.recipe import Recipe
from alexnet_torch.training import launch
from alexnet_torch.training.trainer import Trainer
from tests.support.nets import narrow_recipe
from tests.support.steps import slow_crops


def narrow(recipe: Recipe | None = None) -> Recipe:
    """Returns the demo recipe, or another, with a narrow network whose layers 4 ranks cannot divide evenly."""
    return narrow_recipe(recipe or demo(), width=54)


def _fill_disk(trainer: Trainer) -> None:
    """Fills the disk of the run's folder."""
    with (trainer.output.parent / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while filler.write(bytes(1 << 16)):
            pass


def _replace_checkpoints(trainer: Trainer) -> None:
    """Replaces the folder by a file."""
    (trainer.output / "checkpoints").rename(trainer.output.parent / "moved")
    (trainer.output / "checkpoints").touch()


FAULTS: dict[str, Callable[[Trainer], object]] = {
    "kill": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "hang": lambda _: os.kill(os.getpid(), signal.SIGSTOP),
    "terminate": lambda _: os.kill(os.getpid(), signal.SIGTERM),
    "end-agent": lambda _: os.kill(os.getppid(), signal.SIGTERM),
    "full-disk": _fill_disk,
    "no-checkpoints": _replace_checkpoints,
    "no-output": lambda trainer: trainer.output.rename(trainer.output.parent / "moved"),
}


def _inject_fault(patch: pytest.MonkeyPatch) -> None:
    rank, step, name = os.environ.get("FAULT", "-1:0:kill").split(":")
    train_batch = Trainer.train_batch

    def train_batch_after_fault(trainer: Trainer, batch: Batch) -> None:
        if trainer.state.step == int(step):
            FAULTS[name](trainer)
        train_batch(trainer, batch)

    if World.from_environment().rank == int(rank) and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        patch.setattr(Trainer, "train_batch", train_batch_after_fault)


def train(arguments: list[str]) -> int:
    """Runs train.py with these options; returns its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        _inject_fault(patch)
        patch.setitem(RECIPES, "demo", narrow)
        patch.setitem(RECIPES, "tensorflow-post", lambda: narrow(tensorflow_post()))
        if os.environ.get("SLOW_DECODING"):
            patch.setattr(loader, "decode_crops", slow_crops)
        patch.setattr(launch, "write_page", lambda _: None)  # it takes two seconds
        patch.setattr(sys, "argv", ["train.py", *arguments])
        return train_script.main()


if __name__ == "__main__":
    torch.set_num_threads(1)
    if os.environ.get("DOUBLE"):
        torch.set_default_dtype(torch.float64)
    sys.exit(train(sys.argv[1:]))
