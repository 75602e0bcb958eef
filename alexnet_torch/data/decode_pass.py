"""The one pass over all files: decoded on all cores into memory maps, with the sums over training pixels."""

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from alexnet_torch.data.cache_location import CacheFolder
from alexnet_torch.data.decode import UnreadableImage, decode_file
from alexnet_torch.data.journal import Journal
from alexnet_torch.data.pixel_sums import PixelSums
from alexnet_torch.data.worker_processes import map_in_processes

CHUNK = 64  # images that a worker decodes at a time
IN_FLIGHT = 4  # chunks for each worker, not all: results are 1.5 MB each at 256 pixels


@dataclass(frozen=True)
class Chunk:
    """Consecutive files of one split, and where their pixels go."""

    number: int
    split: str
    first: int  # row of the first file in its split's map
    paths: tuple[Path, ...]
    side: int
    map_file: Path | None  # None: only the sums are computed


def chunks_of(cache: CacheFolder) -> list[Chunk]:
    """Returns the chunks of both splits' files; their pixels go into the maps of the partial folder, if any."""
    chunks: list[Chunk] = []
    root = cache.images.root
    for split in cache.images.splits:
        map_file = cache.partial / split.map_name if cache.has_maps else None
        for first in range(0, len(split.paths), CHUNK):
            paths = tuple(root / path for path in split.paths[first : first + CHUNK])
            chunks.append(Chunk(len(chunks), split.name, first, paths, cache.side, map_file))
    return chunks


def decode_chunk(chunk: Chunk) -> PixelSums:
    """Decodes a chunk's files, writes them into the map, returns their sums."""
    sums = PixelSums.zeros(chunk.side, np.uint32)
    descriptor = os.open(chunk.map_file, os.O_WRONLY) if chunk.map_file else None
    try:
        for row, path in enumerate(chunk.paths, chunk.first):
            try:
                image = decode_file(path, chunk.side)  # (side, side, 3)
            except UnreadableImage as error:
                sums.bad.append((chunk.split, row, error.reason))
                continue
            if descriptor is not None:
                os.pwrite(descriptor, image.data, row * image.nbytes)
            if chunk.split == "train":
                sums.add_image(image)
    finally:
        if descriptor is not None:
            os.close(descriptor)
    return sums


def decode_chunks(chunks: Sequence[Chunk], journal: Journal, workers: int) -> PixelSums:
    """Decodes the chunks that the journal does not have yet; returns the sums over all chunks.

    The chunks' maps must have their full size.
    """
    remaining = [chunk for chunk in chunks if not journal.done[chunk.number]]
    files = sum(len(chunk.paths) for chunk in chunks)
    done = files - sum(len(chunk.paths) for chunk in remaining)
    results = map_in_processes(decode_chunk, remaining, workers, IN_FLIGHT)
    bar = tqdm(total=files, initial=done, unit="image", desc="decoding", disable=None, dynamic_ncols=True)
    with closing(bar):
        for chunk, sums in zip(remaining, results, strict=True):
            journal.add(chunk.number, sums)
            bar.update(len(chunk.paths))
    journal.save()
    return journal.sums
