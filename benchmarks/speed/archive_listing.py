"""Listing ILSVRC-2012's tars: seconds and memory, the first time and at later starts, which read the kept index.

    python -m benchmarks.speed.archive_listing --samples 100000 1281167

The tars have the official names and numbers of members, of 100 bytes each, and are in the page cache. Each listing has
a process of its own.
"""

import os
import tarfile
import tempfile
import time
from pathlib import Path

import tyro

from alexnet_torch.data.sources.classes import imagenet_classes
from alexnet_torch.data.sources.recognise import open_source
from benchmarks.harness.measure import in_own_process, memory_now
from benchmarks.harness.report import markdown_table, save_result

BODY, END = bytes(tarfile.BLOCKSIZE), bytes(2 * tarfile.BLOCKSIZE)  # of a member of 100 bytes; of a tar


def header(name: str, size: int) -> bytes:
    """Returns the header of a member."""
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.USTAR_FORMAT)


def make_tars(root: Path, samples: int) -> None:
    """Makes the tar of a tar for each class, and the flat tar."""
    root.mkdir()
    with (root / "ILSVRC2012_img_train.tar").open("wb") as train:
        for label, each in enumerate(imagenet_classes()):
            count = len(range(label, samples, 1000))
            train.write(header(f"{each.identity}.tar", count * 2 * tarfile.BLOCKSIZE + len(END)))
            train.writelines(header(f"{each.identity}_{i}.JPEG", 100) + BODY for i in range(count))
            train.write(END)
        train.write(END)
    with (root / "ILSVRC2012_img_val.tar").open("wb") as val:
        val.writelines(header(f"ILSVRC2012_val_{i:08}.JPEG", 100) + BODY for i in range(1, 50_001))
        val.write(END)


def listed(root: Path, cache: Path) -> tuple[str, ...]:
    """Lists a folder; returns images, seconds, and megabytes at the peak and held."""
    os.environ["XDG_CACHE_HOME"] = str(cache)
    before, began = memory_now("VmRSS"), time.perf_counter()
    source = open_source(root)
    seconds = time.perf_counter() - began
    megabytes = (f"{(memory_now(key) - before) / 1e6:,.0f}" for key in ("VmHWM", "VmRSS"))
    return f"{sum(map(len, source.splits)):,}", f"{seconds:.1f}", *megabytes


def main(samples: tuple[int, ...] = (100_000, 1_281_167)) -> None:
    """Lists tars of these numbers of training images, and 50,000 for validation, and writes the result page."""
    rows = []
    for number in samples:
        with tempfile.TemporaryDirectory() as folder:
            root, cache = Path(folder) / "tars", Path(folder) / "cache"
            make_tars(root, number)
            rows += [(when, *in_own_process(listed, root, cache)) for when in ("the first time", "at a later start")]
    columns = ("", "images", "seconds", "MB of memory at the peak, besides the libraries", "MB held")
    save_result(1, markdown_table(columns, rows))


if __name__ == "__main__":
    tyro.cli(main)
