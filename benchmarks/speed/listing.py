"""The start on a prepared folder that is there: seconds and memory by the number of images.

    python -m benchmarks.speed.listing
    python -m benchmarks.speed.listing --samples 100000 1281167

The images are hard links to a few files, in ILSVRC-2012's folders and under its names; the prepared folder is made
without decoding, of squares of 4 pixels. Each start lists the files anew, in a process
of its own, with the folders in the page cache.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro
from PIL import Image
from torchvision.datasets import ImageFolder

from alexnet_torch.data.cache import locate_cache
from alexnet_torch.data.cache_build import complete, open_partial, prepare
from alexnet_torch.data.sources.classes import imagenet_classes
from alexnet_torch.data.sources.recognise import open_source
from benchmarks.harness.report import markdown_table, save_result

SIDE = 4
VALIDATION_SHARE = 50_000 / 1_281_167  # as in ILSVRC-2012


@dataclass(frozen=True)
class Options:
    """What to measure."""

    samples: tuple[int, ...] = (100_000, 1_281_167)
    """Numbers of training images."""
    start: Path | None = None
    """Only starts on this folder, and prints a line of JSON: the work of a process."""
    usual: bool = False
    """With --start: lists with torchvision's ImageFolder instead."""


def make_folder(root: Path, samples: int) -> None:
    """Makes train/ with a number of images, and val/ in ILSVRC-2012's proportion."""
    wnids = [each.identity for each in imagenet_classes()]
    for split, count in (("train", samples), ("val", max(1000, round(samples * VALIDATION_SHARE)))):
        for label, wnid in enumerate(wnids):
            folder = root / split / wnid
            folder.mkdir(parents=True)
            first = folder / f"{wnid}_0.JPEG"
            Image.new("RGB", (8, 8), (label % 256, label // 256, 0)).save(first, "JPEG")
            for i in range(1, len(range(label, count, len(wnids)))):
                os.link(first, folder / f"{wnid}_{i}.JPEG")


def make_prepared(root: Path, cache: Path) -> None:
    """Makes the prepared folder of a data set as `prepare` does, but with black images."""
    source = open_source(root)
    target = locate_cache(source, SIDE, str(cache))
    state = open_partial(target)
    state["images"], state["done"][:] = 1, True
    for split in source.splits:
        state[f"{split.name}_digests"][:, 0] = 1
    complete(target, state, skip_bad=False)


def start(root: Path, usual: bool) -> None:
    """Starts on a data set, and prints seconds and peak memory."""
    before, began, used = peak_memory(), time.perf_counter(), time.process_time()
    if usual:
        images = [ImageFolder(str(root / split)) for split in ("train", "val")]
        count = sum(map(len, images))
    else:
        prepared = prepare(root, SIDE, str(root.parent / "cache"))
        count = len(prepared.train.labels) + len(prepared.val.labels)
    seconds, used = time.perf_counter() - began, time.process_time() - used
    values = {"images": count, "seconds": seconds, "used": used, "megabytes": (peak_memory() - before) / 1e6}
    print(json.dumps(values))


def peak_memory() -> int:
    """Returns the most memory that this process has had so far, in bytes."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


def measured(root: Path, usual: bool) -> tuple[str, ...]:
    """Returns images, seconds, CPU seconds and megabytes of a start in its own process, with a warm page cache."""
    command = [sys.executable, "-m", "benchmarks.speed.listing", "--start", str(root)]
    for _ in range(2):
        done = subprocess.run(command + ["--usual"] * usual, check=True, capture_output=True, text=True)
    result = json.loads(done.stdout.splitlines()[-1])
    return f"{result['images']:,}", f"{result['seconds']:.1f}", f"{result['used']:.1f}", f"{result['megabytes']:,.0f}"


def main(options: Options) -> None:
    """Measures and writes the result page."""
    if options.start:
        start(options.start, options.usual)
        return
    rows = []
    for samples in options.samples:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "images"
            make_folder(root, samples)
            make_prepared(root, Path(folder) / "cache")
            rows.append(("a start on a prepared folder", *measured(root, usual=False)))
            rows.append(("torchvision's ImageFolder, which lists only", *measured(root, usual=True)))
    columns = ("", "images", "seconds", "of them on the CPU", "MB of memory, besides the libraries")
    save_result("listing", "python -m benchmarks.speed.listing", 1, markdown_table(columns, rows))


if __name__ == "__main__":
    main(tyro.cli(Options))
