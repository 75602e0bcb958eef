"""A run at 224 pixels from the second epoch on: ours, its bare step, and the loop that people write.

    python -m benchmarks.speed.run --data hymenoptera

Each of the three has a process of its own, and their epochs alternate. Ours is the Trainer of train.py with all its
parts: loader, colour noise, reports. The bare step gets the same batch, already in memory, again and again. The loop
that people write is torch's ImageNet example: torchvision's ImageFolder and transforms, a DataLoader with one worker
for each core, the plain paper net. Validation and saving are in none. Without --data, photographs are made.
"""

import tempfile
from functools import partial
from pathlib import Path

import torch
import tyro
from torch.utils.data import DataLoader

from alexnet_torch.native import reuse_freed_memory
from benchmarks.harness.measure import Functions, alternate, time_call
from benchmarks.harness.our_step import our_step, our_trainer
from benchmarks.harness.photographs import photographs, usual_images
from benchmarks.harness.report import markdown_table, save_result
from benchmarks.harness.rival_nets import plain_net, plain_step

OURS = "ours, the whole run"


def our_epoch(data: Path, folder: Path, batch_size: int, threads: int) -> Functions:
    """Builds the Trainer; returns a function that measures an epoch of it."""
    reuse_freed_memory()
    torch.set_num_threads(threads)
    given: dict[str, object] = {"data": str(data), "cache": f"{folder}/cache", "output": f"{folder}/run"}
    given |= {"devices": "cpu", "batch_size": batch_size, "log_every": 2, "epochs": 99, "save_every": 1e6}
    return {"epoch": partial(time_call, our_trainer(given).train_epoch)}


def bare_epoch(images: int, batch_size: int, threads: int) -> Functions:
    """Returns a function that measures as many steps as an epoch has, with batches of its sizes."""
    reuse_freed_memory()
    torch.set_num_threads(threads)
    step = our_step()
    sizes = [min(batch_size, images - start) for start in range(0, images, batch_size)]
    batches = {n: torch.randn(n, 3, 224, 224).to(memory_format=torch.channels_last) for n in {sizes[0], sizes[-1]}}
    return {"epoch": lambda: time_call(lambda: [step(batches[size], torch.arange(size) % 2) for size in sizes])}


def usual_epoch(data: Path, batch_size: int, threads: int) -> Functions:
    """Returns a function that measures an epoch of the loop that people write."""
    torch.set_num_threads(threads)
    images = usual_images(data)
    loader = DataLoader(images, batch_size, shuffle=True, num_workers=threads, persistent_workers=True)
    step = plain_step(plain_net(classes=len(images.classes)))
    return {"epoch": lambda: time_call(lambda: [step(batch, labels) for batch, labels in loader])}


def main(data: str | None = None, batch_size: int = 64, threads: int = 2, rounds: int = 5) -> None:
    """Measures epochs of a folder, in ImageFolder's layout, with threads in each process; writes the result page."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = photographs(data, folder)
        images = len(usual_images(root))
        contenders = {
            OURS: partial(our_epoch, root, folder, batch_size, threads),
            "ours, the bare step": partial(bare_epoch, images, batch_size, threads),
            "ImageFolder and plain paper net": partial(usual_epoch, root, batch_size, threads),
        }
        times, _ = alternate(contenders, rounds, "epoch")
    rows = [(name, f"{images / time:.1f}", f"{time / times[OURS]:.2f}x") for name, time in times.items()]
    save_result(threads, markdown_table(("", "images/s", "the whole run against it"), rows))


if __name__ == "__main__":
    tyro.cli(main)
