"""How long the first pass over ImageNet takes, from measured costs of an image: processor time, reading and writing.

    python -m benchmarks.speed.preparation --data hymenoptera

Processor time is that of this process, so that other work on the machine does not count. Disks are not measured: the
table says what they must deliver, and a slower disk decides the time.
"""

import statistics
import tempfile
import time
from pathlib import Path

import torch
import tyro

from alexnet_torch.data.cache_build import prepare
from alexnet_torch.evaluation.runs import duration
from alexnet_torch.native import reuse_freed_memory
from benchmarks.harness.photographs import photographs, repeated
from benchmarks.harness.report import markdown_table, save_result

SIDE = 256
IMAGENET_IMAGES = 1_281_167 + 50_000
IMAGENET_BYTES = 147_897_477_120 + 6_744_924_160  # of the official archives
MAP_BYTES = IMAGENET_IMAGES * SIDE * SIDE * 3


def process_seconds(data: Path, workers: int, rounds: int) -> float:
    """Returns this process's seconds for a data set: all work with one worker, and with two what it does for them."""

    def measured() -> float:
        with tempfile.TemporaryDirectory() as folder:
            start = time.process_time()
            prepare(data, SIDE, folder, workers=workers)
            return time.process_time() - start

    measured()  # compiles, and reads the files into memory
    return statistics.median(measured() for _ in range(rounds))


def main(data: str | None = None, rounds: int = 5) -> None:
    """Measures a folder of photographs, in ImageFolder's layout, made by default; writes the result page."""
    reuse_freed_memory()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = photographs(data, Path(folder))
        sizes = [path.stat().st_size for path in root.rglob("*") if path.suffix in (".jpg", ".jpeg", ".png")]
        worker = process_seconds(root, 1, rounds) / len(sizes)
        few, many = (repeated(root, Path(folder) / f"{n}", n) for n in (500, 1500))  # their difference has no start
        main_process = (process_seconds(many, 2, rounds) - process_seconds(few, 2, rounds)) / 1000
    rows = []
    for cores in (2, 16, 64):
        rate = min(cores / worker, 1 / main_process)
        disk = (f"{size * rate / IMAGENET_IMAGES / 1e9:.2f} GB/s" for size in (IMAGENET_BYTES, MAP_BYTES))
        rows.append((cores, f"{rate:,.0f}", duration(IMAGENET_IMAGES / rate), *disk))
    text = [
        f"{len(sizes)} photographs of {statistics.mean(sizes) / 1e3:.0f} KB on average (ImageNet's have "
        f"{IMAGENET_BYTES / IMAGENET_IMAGES / 1e3:.0f} KB). One image takes {1e3 * worker:.2f} ms of a core, "
        f"which is {1 / worker:,.0f} images/s, and {1e3 * main_process:.3f} ms of the main process beside its workers.",
        f"ImageNet's training and validation images, {IMAGENET_IMAGES:,} in all, become {MAP_BYTES / 1e9:.0f} GB of "
        f"squares of {SIDE} pixels:",
        markdown_table(("cores", "images/s", "time", "read", "written"), rows),
    ]
    save_result(1, "\n\n".join(text))


if __name__ == "__main__":
    tyro.cli(main)
