"""Tables of crops from a memory map: warm and cold, on one and two threads, and what they leave for training."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from alexnet_torch.data.image_map import load_native
from benchmarks.harness.map_reading import (
    BATCH,
    MapFile,
    beside_each_reader,
    first_reading_time,
    native_reader,
    numpy_reader,
    reading_time,
)
from benchmarks.harness.measure import median_times
from benchmarks.harness.our_step import our_step
from benchmarks.harness.report import markdown_table

BEFORE = "NumPy, a crop at a time"
RATE_OF_A_GPU = 25_000 / 8
"""Crops a second that each of 8 ranks reads if all together train 25,000 images a second."""
RATE_OF_TWO_CORES = 200
"""Crops a second, more than two CPU cores can train."""
LAUNCHES = 3_000_000


def reading_table(file: MapFile, rounds: int) -> str:
    """Returns crops/s of each way to read: from the page cache, and with the page cache emptied of the file."""
    images = file.open()
    warm: dict[str, Callable[[], float]] = {
        BEFORE: partial(reading_time, images, numpy_reader()),
        "compiled, 1 thread": partial(reading_time, images, native_reader(1)),
        "compiled, 2 threads": partial(reading_time, images, native_reader(2)),
    }
    first = {
        f"compiled, {threads} thread(s), first epoch: checked": partial(
            first_reading_time, file, native_reader(threads), False
        )
        for threads in (1, 2)
    }
    warm_times = median_times(warm | first, rounds)
    del images, warm
    cold = {
        BEFORE: partial(first_reading_time, file, numpy_reader(), True),
        "compiled, 1 thread": partial(first_reading_time, file, native_reader(1), True),
        "compiled, 2 threads": partial(first_reading_time, file, native_reader(2), True),
    }
    cold_times = median_times(cold, max(1, rounds // 2))
    rows = []
    for title, times in (("page cache", warm_times), ("disk", cold_times)):
        rows += [(title, name, f"{1 / t:,.0f}", f"{times[BEFORE] / t:.2f}") for name, t in times.items()]
    return markdown_table(("from", "way", "crops/s", "times the way before"), rows)


def launch_loop() -> int:
    """Runs Python code without a pause, as the thread that launches a GPU's kernels does: it needs Python's lock."""
    total = 0
    for i in range(LAUNCHES):
        total += hash((i, total)) & 7
    return total


def training_table(file: MapFile, rounds: int) -> str:
    """Returns how much slower the training thread is while crops are read beside it."""
    images = file.open()
    step = our_step()
    pixels, labels = torch.randn(16, 3, 224, 224).to(memory_format=torch.channels_last), torch.arange(16)
    work: dict[str, tuple[Callable[[], object], float]] = {
        "Python code, as to launch a GPU's kernels": (launch_loop, RATE_OF_A_GPU),
        "steps on a CPU": (lambda: [step(pixels, labels) for _ in range(2)], RATE_OF_TWO_CORES),
    }
    rows = []
    for name, (function, rate) in work.items():
        times = median_times(beside_each_reader(function, images, rate), rounds)
        slowdowns = [f"{times[way] / times['alone'] - 1:+.1%}" for way in ("NumPy", "compiled")]
        rows.append((name, f"{rate:,.0f}", *slowdowns))
    return markdown_table(
        ("the training thread runs", "crops/s beside it", "beside NumPy", "beside the compiled reader"), rows
    )


def map_tables(n: int, rounds: int, folder: Path) -> str:
    """Measures on two cores, with a map of n images, of 197 kB each, that is written into the folder; returns Markdown.

    Raises:
        RuntimeError: the reader cannot be compiled on this machine.
    """
    if load_native() is None:
        raise RuntimeError("the reader of crops cannot be compiled on this machine")
    file = MapFile.write(folder / "gather.u8", n)
    size = file.path.stat().st_size / 1e9
    return "\n\n".join(
        [
            f"Batches of {BATCH} crops of 224 pixels, half of them mirrored, from a map of {size:.1f} GB, on two "
            "cores. From the disk: posix_fadvise emptied the page cache of the file before each epoch, which is the "
            "first of a map. In its first epoch a process checks each image that it reads against its checksum.",
            reading_table(file, rounds),
            "How much longer the training thread takes while crops are read beside it:",
            training_table(file, rounds),
        ]
    )
