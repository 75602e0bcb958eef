"""The start on a prepared folder that is there: seconds and memory by the number of images.

    python -m benchmarks.speed.listing --samples 100000 1281167

The images are hard links to a few files, in ILSVRC-2012's folders and under its names; the prepared folder has squares
of 4 pixels. Each start lists the files anew, in a process of its own, with the folders in the page cache.
"""

import os
import tempfile
from pathlib import Path

import tyro
from PIL import Image
from torchvision.datasets import ImageFolder

from alexnet_torch.data.cache_build import prepare
from alexnet_torch.data.sources.classes import imagenet_classes
from benchmarks.harness.measure import both_clocks, in_own_process, memory_now
from benchmarks.harness.report import markdown_table, save_result

WAYS = {"a start on a prepared folder": False, "torchvision's ImageFolder: lists only": True}


def make_folder(root: Path, samples: int) -> None:
    """Makes train/ with a number of images, and val/ in ILSVRC-2012's proportion."""
    wnids = [each.identity for each in imagenet_classes()]
    for split, count in (("train", samples), ("val", max(1000, round(samples * 50_000 / 1_281_167)))):
        for label, wnid in enumerate(wnids):
            folder = root / split / wnid
            folder.mkdir(parents=True)
            first = folder / f"{wnid}_0.JPEG"
            Image.new("RGB", (8, 8), (label % 256, label // 256, 0)).save(first, "JPEG")
            for i in range(1, len(range(label, count, len(wnids)))):
                os.link(first, folder / f"{wnid}_{i}.JPEG")


def started(root: Path, usual: bool) -> tuple[str, ...]:
    """Starts, or only lists with torchvision; returns images, seconds, CPU seconds and megabytes."""
    memory, clocks = memory_now("VmHWM"), both_clocks()
    if usual:
        count = sum(len(ImageFolder(str(root / split))) for split in ("train", "val"))
    else:
        prepared = prepare(root, 4, str(root.parent / "cache"))
        count = len(prepared.train.labels) + len(prepared.val.labels)
    seconds, used = both_clocks() - clocks
    return f"{count:,}", f"{seconds:.1f}", f"{used:.1f}", f"{(memory_now('VmHWM') - memory) / 1e6:,.0f}"


def main(samples: tuple[int, ...] = (100_000, 1_281_167)) -> None:
    """Starts on folders of these numbers of training images, and writes the result page."""
    rows = []
    for number in samples:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "images"
            make_folder(root, number)
            started(root, usual=False)  # decodes
            for name, usual in WAYS.items():
                in_own_process(started, root, usual)  # reads the folders into the page cache
                rows.append((name, *in_own_process(started, root, usual)))
    columns = ("", "images", "seconds", "of them on the CPU", "MB of memory, besides the libraries")
    save_result(1, markdown_table(columns, rows))


if __name__ == "__main__":
    tyro.cli(main)
