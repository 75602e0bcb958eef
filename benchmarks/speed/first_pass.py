"""The first pass over a data set, from archives against image files: listing, reading, decoding, writing the map.

    OMP_NUM_THREADS=1 python -m benchmarks.speed.first_pass --data hymenoptera

One process decodes; the forms take turns, and the table has medians. Both clocks are read: the wall's, and that of the
processor, which other programs disturb less; files and archives are in the page cache. Without --data, photographs are
made: 500x375 JPEGs of quality 90.
"""

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count, cycle
from pathlib import Path

import numpy as np
import torch
import tyro

from alexnet_torch.data.cache_build import prepare
from alexnet_torch.data.sources.classes import imagenet_classes, validation_labels
from alexnet_torch.native import reuse_freed_memory
from benchmarks.harness.measure import both_clocks, median_times
from benchmarks.harness.photographs import photographs
from benchmarks.harness.report import markdown_table, save_result
from tests.support.image_sets import Sample, write_image_folder, write_official, write_parquet, write_shards

FILES = "files in class folders"
FORMS: dict[str, Callable[[Path, list[Sample]], Path]] = {
    FILES: write_image_folder,
    "ILSVRC-2012's tars": write_official,
    "webdataset shards": lambda root, samples: write_shards(root, samples, shards=-(-len(samples) // 200)),
    "parquet files": lambda root, samples: write_parquet(root, samples, -(-len(samples) // 500), 100),
}


def repeated_images(files: Sequence[Path], number: int) -> list[Sample]:
    """Returns files' contents again and again, as training images of ten classes and a tenth as many for validation."""
    contents, labels = cycle([file.read_bytes() for file in files]), validation_labels()
    names = [("train", i % 10, f"{imagenet_classes()[i % 10].identity}_{i}.JPEG") for i in range(number)]
    for i in [i for i in range(len(labels)) if labels[i] < 10][: number // 10]:
        names.append(("val", int(labels[i]), f"ILSVRC2012_val_{i + 1:08}.JPEG"))
    return [Sample(*name, content) for name, content in zip(names, contents, strict=False)]


def main(data: str | None = None, images: int = 2000, rounds: int = 3) -> None:
    """Measures a number of training images, a folder's photographs again and again; writes the result page."""
    reuse_freed_memory()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        repeated = repeated_images(sorted(photographs(data, folder).glob("train/*/*")), images)
        caches = (str(folder / f"cache{number}") for number in count())

        def first_pass(root: Path) -> np.ndarray:
            began = both_clocks()
            prepare(root, 256, next(caches), workers=1)
            seconds: np.ndarray = both_clocks() - began
            return seconds

        roots = {form: write(folder / f"set{number}", repeated) for number, (form, write) in enumerate(FORMS.items())}
        seconds = median_times({form: partial(first_pass, root) for form, root in roots.items()}, rounds)
    rows = [
        (form, *(f"{len(repeated) / each:,.0f}" for each in times), *(f"{r:.3f}" for r in seconds[FILES] / times))
        for form, times in seconds.items()
    ]
    titles = ("form", "images/s, listing included", "by processor time", "speed against files", "by processor time")
    size = sum(len(each.content) for each in repeated) / len(repeated)
    save_result(1, f"{len(repeated):,} images of {size / 1e3:.0f} kB:\n\n{markdown_table(titles, rows)}")


if __name__ == "__main__":
    tyro.cli(main)
