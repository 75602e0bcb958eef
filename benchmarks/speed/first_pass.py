"""The first pass over a data set, from archives against image files: listing, reading, decoding, writing the map.

    OMP_NUM_THREADS=1 python -m benchmarks.speed.first_pass --data ../shared/data/hymenoptera
    OMP_NUM_THREADS=1 python -m benchmarks.speed.first_pass

The forms take turns, 64 images at a time, each chunk as a worker process decodes it. Both clocks are read: the wall's,
and that of the processor, which other programs disturb less; files and archives are in the page cache. Without --data,
photographs are made: 500x375 JPEGs of quality 90.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from alexnet_torch.data.cache import CacheFolder
from alexnet_torch.data.cache_build import chunks, decode_chunk, open_partial
from alexnet_torch.data.image_map import load_native
from alexnet_torch.data.sources.recognise import open_source
from alexnet_torch.native import reuse_freed_memory
from benchmarks.harness.archives import (
    Image,
    repeated_images,
    write_folders,
    write_official,
    write_parquet,
    write_shards,
)
from benchmarks.harness.photographs import photographs
from benchmarks.harness.report import markdown_table, save_result

SIDE = 256
FILES = "files in class folders"
FORMS: dict[str, Callable[[Path, Sequence[Image]], Path]] = {
    FILES: write_folders,
    "ILSVRC-2012's tars": write_official,
    "webdataset shards": write_shards,
    "parquet files": write_parquet,
}


@dataclass(frozen=True)
class Options:
    """What to measure on."""

    data: str | None = None
    """A folder of photographs, in ImageFolder's layout; made by default."""
    images: int = 2000
    """Training images: the photographs again and again."""


def clocks() -> np.ndarray:
    """Returns the seconds of the wall clock and of the processor, (2,)."""
    return np.array([time.perf_counter(), time.process_time()])


def measure(images: Sequence[Image], folder: Path) -> dict[str, np.ndarray]:
    """Returns each form's seconds for listing and for the pass over all images, by both clocks (2,)."""
    seconds: dict[str, np.ndarray] = {}
    remaining = {}
    for number, (form, write) in enumerate(FORMS.items()):
        root = write(folder / f"set{number}", images)
        open_source(root)  # with what is imported at the first call
        began = clocks()
        source = open_source(root)
        seconds[form] = clocks() - began
        target = CacheFolder(folder / f"map{number}", source, SIDE)
        remaining[form] = list(chunks(target, open_partial(target)["done"]))
    for step in range(len(remaining[FILES])):
        for form in list(FORMS)[step % len(FORMS) :] + list(FORMS)[: step % len(FORMS)]:
            began = clocks()
            decode_chunk(remaining[form][step])
            seconds[form] += clocks() - began
    return seconds


def main(options: Options) -> None:
    """Measures and writes the result page."""
    reuse_freed_memory()
    load_native()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        files = sorted(photographs(options.data, Path(folder)).glob("train/*/*"))
        images = repeated_images(files, options.images)
        size = sum(len(content) for *_, content in images) / len(images)
        seconds = measure(images, Path(folder))
    rows = [
        (form, *(f"{len(images) / each:,.0f}" for each in times), *(f"{ratio:.3f}" for ratio in seconds[FILES] / times))
        for form, times in seconds.items()
    ]
    titles = ("form", "images/s, listing included", "by processor time", "speed against files", "by processor time")
    table = markdown_table(titles, rows)
    given = f" --data {options.data}" if options.data else ""
    text = f"{len(images):,} images of {size / 1e3:.0f} kB:\n\n{table}"
    save_result("first_pass", f"OMP_NUM_THREADS=1 python -m benchmarks.speed.first_pass{given}", 1, text)


if __name__ == "__main__":
    main(tyro.cli(Options))
