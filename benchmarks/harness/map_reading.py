"""Crops from a memory map, beside the way before: one Python thread that copied a crop at a time with NumPy."""

import gc
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alexnet_torch.data.augment import Crops, copy_crop, random_crops
from alexnet_torch.data.cache import Samples
from alexnet_torch.data.image_map import ImageMap, checksum
from alexnet_torch.data.loader import MAP_PREFETCH, crops_from_map
from alexnet_torch.data.sources.source import SourceSplit
from alexnet_torch.data.workers import map_ahead
from benchmarks.harness.measure import time_call

SIDE, SIZE, BATCH = 256, 224, 128
WORK_PIECES = 4
Clock = Callable[[], float]
Reader = Callable[[ImageMap], Iterator[Tensor]]


@dataclass(frozen=True)
class MapFile:
    """A file of random images (n, 256, 256, 3) and their checksums."""

    path: Path
    n: int
    checksums: np.ndarray

    @classmethod
    def write(cls, path: Path, n: int) -> "MapFile":
        """Writes the file, to the disk too: the page cache cannot be emptied of what is not there yet."""
        random, checksums = np.random.default_rng(0), np.zeros(n, np.uint64)
        with path.open("wb") as file:
            for row in range(n):
                image = random.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
                checksums[row] = checksum(image)
                file.write(image.data)
            file.flush()
            os.fsync(file.fileno())
        return cls(path, n, checksums)

    def open(self) -> ImageMap:
        """Opens the map; no image of it has been checked yet."""
        return ImageMap(self.path, SIDE, self.checksums)

    def drop(self) -> None:
        """Empties the page cache of the file, which no ImageMap may have open."""
        gc.collect()
        descriptor = os.open(self.path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def native_reader(threads: int, epoch: int = 0) -> Reader:
    """Returns a function that yields an epoch's crops as the loader reads them, (128, 224, 224, 3) uint8."""

    def read(images: ImageMap) -> Iterator[Tensor]:
        crops, batches = _epoch(len(images), epoch)
        nothing = list[str]()
        split = SourceSplit("train", nothing, np.zeros(0, np.int64), None)  # type: ignore[arg-type]
        return crops_from_map(Samples(images, np.arange(len(images)), split), crops, SIZE, batches, threads, False)

    return read


def numpy_reader(epoch: int = 0) -> Reader:
    """Returns a function that yields the same crops in the way before, in one thread."""

    def read(images: ImageMap) -> Iterator[Tensor]:
        crops, batches = _epoch(len(images), epoch)

        def copy(indices: np.ndarray) -> Tensor:
            batch = torch.empty((len(indices), SIZE, SIZE, 3), dtype=torch.uint8)
            cut = crops[indices]
            for row, top, left, mirrored, out in zip(indices, cut.top, cut.left, cut.mirrored, batch, strict=True):
                copy_crop(images.pixels[row], top, left, mirrored, out)
            return batch

        return map_ahead(ThreadPoolExecutor(1, "batches"), copy, batches, MAP_PREFETCH)

    return read


def _epoch(n: int, epoch: int) -> tuple[Crops, list[np.ndarray]]:
    order = np.random.default_rng(epoch).permutation(n)
    return random_crops(n, SIDE, SIZE, 0, epoch, True), [order[i : i + BATCH] for i in range(0, n, BATCH)]


def reading_time(images: ImageMap, reader: Reader, clock: Clock = time.perf_counter) -> float:
    """Returns the seconds for a crop of an epoch, on a clock: all threads' CPU time with time.process_time."""
    start = clock()
    for _ in reader(images):
        pass
    return (clock() - start) / len(images)


def first_reading_time(file: MapFile, reader: Reader, cold: bool, clock: Clock = time.perf_counter) -> float:
    """Returns the seconds for a crop of the first epoch of a process, from the page cache or from the disk."""
    if cold:
        file.drop()
    return reading_time(file.open(), reader, clock)


def time_between_batches(work: Callable[[], object], images: ImageMap, reader: Reader | None) -> float:
    """Returns the seconds in which this thread works and takes a batch, a few times, as a training thread does.

    Args:
        work: what it does between two batches.
        reader: reads the batches ahead in threads of its own; None: there are no batches.
    """
    batches: Iterator[Tensor | None] = reader(images) if reader else cycle([None])
    next(batches)
    time.sleep(0.05)  # until the next batches are there
    return time_call(lambda: [work() if piece % 2 == 0 else next(batches) for piece in range(2 * WORK_PIECES)])


def beside_each_reader(work: Callable[[], object], images: ImageMap) -> dict[str, Callable[[], float]]:
    """Returns functions that measure the seconds of `work` alone, and with each way to read."""
    readers: dict[str, Reader | None] = {"alone": None, "NumPy": numpy_reader(), "compiled": native_reader(1)}
    return {name: partial(time_between_batches, work, images, reader) for name, reader in readers.items()}
