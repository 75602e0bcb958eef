"""The one pass over all files: decoded on all cores into memory maps, with the training sums.

A pass works in a folder of its own, under a lock, and goes on from its journal when it was cut off.
"""

import concurrent.futures as futures
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from itertools import combinations_with_replacement, islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from alexnet_torch.data.decode import UnreadableImage, decode_file
from alexnet_torch.data.worker_processes import context, live_with_parent
from alexnet_torch.files import atomic_write

CHUNK = 64  # images that a worker takes at a time
JOURNAL_SECONDS = 5.0
SERIAL_CHUNKS = 16  # so few are decoded sooner than workers start, which import torch


@contextmanager
def locked(target: Path, announce: Callable[[str], None]) -> Iterator[None]:
    """Holds the lock of a folder, so that two processes do not both build it."""
    with target.with_name(f".{target.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            announce(f"waiting for another process that is building {target}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def open_partial(partial: Path, listing: str, announce: Callable[[str], None]) -> None:
    """Keeps what a pass over the same files left behind in its folder; removes anything else.

    Args:
        partial: the pass's folder, which is there afterwards.
        listing: digest of the files and settings.
        announce: told which of the two it was.
    """
    mark = partial / "listing.txt"
    if partial.exists():
        if mark.exists() and mark.read_text() == listing:
            announce(f"going on with {partial}, which was cut off")
            return
        announce(f"starting {partial} anew: the files or settings changed since it was cut off")
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    atomic_write(mark, lambda file: file.write(listing.encode()))


def allocate(path: Path, size: int) -> None:
    """Takes all of the disk that a map needs, now; a journal over a map that was not whole is dropped."""
    if not path.exists() or path.stat().st_size != size:
        (path.parent / "journal.npz").unlink(missing_ok=True)
    # neither appending nor write-only: where a file system cannot allocate, the C library then refuses
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        os.posix_fallocate(descriptor, 0, size)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Chunk:
    """Consecutive files of one split, and where their pixels go."""

    number: int
    split: str
    first: int  # row of the first file in its split's map
    paths: tuple[Path, ...]
    side: int
    into: Path | None  # the map; None makes the sums alone
    summed: bool  # training files are, for the mean image and the covariance


@dataclass
class Sums:
    """Exact integer sums over training pixels: the same whatever the order, and however often cut off.

    Attributes:
        pixels: (side, side, 3) int64 or uint32, over images.
        products: (3, 3) int64, of the channels' products over all pixels.
        images: how many.
        bad: (split, row, reason) of each file that could not be read.
    """

    pixels: np.ndarray
    products: np.ndarray
    images: int = 0
    bad: list[tuple[str, int, str]] = field(default_factory=list)

    @classmethod
    def zero(cls, side: int, dtype: type[np.integer[Any]] = np.int64) -> "Sums":
        """Of no images; uint32 pixels do for a chunk, and are half as much to add and to send."""
        return cls(np.zeros((side, side, 3), dtype), np.zeros((3, 3), np.int64))

    def include(self, image: np.ndarray) -> None:
        """Adds an image (side, side, 3) uint8."""
        self.pixels += image
        planes = np.ascontiguousarray(image.reshape(-1, 3).T, np.float64)  # sums stay below 2^53, and so exact
        for a, b in combinations_with_replacement(range(3), 2):  # a product of matrices so thin takes far longer
            self.products[a, b] = self.products[b, a] = self.products[a, b] + int(planes[a] @ planes[b])
        self.images += 1

    def add(self, other: "Sums") -> None:
        """Adds another's."""
        self.pixels += other.pixels
        self.products += other.products
        self.images += other.images
        self.bad += other.bad

    def mean(self) -> np.ndarray:
        """(side, side, 3) float32 mean image, 0..255."""
        return (self.pixels / self.images).astype(np.float32)

    def covariance(self) -> np.ndarray:
        """(3, 3) float64 covariance of the pixels' RGB."""
        count = self.images * self.pixels.shape[0] ** 2
        mean = self.pixels.sum((0, 1)) / count
        covariance: np.ndarray = self.products / count - np.outer(mean, mean)
        return covariance


def decode_chunk(chunk: Chunk) -> Sums:
    """Decodes a chunk's files, writes them into the map, returns their sums."""
    side, sums = chunk.side, Sums.zero(chunk.side, np.uint32)
    target = os.open(chunk.into, os.O_WRONLY) if chunk.into else None
    try:
        for row, path in enumerate(chunk.paths, chunk.first):
            try:
                image = decode_file(path, side)  # (side, side, 3)
            except UnreadableImage as error:
                sums.bad.append((chunk.split, row, error.reason))
                continue
            if target is not None:
                os.pwrite(target, image.data, row * image.nbytes)
            if chunk.summed:
                sums.include(image)
    finally:
        if target is not None:
            os.close(target)
    return sums


def run_all(chunks: Sequence[Chunk], folder: Path, listing: str, side: int, workers: int) -> Sums:
    """Runs the chunks that the folder's journal does not have yet.

    Args:
        chunks: all of the pass.
        folder: holds the maps, already of their full size, and the journal.
        listing: digest of the files; a journal of others is not continued.
        side: of the images.
        workers: processes.

    Returns:
        the sums over all chunks, those of earlier calls included.
    """
    journal = Journal(folder, listing, len(chunks), side)
    left = [chunk for chunk in chunks if not journal.done[chunk.number]]
    files = sum(len(chunk.paths) for chunk in chunks)
    done = files - sum(len(chunk.paths) for chunk in left)
    serial = len(left) <= SERIAL_CHUNKS or workers == 1
    results = map(_numbered, left) if serial else _in_processes(left, workers)
    bar = tqdm(total=files, initial=done, unit="image", desc="decoding", disable=None, dynamic_ncols=True)
    with closing(bar):
        for number, sums in results:
            journal.add(number, sums)
            bar.update(len(chunks[number].paths))
    journal.save()
    return journal.sums


def _numbered(chunk: Chunk) -> tuple[int, Sums]:
    return chunk.number, decode_chunk(chunk)


def _in_processes(chunks: Sequence[Chunk], workers: int) -> Iterator[tuple[int, Sums]]:
    pool = futures.ProcessPoolExecutor(workers, context(__name__), initializer=live_with_parent)
    with pool:
        waiting = iter(chunks)
        running = {pool.submit(_numbered, chunk) for chunk in islice(waiting, 4 * workers)}
        try:
            while running:
                finished, running = futures.wait(running, return_when=futures.FIRST_COMPLETED)
                for future in finished:
                    # a few chunks in flight, not all: results are 1.5 MB each at 256 pixels
                    running |= {pool.submit(_numbered, chunk) for chunk in islice(waiting, 1)}
                    yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


class Journal:
    """What a pass has done so far, on disk, so that one that is cut off goes on from there.

    Args:
        folder: of the pass; may hold an earlier journal, which is continued if it is of `listing`.
        listing: digest of the files and settings.
        chunks: how many there are.
        side: of the images.
    """

    def __init__(self, folder: Path, listing: str, chunks: int, side: int) -> None:
        self._folder, self._listing = folder, listing
        self.done, self.sums = np.zeros(chunks, bool), Sums.zero(side)
        self._saved = time.monotonic()
        if (folder / "journal.npz").exists():
            with np.load(folder / "journal.npz") as kept:
                if str(kept["listing"]) == listing:
                    bad = [(split, row, reason) for split, row, reason in json.loads(str(kept["bad"]))]
                    self.done = kept["done"]
                    self.sums = Sums(kept["pixels"], kept["products"], int(kept["images"]), bad)

    def add(self, number: int, sums: Sums) -> None:
        """Notes a finished chunk; writes the journal when it is some seconds old."""
        self.done[number] = True
        self.sums.add(sums)
        if time.monotonic() - self._saved > JOURNAL_SECONDS:
            self.save()

    def save(self) -> None:
        """Writes the journal, after the pixels that it vouches for."""
        for path in self._folder.glob("*.u8"):
            with path.open("rb") as file:
                os.fsync(file.fileno())
        content = BytesIO()
        np.savez(
            content,
            listing=self._listing,
            done=self.done,
            pixels=self.sums.pixels,
            products=self.sums.products,
            images=self.sums.images,
            bad=json.dumps(self.sums.bad),
        )
        atomic_write(self._folder / "journal.npz", lambda file: file.write(content.getbuffer()))
        self._saved = time.monotonic()
