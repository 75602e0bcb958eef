"""Tables of crops from a memory map, beside the way before: one Python thread that copied a crop at a time with NumPy.

Warm and cold, on one and two threads, and what they leave for training.
"""

import gc
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alexnet_torch.data.augment import Crops, copy_crop, random_crops
from alexnet_torch.data.cache import Samples
from alexnet_torch.data.image_map import ImageMap, checksum, load_native
from alexnet_torch.data.loader import MAP_PREFETCH, crops_from_map
from alexnet_torch.data.sources.source import SourceSplit
from alexnet_torch.data.workers import map_ahead
from benchmarks.harness.measure import median_times, time_call
from benchmarks.harness.our_step import our_step
from benchmarks.harness.report import markdown_table

SIDE, SIZE, BATCH = 256, 224, 128
BEFORE = "NumPy, a crop at a time"
LAUNCH_SECONDS = 8 * BATCH / 25_000
"""The time of a batch of each of 8 ranks if all together train 25,000 images a second."""

Clock = Callable[[], float]
Reader = Callable[[ImageMap], Iterator[Tensor]]
CLOCKS: tuple[Clock, Clock] = (time.perf_counter, time.process_time)  # the latter counts all threads' CPU time


class MapFile:
    """A file of random images (n, 256, 256, 3) and their checksums, on the disk: caches keep what is not there yet."""

    def __init__(self, path: Path, n: int) -> None:
        self.path, self.checksums = path, np.zeros(n, np.uint64)
        random = np.random.default_rng(0)
        with path.open("wb") as file:
            for row in range(n):
                image = random.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
                self.checksums[row] = checksum(image)
                file.write(image.data)
            file.flush()
            os.fsync(file.fileno())

    def open(self, cold: bool = False) -> ImageMap:
        """Opens the map, with no image checked yet; cold: empties the page cache of it, if no ImageMap is open."""
        if cold:
            gc.collect()
            descriptor = os.open(self.path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
        return ImageMap(self.path, SIDE, self.checksums)


def native_reader(threads: int, images: ImageMap) -> Iterator[Tensor]:
    """Yields an epoch's crops as the loader reads them, (128, 224, 224, 3) uint8."""
    crops, batches = _epoch(len(images))
    split = SourceSplit("train", [], np.zeros(0, np.int64), None)  # type: ignore[arg-type]
    return crops_from_map(Samples(images, np.arange(len(images)), split), crops, SIZE, batches, threads, False)


def numpy_reader(images: ImageMap) -> Iterator[Tensor]:
    """Yields the same crops in the way before, in one thread."""
    crops, batches = _epoch(len(images))

    def copy(indices: np.ndarray) -> Tensor:
        batch = torch.empty((len(indices), SIZE, SIZE, 3), dtype=torch.uint8)
        cut = crops[indices]
        for row, top, left, mirrored, out in zip(indices, cut.top, cut.left, cut.mirrored, batch, strict=True):
            copy_crop(images.pixels[row], top, left, mirrored, out)
        return batch

    return map_ahead(ThreadPoolExecutor(1, "batches"), copy, batches, MAP_PREFETCH)


def _epoch(n: int) -> tuple[Crops, list[np.ndarray]]:
    order = np.random.default_rng(0).permutation(n)
    return random_crops(n, SIDE, SIZE, 0, 0, True), [order[i : i + BATCH] for i in range(0, n, BATCH)]


def reading_time(open_map: Callable[[], ImageMap], reader: Reader, clock: Clock) -> float:
    """Returns the seconds for a crop of an epoch."""
    images, start = open_map(), clock()
    for _ in reader(images):
        pass
    return (clock() - start) / len(images)


def reading_table(file: MapFile, rounds: int) -> str:
    """Returns crops/s of each way to read, on the clock and of CPU time: from the page cache, and without it."""
    native = {f"compiled, {n} thread(s)": partial(native_reader, n) for n in (1, 2)}
    ways: dict[str, Reader] = {BEFORE: numpy_reader, **native}
    opened = [file.open()]
    contenders: dict[tuple[str, str, Clock], Callable[[], float]] = {}
    for clock in CLOCKS:
        for way, reader in ways.items():
            contenders["page cache", way, clock] = partial(reading_time, partial(opened.__getitem__, 0), reader, clock)
        for way, reader in native.items():
            contenders["page cache, first epoch: checked", way, clock] = partial(reading_time, file.open, reader, clock)
    times = median_times(contenders, rounds)
    opened.clear()  # the page cache keeps what a map has open
    cold = partial(file.open, cold=True)
    disk = {("disk", way, clock): partial(reading_time, cold, ways[way], clock) for clock in CLOCKS for way in ways}
    times |= median_times(disk, max(1, rounds // 2))
    rows = []
    for source, way in dict.fromkeys((source, way) for source, way, _ in times):
        before = "disk" if source == "disk" else "page cache"
        each = [(times[source, way, clock], times[before, BEFORE, clock]) for clock in CLOCKS]
        rows.append((source, way, *(cell for mine, old in each for cell in (f"{1 / mine:,.0f}", f"{old / mine:.2f}"))))
    columns = ("from", "way", "crops/s", "times the way before", "crops/s of CPU time", "times the way before")
    return markdown_table(columns, rows)


def launch_loop(iterations: int) -> int:
    """Runs Python code without a pause, as the thread that launches a GPU's kernels does: it needs Python's lock."""
    total = 0
    for i in range(iterations):
        total += hash((i, total)) & 7
    return total


def time_between_batches(work: Callable[[], object], images: ImageMap, reader: Reader | None) -> float:
    """Returns the seconds in which this thread works and takes a batch, four times, as a training thread does."""
    batches: Iterator[Tensor | None] = reader(images) if reader else cycle([None])
    next(batches)
    time.sleep(0.05)  # until the next batches are there
    return time_call(lambda: [work() if piece % 2 == 0 else next(batches) for piece in range(8)])


def training_table(file: MapFile, rounds: int) -> str:
    """Returns how much longer the training thread takes with batches from each way to read than without batches."""
    images, pixels = file.open(), torch.randn(BATCH // 4, 3, 224, 224).to(memory_format=torch.channels_last)
    iterations = round(100_000 * LAUNCH_SECONDS / min(time_call(partial(launch_loop, 100_000)) for _ in range(5)))
    work: dict[str, Callable[[], object]] = {
        f"{1e3 * LAUNCH_SECONDS:.0f} ms of Python code, as to launch a GPU's kernels": partial(launch_loop, iterations),
        f"a step of {len(pixels)} images on one core": partial(our_step(), pixels, torch.arange(len(pixels))),
    }
    readers: dict[str, Reader | None] = {"alone": None, "NumPy": numpy_reader, "compiled": partial(native_reader, 1)}
    rows = []
    for name, function in work.items():
        ways = {way: partial(time_between_batches, function, images, reader) for way, reader in readers.items()}
        times = median_times(ways, rounds)
        rows.append((name, *(f"{times[way] / times['alone'] - 1:+.1%}" for way in ("NumPy", "compiled"))))
    return markdown_table((f"for each batch of {BATCH}, the training thread runs", "with NumPy", "compiled"), rows)


def map_tables(n: int, rounds: int, folder: Path) -> str:
    """Measures on two cores, with a map of n images, of 197 kB each, that is written into the folder; returns Markdown.

    Raises:
        RuntimeError: the reader cannot be compiled on this machine.
    """
    if load_native() is None:
        raise RuntimeError("the reader of crops cannot be compiled on this machine")
    file = MapFile(folder / "gather.u8", n)
    text = [
        f"Batches of {BATCH} crops of 224 pixels, half of them mirrored, from a map of "
        f"{file.path.stat().st_size / 1e9:.1f} GB, on two cores. From the disk: posix_fadvise emptied the page cache "
        "of the file before each epoch, which is the first of a map. In its first epoch a process checks each image "
        "that it reads against its checksum.",
        reading_table(file, rounds),
        "How much longer the training thread takes when it takes these batches than without batches:",
        training_table(file, rounds),
    ]
    return "\n\n".join(text)
