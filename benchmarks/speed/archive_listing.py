"""Listing ILSVRC-2012's tars: seconds and memory, the first time and at later starts, which read the kept index.

    python -m benchmarks.speed.archive_listing
    python -m benchmarks.speed.archive_listing --samples 100000 1281167

The tars have the official names and numbers of members, of 100 bytes each, and are in the page cache. Each listing has
a process of its own.
"""

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from alexnet_torch.data.sources.classes import imagenet_classes
from alexnet_torch.data.sources.recognise import open_source
from benchmarks.harness.report import markdown_table, save_result

BODY = bytes(100) + bytes(tarfile.BLOCKSIZE - 100)  # of a member of 100 bytes


@dataclass(frozen=True)
class Options:
    """What to measure."""

    samples: tuple[int, ...] = (100_000, 1_281_167)
    """Numbers of training images; the validation images are 50,000."""
    list: Path | None = None
    """Only lists this folder, and prints a line of JSON: the work of a process."""


def header(name: str, size: int) -> bytes:
    """Returns the header of a member."""
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.USTAR_FORMAT)


def make_tars(root: Path, samples: int) -> None:
    """Makes the tar of a tar for each class, and the flat tar."""
    root.mkdir()
    end = bytes(2 * tarfile.BLOCKSIZE)
    with (root / "ILSVRC2012_img_train.tar").open("wb") as train:
        for label, each in enumerate(imagenet_classes()):
            count = len(range(label, samples, 1000))
            train.write(header(f"{each.identity}.tar", count * 2 * tarfile.BLOCKSIZE + len(end)))
            train.writelines(header(f"{each.identity}_{i}.JPEG", 100) + BODY for i in range(count))
            train.write(end)
        train.write(end)
    with (root / "ILSVRC2012_img_val.tar").open("wb") as val:
        val.writelines(header(f"ILSVRC2012_val_{i:08}.JPEG", 100) + BODY for i in range(1, 50_001))
        val.write(end)


def memory(key: str) -> int:
    """Returns this process's VmHWM (the most so far) or VmRSS (now), in bytes."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[key].split()[0]) * 1024


def list_folder(root: Path) -> None:
    """Lists a folder, and prints seconds and memory."""
    before, began = memory("VmRSS"), time.perf_counter()
    source = open_source(root)
    seconds = time.perf_counter() - began
    megabytes = {name: (memory(key) - before) / 1e6 for name, key in (("peak", "VmHWM"), ("held", "VmRSS"))}
    print(json.dumps({"images": sum(map(len, source.splits)), "seconds": seconds, **megabytes}))


def measured(root: Path, cache: Path) -> list[str]:
    """Returns images, seconds, and megabytes at the peak and held, of a listing in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.speed.archive_listing", "--list", str(root)]
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    result = json.loads(done.stdout.splitlines()[-1])
    return [
        f"{result['images']:,}",
        f"{result['seconds']:.1f}",
        *(f"{result[name]:,.0f}" for name in ("peak", "held")),
    ]


def main(options: Options) -> None:
    """Measures and writes the result page."""
    if options.list:
        list_folder(options.list)
        return
    rows = []
    for samples in options.samples:
        with tempfile.TemporaryDirectory() as folder:
            root, cache = Path(folder) / "tars", Path(folder) / "cache"
            make_tars(root, samples)
            rows += [(when, *measured(root, cache)) for when in ("the first time", "at a later start")]
    columns = ("", "images", "seconds", "MB of memory at the peak, besides the libraries", "MB held")
    save_result("archive_listing", "python -m benchmarks.speed.archive_listing", 1, markdown_table(columns, rows))


if __name__ == "__main__":
    main(tyro.cli(Options))
