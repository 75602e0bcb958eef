"""A whole run at 224 pixels from the second epoch on: ours, its bare step, and the loop that people write.

    python -m benchmarks.speed.run --data ../shared/data/hymenoptera
    python -m benchmarks.speed.run

The three live in a process each and take turns, an epoch a turn. Ours is the Trainer of train.py with all that
goes with it: loader, colour noise, reports. The bare step gets a batch that is there, over and over. The loop that
people write is torch's ImageNet example: torchvision's ImageFolder and transforms, a DataLoader with a worker a
core, the plain paper net. Validation and saving are in none. Without --data, photographs are made.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import tyro
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from alexnet_torch.data.decode import decoded_side
from alexnet_torch.data.prepare import prepare
from alexnet_torch.distributed.placement import place
from alexnet_torch.distributed.world import SINGLE_PROCESS
from alexnet_torch.malloc import keep_freed
from alexnet_torch.recipes.catalogue import paper
from alexnet_torch.recipes.settings import resolve
from alexnet_torch.training.launch import build_trainer
from benchmarks.harness.measure import Apart, alternate, keep, seconds, table
from benchmarks.harness.rival_nets import plain, plain_step
from benchmarks.speed.input import photographs
from benchmarks.speed.step import our_step


@dataclass(frozen=True)
class Options:
    """What to measure on."""

    data: str | None = None
    """A folder of photographs, in ImageFolder's layout; made by default."""
    batch_size: int = 64
    """Images a step."""
    threads: int = 2
    """Of each process."""
    rounds: int = 5
    """Epochs that count."""


def ours(data: Path, folder: Path, options: Options) -> dict[str, Callable[[], float]]:
    """An epoch of the Trainer."""
    keep_freed()
    torch.set_num_threads(options.threads)
    given = {"data": str(data), "batch_size": options.batch_size, "log_every": 2, "epochs": 99}
    settings = resolve({**given, "output": str(folder / "run"), "save_every": 1e6})
    prepared = prepare(data, decoded_side(224), str(folder / "cache"))
    trainer = build_trainer(settings, paper(), prepared, place(["cpu"], 2, "none", SINGLE_PROCESS))
    return {"epoch": partial(seconds, trainer.train_epoch)}


def bare(images: int, options: Options) -> dict[str, Callable[[], float]]:
    """As many steps as an epoch has, of its sizes."""
    keep_freed()
    torch.set_num_threads(options.threads)
    step = our_step()
    sizes = [min(options.batch_size, images - at) for at in range(0, images, options.batch_size)]
    batches = [torch.randn(n, 3, 224, 224).to(memory_format=torch.channels_last) for n in sizes[-1:] + sizes[:1]]
    given = {len(batch): batch for batch in batches}

    def epoch() -> None:
        for size in sizes:
            step(given[size], torch.arange(size) % 2)

    return {"epoch": partial(seconds, epoch)}


def usual(data: Path, options: Options) -> dict[str, Callable[[], float]]:
    """An epoch of the loop that people write."""
    torch.set_num_threads(options.threads)
    transform = v2.Compose(
        [
            *(v2.Resize(256), v2.RandomCrop(224), v2.RandomHorizontalFlip(), v2.PILToTensor()),
            *(v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])),
        ]
    )
    images = ImageFolder(str(data / "train"), transform)
    loader = DataLoader(images, options.batch_size, shuffle=True, num_workers=options.threads, persistent_workers=True)
    step = plain_step(plain(classes=len(images.classes)))

    def epoch() -> None:
        for batch, labels in loader:
            step(batch, labels)

    return {"epoch": partial(seconds, epoch)}


def main(options: Options) -> None:
    """Measures and prints."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = Path(options.data) if options.data else photographs(folder / "photographs")
        images = len(ImageFolder(str(data / "train")))
        contenders = {
            "ours, the whole run": Apart(partial(ours, data, folder, options)),
            "ours, the bare step": Apart(partial(bare, images, options)),
            "ImageFolder and plain paper net": Apart(partial(usual, data, options)),
        }
        times = alternate({name: partial(c.ask, "epoch") for name, c in contenders.items()}, options.rounds)
        for contender in contenders.values():
            contender.end()
    run = times["ours, the whole run"]
    rows: list[tuple[object, ...]] = [
        (name, f"{images / time:.1f}", f"{time / run:.2f}x") for name, time in times.items()
    ]
    command = "python -m benchmarks.speed.run" + (f" --data {options.data}" if options.data else "")
    keep("run", command, options.threads, table(("", "images/s", "the whole run against it"), rows))


if __name__ == "__main__":
    main(tyro.cli(Options))
