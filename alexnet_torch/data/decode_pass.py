"""The pass over all images of a data set that fills a folder's memory maps; an interrupted one continues."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import combinations_with_replacement, tee
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from alexnet_torch.data.cache import CacheFolder
from alexnet_torch.data.decode import UnreadableImage, decode_bytes
from alexnet_torch.data.image_map import checksum, load_native
from alexnet_torch.data.sources.source import SourceSplit
from alexnet_torch.data.sources.val_split import DIGEST_BYTES
from alexnet_torch.data.workers import map_in_workers
from alexnet_torch.files import atomic_file

CHUNK = 64  # images that a worker decodes at a time
IN_FLIGHT = 4  # chunks for each worker, of 0.8 MB at 256 pixels
SERIAL_CHUNKS = 16  # are done sooner than workers start
MEASURED = 1000  # images after which the time that is left is told
SAVE_SECONDS = 5.0  # between two saves of the progress
PROGRESS = "progress.npz"
logger = logging.getLogger(__name__)

State = dict[str, Any]  # the arrays of a pass, in its progress file: what is done, digests, checksums and sums


def open_pass(target: CacheFolder) -> State:
    """Returns the state of a folder's pass if it is of the same files and settings, or a new one."""
    partial, facts = target.partial, json.dumps(target.facts())
    maps, reason = {partial / name: size for name, size in target.map_sizes.items()}, ""
    if partial.exists():
        try:
            state = dict(np.load(partial / PROGRESS))
            if str(state["facts"]) != facts:
                reason = "the files or settings changed since it was interrupted"
            elif all(path.stat().st_size == size for path, size in maps.items()):
                logger.info(f"continuing the interrupted {partial}")
                return state
        except Exception as error:  # damaged files raise almost anything
            reason = f"it is damaged ({error})"
        logger.info(f"starting {partial} again: {reason}")
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    for path, size in maps.items():
        # not write-only: the C library refuses that where a file system cannot allocate
        with path.open("x+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    state = {"facts": np.array(facts), "unreadable": np.array("[]"), "images": np.array(0)}
    state |= {"pixels": np.zeros((target.side, target.side, 3), np.int64), "products": np.zeros((3, 3), np.int64)}
    for split in target.source.splits:
        state[f"{split.name}_digests"] = np.zeros((len(split), DIGEST_BYTES), np.uint8)
        state[f"{split.name}_checksums"] = np.zeros(len(split), np.uint64)
        state[f"{split.name}_plain"] = np.zeros(len(split), bool)
    state["done"] = np.zeros(sum(-(-len(split) // CHUNK) for split in target.source.splits), bool)
    save_arrays(partial / PROGRESS, **state)
    return state


def save_arrays(path: Path, **arrays: Any) -> None:
    with atomic_file(path) as file:
        np.savez(file, **arrays)


@dataclass(frozen=True)
class Chunk:
    """Samples of one split that a worker decodes together."""

    number: int
    samples: SourceSplit
    rows: np.ndarray  # (n,) int64, of the samples in their split
    side: int
    map_file: Path | None  # None: only the sums are computed


def decode_chunk(chunk: Chunk) -> State:
    """Decodes a chunk into the map; returns what it adds to the state."""
    n, side, samples = len(chunk.rows), chunk.side, chunk.samples
    digests, checksums = np.zeros((n, DIGEST_BYTES), np.uint8), np.zeros(n, np.uint64)  # zeros if it cannot be read
    plain = np.zeros(n, bool)  # of one colour
    # sums over training images; uint32 takes half the time of int64
    pixels, products, images = np.zeros((side, side, 3), np.uint32), np.zeros((3, 3), np.int64), 0
    unreadable = []
    with chunk.map_file.open("r+b", buffering=0) if chunk.map_file else nullcontext() as file:
        for index, row in enumerate(chunk.rows.tolist()):
            try:
                content = samples.read(index)
                image = decode_bytes(content, side, samples.reader.location(index))  # (side, side, 3)
            except UnreadableImage as error:
                unreadable.append((samples.name, row, error.reason))
                continue
            digests[index] = np.frombuffer(hashlib.sha256(content).digest()[:DIGEST_BYTES], np.uint8)
            checksums[index] = checksum(image)
            plain[index] = (image[0] == image[0, 0]).all() and (image == image[0, 0]).all()
            if file:
                os.pwrite(file.fileno(), image.data, row * image.nbytes)
            if samples.name == "train":
                pixels += image
                images += 1
                # by torch: NumPy's products start threads in each worker, whose waiting costs up to 50 ms
                planes = torch.from_numpy(np.ascontiguousarray(image.reshape(-1, 3).T, np.float64))  # (3, side * side)
                # faster than a product of such thin matrices; exact, below 2^53
                for a, b in combinations_with_replacement(range(3), 2):
                    products[a, b] = products[b, a] = products[a, b] + int(planes[a].dot(planes[b]))
    sums = {"pixels": pixels, "products": products, "images": images}
    return {"digests": digests, "checksums": checksums, "plain": plain, "unreadable": unreadable, **sums}


def remaining_chunks(target: CacheFolder, done: np.ndarray) -> Iterator[Chunk]:
    number = 0
    for split in target.source.splits:
        order = split.reader.storage_order()
        map_file = target.partial / f"{split.name}.u8" if target.has_maps else None
        for first in range(0, len(split), CHUNK):
            if not done[number]:
                rows = order[first : first + CHUNK]
                yield Chunk(number, split.take(rows), rows, target.side, map_file)
            number += 1


def decode_remaining(target: CacheFolder, state: State, workers: int) -> None:
    """Decodes what is not done; tells once how long it will take."""
    load_native()  # here, and not in each worker
    waiting = np.flatnonzero(~state["done"])
    workers = 1 if len(waiting) <= SERIAL_CHUNKS else min(workers, len(waiting))
    tasks, chunks = tee(remaining_chunks(target, state["done"].copy()))
    in_workers = map_in_workers(decode_chunk, tasks, workers, IN_FLIGHT * workers)
    results = map(decode_chunk, tasks) if workers == 1 else in_workers
    sizes = np.concatenate([np.diff([*range(0, len(split), CHUNK), len(split)]) for split in target.source.splits])
    total, left, decoded = int(sizes.sum()), int(sizes[waiting].sum()), 0
    first, started, saved_at = 0, 0.0, monotonic()
    last = max(MEASURED, 2 * workers * CHUNK)
    bar = tqdm(total=total, initial=total - left, unit="image", desc="decoding", disable=None, dynamic_ncols=True)
    with bar:
        for done, chunk in zip(results, chunks, strict=True):
            state["done"][chunk.number] = True
            for name in ("digests", "checksums", "plain"):
                state[f"{chunk.samples.name}_{name}"][chunk.rows] = done[name]
            for name in ("pixels", "products", "images"):
                state[name] = state[name] + done[name]
            if done["unreadable"]:
                state["unreadable"] = np.array(json.dumps(json.loads(str(state["unreadable"])) + done["unreadable"]))
            bar.update(len(chunk.rows))
            decoded, now = decoded + len(chunk.rows), monotonic()
            if not first:  # the start of the workers is not measured
                first, started = decoded, now
            elif last and decoded - first >= last:
                rate, last = (decoded - first) / max(now - started, 1e-9), 0
                processes = "1 process" if workers == 1 else f"{workers} processes"
                time_left = tqdm.format_interval((left - decoded) / rate)
                logger.info(f"{rate:,.0f} images/s in {processes}: about {time_left} to go")
            if now - saved_at > SAVE_SECONDS:
                save_progress(target.partial, state)
                saved_at = now
    save_progress(target.partial, state)


def save_progress(partial: Path, state: State) -> None:
    for path in partial.glob("*.u8"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    save_arrays(partial / PROGRESS, **state)
