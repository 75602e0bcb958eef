"""A run at 224 pixels from the second epoch on: ours, its bare step, and the loop that people write.

    python -m benchmarks.speed.run --data ../shared/data/hymenoptera
    python -m benchmarks.speed.run

Each of the three has a process of its own, and their epochs alternate. Ours is the Trainer of train.py with all its
parts: loader, colour noise, reports. The bare step gets the same batch, already in memory, again and again. The loop
that people write is torch's ImageNet example: torchvision's ImageFolder and transforms, a DataLoader with one worker
for each core, the plain paper net. Validation and saving are in none. Without --data, photographs are made.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import tyro
from torch.utils.data import DataLoader

from alexnet_torch.distributed.ranks import Ranks
from alexnet_torch.distributed.world import SINGLE_PROCESS
from alexnet_torch.native import reuse_freed_memory
from alexnet_torch.signals import StopSignal
from alexnet_torch.training.launch import launch
from benchmarks.harness.measure import median_times, time_call
from benchmarks.harness.our_step import our_step
from benchmarks.harness.photographs import photographs, usual_images
from benchmarks.harness.processes import Worker
from benchmarks.harness.report import markdown_table, save_result
from benchmarks.harness.rival_nets import plain_net, plain_step

OURS = "ours, the whole run"


@dataclass(frozen=True)
class Options:
    """What to measure on."""

    data: str | None = None
    """A folder of photographs, in ImageFolder's layout; made by default."""
    batch_size: int = 64
    """Images in a step."""
    threads: int = 2
    """Threads of each process."""
    rounds: int = 5
    """Measured epochs."""


def our_epoch(data: Path, folder: Path, options: Options) -> dict[str, Callable[[], float]]:
    """Builds the Trainer; returns a function that measures an epoch of it."""
    reuse_freed_memory()
    torch.set_num_threads(options.threads)
    given = {"data": str(data), "batch_size": options.batch_size, "log_every": 2, "epochs": 99, "save_every": 1e6}
    given |= {"output": str(folder / "run"), "cache": str(folder / "cache"), "devices": "cpu"}
    trainer = launch(given, Ranks(SINGLE_PROCESS), StopSignal(), fit=False)
    return {"epoch": partial(time_call, trainer.train_epoch)}


def bare_epoch(images: int, options: Options) -> dict[str, Callable[[], float]]:
    """Returns a function that measures as many steps as an epoch has, with batches of its sizes."""
    reuse_freed_memory()
    torch.set_num_threads(options.threads)
    step = our_step()
    sizes = [min(options.batch_size, images - start) for start in range(0, images, options.batch_size)]
    batches = {n: torch.randn(n, 3, 224, 224).to(memory_format=torch.channels_last) for n in {sizes[0], sizes[-1]}}

    def epoch() -> None:
        for size in sizes:
            step(batches[size], torch.arange(size) % 2)

    return {"epoch": partial(time_call, epoch)}


def usual_epoch(data: Path, options: Options) -> dict[str, Callable[[], float]]:
    """Returns a function that measures an epoch of the loop that people write."""
    torch.set_num_threads(options.threads)
    images = usual_images(data)
    loader = DataLoader(images, options.batch_size, shuffle=True, num_workers=options.threads, persistent_workers=True)
    step = plain_step(plain_net(classes=len(images.classes)))

    def epoch() -> None:
        for batch, labels in loader:
            step(batch, labels)

    return {"epoch": partial(time_call, epoch)}


def main(options: Options) -> None:
    """Measures and writes the result page."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = photographs(options.data, folder)
        images = len(usual_images(data))
        workers = {
            OURS: Worker(partial(our_epoch, data, folder, options)),
            "ours, the bare step": Worker(partial(bare_epoch, images, options)),
            "ImageFolder and plain paper net": Worker(partial(usual_epoch, data, options)),
        }
        times = median_times({name: partial(worker.call, "epoch") for name, worker in workers.items()}, options.rounds)
        for worker in workers.values():
            worker.close()
    rows = [(name, f"{images / time:.1f}", f"{time / times[OURS]:.2f}x") for name, time in times.items()]
    command = "python -m benchmarks.speed.run" + (f" --data {options.data}" if options.data else "")
    save_result("run", command, options.threads, markdown_table(("", "images/s", "the whole run against it"), rows))


if __name__ == "__main__":
    main(tyro.cli(Options))
