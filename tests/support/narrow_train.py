"""train.py with few channels, and with faults at a given step: for tests of runs of several processes.

    torchrun --nproc_per_node=2 tests/narrow_train.py --data DIR --output DIR --split ranks ...

In the environment, DOUBLE=1 makes float64 torch's default type, and FAULT=<rank>:<step>:<what> has what befall
the rank before that step, the first time that torchrun starts it: see FAULTS. SLOW_DECODING=1 makes images take
1.5 s each.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

import train as train_script
from alexnet_torch.data import crop_reader
from alexnet_torch.data.decode import decode_file
from alexnet_torch.data.loader import Batch
from alexnet_torch.distributed.world import World
from alexnet_torch.recipes.catalogue import RECIPES, demo, tensorflow_post
from alexnet_torch.recipes.recipe import Recipe
from alexnet_torch.training.trainer import Trainer


def narrow(recipe: Recipe | None = None) -> Recipe:
    """The demo recipe, or another, with few channels, and with layers that 4 processes do not divide."""
    recipe = recipe or demo()
    net = recipe.architecture
    convs = tuple(replace(conv, channels=16) for conv in net.convs)
    linears = (*(replace(linear, width=54) for linear in net.linears[:-1]), net.linears[-1])
    return replace(recipe, architecture=replace(net, convs=convs, linears=linears))


def _raise(number: int) -> Callable[[Trainer], None]:
    return lambda _: os.kill(os.getpid(), number)


def _end_agent(trainer: Trainer) -> None:
    del trainer
    os.kill(os.getppid(), signal.SIGTERM)


def _fill_disk(trainer: Trainer) -> None:
    """Of a disk of the run's own."""
    with (trainer.output.parent / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while filler.write(bytes(4096)):
            pass


def _replace_checkpoints(trainer: Trainer) -> None:
    """By a file."""
    folder = trainer.output / "checkpoints"
    folder.rename(trainer.output.parent / "moved")
    folder.touch()


def _move_output(trainer: Trainer) -> None:
    trainer.output.rename(trainer.output.parent / "moved")


FAULTS: dict[str, Callable[[Trainer], None]] = {
    "kill": _raise(signal.SIGKILL),
    "hang": _raise(signal.SIGSTOP),
    "terminate": _raise(signal.SIGTERM),
    "end-agent": _end_agent,
    "full-disk": _fill_disk,
    "no-checkpoints": _replace_checkpoints,
    "no-output": _move_output,
}


@contextmanager
def _fault(patch: pytest.MonkeyPatch) -> Iterator[None]:
    rank, step, what = os.environ.get("FAULT", "-1:0:kill").split(":")
    world, train_batch = World.from_environment(), Trainer.train_batch

    def befallen(trainer: Trainer, batch: Batch) -> None:
        if trainer.state.step == int(step):
            FAULTS[what](trainer)
        train_batch(trainer, batch)

    if world.rank == int(rank) and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        patch.setattr(Trainer, "train_batch", befallen)
    yield


def train(arguments: list[str]) -> int:
    """train.py's exit status for these options."""
    with pytest.MonkeyPatch.context() as patch, _fault(patch):
        patch.setitem(RECIPES, "demo", narrow)
        patch.setitem(RECIPES, "tensorflow-post", lambda: narrow(tensorflow_post()))
        patch.setattr(sys, "argv", ["train.py", *arguments])
        return train_script.main()


def _slowly(path: Path, side: int) -> np.ndarray:
    time.sleep(1.5)
    return decode_file(path, side)


if os.environ.get("SLOW_DECODING"):  # here, for processes that decode import this file
    setattr(crop_reader, decode_file.__name__, _slowly)

if __name__ == "__main__":
    torch.set_num_threads(1)
    if os.environ.get("DOUBLE"):
        torch.set_default_dtype(torch.float64)
    sys.exit(train(sys.argv[1:]))
