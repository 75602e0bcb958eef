"""The one pass over all samples: decoded on all cores into memory maps, with the sums over training pixels."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
from tqdm import tqdm

from alexnet_torch.data.cache_location import CacheFolder
from alexnet_torch.data.decode import UnreadableImage, decode_bytes
from alexnet_torch.data.expected_time import ExpectedTime
from alexnet_torch.data.fingerprint import DIGEST_BYTES
from alexnet_torch.data.image_map import checksum, load_native
from alexnet_torch.data.integrity import CHECKSUM_BYTES, checksums_name
from alexnet_torch.data.journal import Journal
from alexnet_torch.data.manifest import digest_name
from alexnet_torch.data.pixel_sums import PixelSums
from alexnet_torch.data.sources.source import SourceSplit
from alexnet_torch.data.worker_processes import map_in_processes

CHUNK = 64  # images that a worker decodes at a time
IN_FLIGHT = 4  # chunks for each worker, not all: results are 1.5 MB each at 256 pixels


@dataclass(frozen=True)
class Chunk:
    """Samples of one split that lie beside each other, and where their pixels and digests go."""

    number: int
    samples: SourceSplit
    rows: np.ndarray  # (n,) int64, of the samples in their split's map
    side: int
    map_file: Path | None  # None: only the sums are computed
    digest_file: Path


class Chunks(Sequence[Chunk]):
    """The chunks of all splits, each made when it is needed: a million samples' names would fill the memory twice."""

    def __init__(self, cache: CacheFolder, numbers: Sequence[int] | None = None) -> None:
        self._cache = cache
        self._places = [(split, row) for split in cache.source.splits for row in range(0, len(split), CHUNK)]
        self._orders = {split.name: split.reader.storage_order() for split in cache.source.splits}
        self.numbers = range(len(self._places)) if numbers is None else numbers  # of these chunks among all

    def without(self, done: np.ndarray) -> "Chunks":
        """Returns the chunks that are not done, (all chunks) bool."""
        return Chunks(self._cache, np.flatnonzero(~done).tolist())

    def size(self, number: int) -> int:
        """Returns how many samples a chunk of this number has."""
        split, first = self._places[number]
        return min(CHUNK, len(split) - first)

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> Chunk: ...
    @overload
    def __getitem__(self, index: slice) -> "Chunks": ...
    def __getitem__(self, index: int | slice) -> "Chunk | Chunks":
        if isinstance(index, slice):
            return Chunks(self._cache, self.numbers[index])
        number = self.numbers[index]
        split, first = self._places[number]
        rows, order = np.arange(first, first + self.size(number)), self._orders[split.name]
        if order is not None:
            rows = order[rows]
        folder = self._cache.partial
        map_file = folder / split.map_name if self._cache.has_maps else None
        return Chunk(number, split.take(rows), rows, self._cache.side, map_file, folder / digest_name(split))

    def __iter__(self) -> Iterator[Chunk]:
        return (self[index] for index in range(len(self)))


def decode_chunk(chunk: Chunk) -> PixelSums:
    """Decodes a chunk's samples; writes them into the map, with their checksums and digests; returns their sums."""
    sums, samples = PixelSums.zeros(chunk.side, np.uint32), chunk.samples
    with ExitStack() as opened:
        write_digest = _row_writer(opened, chunk.digest_file)
        if chunk.map_file is not None:
            write_pixels = _row_writer(opened, chunk.map_file)
            write_checksum = _row_writer(opened, chunk.map_file.with_name(checksums_name(samples.name)))
        for index, row in enumerate(chunk.rows.tolist()):
            try:
                content = samples.read(index)
                image = decode_bytes(content, chunk.side, samples.reader.location(index))  # (side, side, 3)
            except UnreadableImage as error:
                sums.bad.append((samples.name, row, error.reason))
                continue  # its digest, pixels and checksum stay zero
            write_digest(row, hashlib.sha256(content).digest()[:DIGEST_BYTES])
            if chunk.map_file is not None:
                write_pixels(row, image.tobytes())
                write_checksum(row, checksum(image).to_bytes(CHECKSUM_BYTES, "little"))
            if samples.name == "train":
                sums.add_image(image)
    return sums


def _row_writer(opened: ExitStack, path: Path) -> Callable[[int, bytes], None]:
    """Returns a function that writes a row of a file whose rows have the same size; `opened` closes the file."""
    file = opened.enter_context(path.open("r+b", buffering=0))

    def write(row: int, content: bytes) -> None:
        os.pwrite(file.fileno(), content, row * len(content))

    return write


def decode_chunks(chunks: Chunks, journal: Journal, workers: int) -> PixelSums:
    """Decodes the chunks that the journal does not have yet; returns the sums over all chunks.

    The chunks' maps must have their full size.
    """
    load_native()  # here, and not in each worker
    remaining = chunks.without(journal.done)
    total, left = (sum(map(chunks.size, each.numbers)) for each in (chunks, remaining))
    results = map_in_processes(decode_chunk, remaining, workers, IN_FLIGHT)
    bar = tqdm(total=total, initial=total - left, unit="image", desc="decoding", disable=None, dynamic_ncols=True)
    expected, decoded = ExpectedTime(min(workers, len(remaining)), CHUNK), 0
    with closing(bar):
        for number, sums in zip(remaining.numbers, results, strict=True):
            journal.add(number, sums)
            bar.update(chunks.size(number))
            decoded += chunks.size(number)  # not bar.n, which stays 0 where no bar is shown
            expected.update(decoded, left - decoded)
    journal.save()
    return journal.sums
