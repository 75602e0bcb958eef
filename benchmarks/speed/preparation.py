"""How long the first pass over ImageNet takes, from measured costs of an image: processor time, reading and writing.

    python -m benchmarks.speed.preparation --data ../shared/data/hymenoptera

Processor time is that of this process, so that other work on the machine does not count. Disks are not measured: the
table says what they must deliver, and a slower disk decides the time.
"""

import pickle
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from tqdm import tqdm

from alexnet_torch.data.cache import CacheFolder
from alexnet_torch.data.cache_build import chunks, decode_chunk, open_partial, prepare_ahead, record
from alexnet_torch.data.sources.recognise import open_source
from alexnet_torch.native import reuse_freed_memory
from benchmarks.harness.photographs import photographs
from benchmarks.harness.report import markdown_table, save_result

SIDE = 256
IMAGENET_IMAGES = 1_281_167 + 50_000
IMAGENET_BYTES = 147_897_477_120 + 6_744_924_160  # of the official archives
CORES = (2, 16, 64)


@dataclass(frozen=True)
class Options:
    """What to measure on."""

    data: str | None = None
    """A folder of photographs, in ImageFolder's layout; made by default."""
    rounds: int = 5
    """Measured rounds."""


def image_seconds(data: Path, rounds: int) -> float:
    """Returns the processor seconds for an image: read, decoded, digested, written with its checksum, and summed up."""
    images = sum(map(len, open_source(data).splits))

    def measured() -> float:
        with tempfile.TemporaryDirectory() as folder:
            start = time.process_time()
            prepare_ahead(data, Path(folder) / "map", SIDE, workers=1)
            return (time.process_time() - start) / images

    measured()  # compiles, and reads the files into memory
    return statistics.median(measured() for _ in range(rounds))


def main_process_seconds(data: Path, rounds: int) -> float:
    """Returns the processor seconds for an image of the one process that adds up the workers' sums."""
    with tempfile.TemporaryDirectory() as folder:
        target = CacheFolder(Path(folder) / "map", open_source(data), SIDE)
        state = open_partial(target)
        decoded = decode_chunk(next(chunks(target, state["done"])))
        content, times = pickle.dumps(decoded, protocol=5), []
        for _ in range(rounds):
            start = time.process_time()
            for _ in range(50):
                record(state, pickle.loads(content))
            times.append((time.process_time() - start) / 50 / len(decoded.rows))
    return statistics.median(times)


def measure(data: Path, rounds: int) -> str:
    """Returns the table."""
    worker, main = image_seconds(data, rounds), main_process_seconds(data, rounds)
    files = [path for path in data.rglob("*") if path.suffix in (".jpg", ".jpeg", ".png")]
    rows = []
    for cores in CORES:
        rate = min(cores / worker, 1 / main)
        seconds = IMAGENET_IMAGES / rate
        read, written = (size * rate / IMAGENET_IMAGES / 1e9 for size in (IMAGENET_BYTES, map_bytes()))
        rows.append((cores, f"{rate:,.0f}", tqdm.format_interval(seconds), f"{read:.2f} GB/s", f"{written:.2f} GB/s"))
    mean = statistics.mean(path.stat().st_size for path in files)
    return "\n\n".join(
        [
            f"{len(files)} photographs of {mean / 1e3:.0f} KB on average (ImageNet's have "
            f"{IMAGENET_BYTES / IMAGENET_IMAGES / 1e3:.0f} KB). One image takes {1e3 * worker:.2f} ms of a core, "
            f"which is {1 / worker:,.0f} images/s, and {1e3 * main:.3f} ms of the one process that adds up the sums.",
            "ImageNet's training and validation images, "
            f"{IMAGENET_IMAGES:,} in all, become {map_bytes() / 1e9:.0f} GB of squares of {SIDE} pixels:",
            markdown_table(("cores", "images/s", "time", "read", "written"), rows),
        ]
    )


def map_bytes() -> int:
    """Returns the size of ImageNet's map."""
    return IMAGENET_IMAGES * SIDE * SIDE * 3


def main(options: Options) -> None:
    """Measures and writes the result page."""
    reuse_freed_memory()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        text = measure(photographs(options.data, Path(folder)), options.rounds)
    data = f" --data {options.data}" if options.data else ""
    save_result("preparation", f"python -m benchmarks.speed.preparation{data}", 1, text)


if __name__ == "__main__":
    main(tyro.cli(Options))
