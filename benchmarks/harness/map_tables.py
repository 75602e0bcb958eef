"""Tables of crops from a memory map: warm and cold, on one and two threads, and what they leave for training."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from alexnet_torch.data.image_map import load_native
from benchmarks.harness.map_reading import (
    BATCH,
    Clock,
    MapFile,
    beside_each_reader,
    first_reading_time,
    native_reader,
    numpy_reader,
    reading_time,
)
from benchmarks.harness.measure import median_times, time_call
from benchmarks.harness.our_step import our_step
from benchmarks.harness.report import markdown_table

BEFORE = "NumPy, a crop at a time"
LAUNCH_SECONDS = 8 * BATCH / 25_000
"""The time of a batch of each of 8 ranks if all together train 25,000 images a second."""


def reading_table(file: MapFile, rounds: int) -> str:
    """Returns crops/s of each way to read, on the clock and of CPU time: from the page cache, and without it."""
    ways = {BEFORE: numpy_reader(), "compiled, 1 thread": native_reader(1), "compiled, 2 threads": native_reader(2)}
    images, contenders = file.open(), dict[tuple[str, str, Clock], Callable[[], float]]()
    for clock in (time.perf_counter, time.process_time):
        for name, reader in ways.items():
            contenders["page cache", name, clock] = partial(reading_time, images, reader, clock)
        for name, reader in list(ways.items())[1:]:
            read_first = partial(first_reading_time, file, reader, False, clock)
            contenders["page cache, first epoch: checked", name, clock] = read_first
    times = median_times(contenders, rounds)
    contenders.clear()  # no map is open now: the page cache keeps what a map has open
    del images
    for clock in (time.perf_counter, time.process_time):
        for name, reader in ways.items():
            contenders["disk", name, clock] = partial(first_reading_time, file, reader, True, clock)
    times |= median_times(contenders, max(1, rounds // 2))
    rows = []
    for source, name, clock in times:
        if clock is time.perf_counter:
            before = "disk" if source == "disk" else "page cache"
            cells: list[str] = []
            for each in (time.perf_counter, time.process_time):
                seconds = times[source, name, each]
                cells += [f"{1 / seconds:,.0f}", f"{times[before, BEFORE, each] / seconds:.2f}"]
            rows.append((source, name, *cells))
    columns = ("from", "way", "crops/s", "times the way before", "crops/s of CPU time", "times the way before")
    return markdown_table(columns, rows)


def launch_loop(iterations: int) -> int:
    """Runs Python code without a pause, as the thread that launches a GPU's kernels does: it needs Python's lock."""
    total = 0
    for i in range(iterations):
        total += hash((i, total)) & 7
    return total


def training_table(file: MapFile, rounds: int) -> str:
    """Returns how much longer the training thread takes with batches from each way to read than without batches."""
    images, step = file.open(), our_step()
    pixels, labels = (
        torch.randn(BATCH // 4, 3, 224, 224).to(memory_format=torch.channels_last),
        torch.arange(BATCH // 4),
    )
    iterations = round(100_000 * LAUNCH_SECONDS / min(time_call(partial(launch_loop, 100_000)) for _ in range(5)))
    work: dict[str, Callable[[], object]] = {
        f"{1e3 * LAUNCH_SECONDS:.0f} ms of Python code, as to launch a GPU's kernels": partial(launch_loop, iterations),
        f"a step of {len(labels)} images on one core": partial(step, pixels, labels),
    }
    rows = []
    for name, function in work.items():
        times = median_times(beside_each_reader(function, images), rounds)
        slowdowns = [f"{times[way] / times['alone'] - 1:+.1%}" for way in ("NumPy", "compiled")]
        rows.append((name, *slowdowns))
    return markdown_table((f"for each batch of {BATCH}, the training thread runs", "with NumPy", "compiled"), rows)


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
            "How much longer the training thread takes when it takes these batches than without batches:",
            training_table(file, rounds),
        ]
    )
