"""The pass that decodes a data set once, into a cache or a prepared map; an interrupted pass continues."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from io import BytesIO
from itertools import combinations_with_replacement
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from alexnet_torch.data.cache import (
    MANIFEST,
    SAMPLES,
    CacheFolder,
    PreparedImages,
    Stale,
    Unreadable,
    free_bytes,
    locate_cache,
    packed,
    unreadable_message,
)
from alexnet_torch.data.decode import UnreadableImage, decode_bytes
from alexnet_torch.data.image_map import checksum, load_native
from alexnet_torch.data.sources.classes import normal
from alexnet_torch.data.sources.recognise import open_source
from alexnet_torch.data.sources.source import Source, SourceSplit
from alexnet_torch.data.sources.val_split import ValSplit, with_validation
from alexnet_torch.data.workers import available_cores, map_in_workers
from alexnet_torch.errors import UserError
from alexnet_torch.files import atomic_write, explain_os_error, sync_folder, writing

CHUNK = 64  # images that a worker decodes at a time
IN_FLIGHT = 4  # chunks for each worker, not all: results are 0.8 MB each at 256 pixels
SERIAL_CHUNKS = 16  # so few are done sooner than workers start, which import torch
MEASURED = 1000  # images after which the time that is left is told
SAVE_SECONDS = 5.0  # between two saves of the progress
PROGRESS = "progress.npz"
DIGEST_BYTES = 16  # kept of the SHA-256 of each image file: a chance of 1e-27 that two of a million are equal
logger = logging.getLogger(__name__)


def prepare(
    root: Path,
    side: int,
    cache: str = "auto",
    skip_bad: bool = False,
    workers: int | None = None,
    val_split: ValSplit | None = None,
) -> PreparedImages:
    """Decodes a data set's images, unless this was done before; says in a line what was found.

    Args:
        root: a folder with train/ and val/ in ImageFolder's layout, or another form: see `open_source`.
        side: side of the decoded squares, in pixels.
        cache: a folder for the decoded images; "auto": the user's cache folder if they fit in half of its free
            disk space, else as "none"; or "none": store only the statistics, decode again in each epoch.
        skip_bad: leave unreadable files out.
        workers: processes that decode; one for each core by default.
        val_split: how to choose validation images among the training images, where there are none.

    Raises:
        UserError: something is missing or wrong in the data set, files cannot be read, or the disk is too small.
    """
    source = _opened(root, val_split)
    if source.map_side is not None:
        return open_map(source, side)
    target = locate_cache(source, side, cache)
    try:
        try:  # a complete folder is only read: it may be on a disk that this user cannot write
            return _load(target, skip_bad)
        except Stale:
            pass
        with _locked(target.path):
            try:
                return _load(target, skip_bad)  # another process may have built it meanwhile
            except Stale as reason:
                if target.path.exists():
                    logger.info(f"building {target.path} again: {reason}")
                    shutil.rmtree(target.path)  # its disk space is needed
            build(target, skip_bad, workers or available_cores())
        return _load(target, skip_bad)
    except OSError as error:
        named = "" if cache not in ("auto", "none") else "; --cache DIR or XDG_CACHE_HOME names another folder"
        raise UserError(f"--cache {target.path}: {explain_os_error(error)}{named}") from error


def open_map(source: Source, side: int) -> PreparedImages:
    """Opens a source that is a prepared map itself; what was left out of it stays out."""
    if source.map_side != side:
        raise UserError(
            f"--data {source.root}: has squares of {source.map_side} pixels, and {side} are needed; "
            "prepare the images again with the network's --image-size"
        )
    try:
        return _load(CacheFolder(source.root, source, side), skip_bad=True)
    except Stale as reason:
        raise UserError(f"--data {source.root}: {reason}; copy the folder again") from reason


def _load(target: CacheFolder, skip_bad: bool) -> PreparedImages:
    prepared = target.load(skip_bad)
    if prepared.skipped:
        logger.warning(f"{len(prepared.skipped)} unreadable file(s) left out; {target.path / MANIFEST} lists them")
    return prepared


def prepare_ahead(
    root: Path,
    output: Path,
    side: int,
    skip_bad: bool = False,
    val_split: ValSplit | None = None,
    workers: int | None = None,
) -> None:
    """Decodes a data set into a folder that is a data set of its own; says first which disk space it takes.

    An interrupted pass is continued by the same call. A folder that is complete is left as it is.

    Args:
        output: the folder, which appears when it is complete.
        root, side, skip_bad, val_split, workers: as for `prepare`.

    Raises:
        UserError: as for `prepare`, or the output is another folder with content.
    """
    source, named = _opened(root, val_split), f"--output {output}"
    if source.map_side is not None:
        raise UserError(f"{root}: is a prepared map already; copy the folder, or use it with --data")
    target = CacheFolder(output, source, side)
    with writing(named), _locked(output):
        if output.exists() and not output.is_dir():
            raise UserError(f"{named}: is a file; name a folder")
        if output.exists() and any(output.iterdir()):
            if not (output / MANIFEST).exists():
                raise UserError(f"{named}: has other files; name a new folder")
            try:
                target.load(skip_bad=True)
            except Stale as reason:
                raise UserError(f"{named}: has another map ({reason}); name a new folder") from reason
            logger.info(f"{output}: is complete, nothing to do")
            return
        free, needed = free_bytes(output), sum(target.map_sizes.values()) / 1e9
        images = f"{sum(map(len, source.splits)):,} images of {side}x{side} pixels take {needed:.2f} GB"
        if target.missing_bytes() > free:
            raise UserError(f"{named}: {images} and {free / 1e9:.1f} GB are free; make room or name another disk")
        logger.info(f"{named}: {images} of the {free / 1e9:.1f} GB that are free")
        build(target, skip_bad, workers or available_cores())
    logger.info(f"{output}: complete; it is a data set without the original images: --data {output}")


def _opened(root: Path, val_split: ValSplit | None) -> Source:
    source = with_validation(open_source(root), val_split)
    for line in (source.describe(), *source.notes):
        logger.warning(line)
    return source


def _locked(folder: Path) -> Any:
    """Returns the lock beside a folder, held until its `with` block ends, so that only one process builds it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f".{folder.name}.lock"), mode=0o666)  # the others of a group build, too
    try:
        return lock.acquire(blocking=False)
    except Timeout:
        logger.info(f"waiting for another process that is building {folder}")
        return lock.acquire()


def build(target: CacheFolder, skip_bad: bool, workers: int) -> None:
    """Decodes all images beside the target, then renames: it is never incomplete. The caller holds its lock.

    Raises:
        UserError: images cannot be read, and `skip_bad` is false or a class has no others.
        OSError: the folder cannot be written.
    """
    state = open_partial(target)
    _decode_remaining(target, state, workers)
    complete(target, state, skip_bad)


def complete(target: CacheFolder, state: dict[str, Any], skip_bad: bool) -> None:
    """Writes what belongs beside the maps of a pass that is done, and renames its folder; errors as for `build`."""
    source, partial = target.source, target.partial
    unreadable: list[Unreadable] = sorted(tuple(each) for each in json.loads(str(state["unreadable"])))
    if unreadable and not skip_bad:
        raise UserError(unreadable_message(source, unreadable))
    fingerprint = hashlib.sha256(repr((target.side, [normal(name) for name in source.identities])).encode())
    arrays: dict[str, Any] = {"paths": packed(source.files.paths)}
    arrays["states"] = np.stack([source.files.sizes, source.files.times], axis=1)
    for split in source.splits:
        bad = [(row, reason) for name, row, reason in unreadable if name == split.name]
        rows = np.delete(np.arange(len(split)), [row for row, _ in bad])
        counts = np.bincount(split.labels[rows], minlength=len(source.classes))
        for row, reason in bad:
            if not counts[split.labels[row]]:
                raise UserError(
                    f"--skip-bad: no file in {split.name}/{source.identities[split.labels[row]]} of {source.root} can "
                    f"be read; the first is {split.reader.location(row)}: {reason}; fix them"
                )
        fingerprint.update(f"{split.name} {len(rows)}".encode() + split.labels[rows].astype("<i8").tobytes())
        fingerprint.update(state[f"{split.name}_digests"][rows].tobytes())
        arrays |= {f"{split.name}_keys": packed(split.keys), f"{split.name}_labels": split.labels}
        arrays[f"{split.name}.u8_checksums"] = state[f"{split.name}_checksums"]
    # exact sums: equal in any order, and after any interruption
    count = state["images"] * target.side**2
    mean = state["pixels"].sum((0, 1)) / count
    arrays["mean"] = (state["pixels"] / state["images"]).astype(np.float32)  # (side, side, 3)
    arrays["covariance"] = state["products"] / count - np.outer(mean, mean)  # (3, 3), of the pixels' RGB
    manifest = {
        "facts": target.facts(),
        "root": str(source.root.resolve()),
        "form": source.form,
        "names": [each.name for each in source.classes],
        "images": {split.name: len(split) for split in source.splits},
        "unreadable": unreadable,
        "unreadable files": [source.split(name).keys[row] for name, row, _ in unreadable],
        "skipped": vars(source.skipped),
        "fingerprint": fingerprint.hexdigest(),
    }
    _save(partial / SAMPLES, manifest=json.dumps(manifest), **arrays)
    atomic_write(partial / MANIFEST, lambda file: file.write(json.dumps(manifest, indent=1).encode()))
    partial.rename(target.path)
    sync_folder(target.path.parent)
    (target.path / PROGRESS).unlink()


def _save(path: Path, **arrays: Any) -> None:
    content = BytesIO()
    np.savez(content, **arrays)
    atomic_write(path, lambda file: file.write(content.getbuffer()))


def open_partial(target: CacheFolder) -> dict[str, Any]:
    """Returns the progress of a pass: that in its folder, if it is of the same files and settings, or a new one."""
    splits, partial, facts = target.source.splits, target.partial, json.dumps(target.facts())
    maps = {partial / name: size for name, size in target.map_sizes.items()}
    reason = ""
    if partial.exists():
        try:
            state = dict(np.load(partial / PROGRESS))
            if str(state["facts"]) != facts:
                reason = "the files or settings changed since it was interrupted"
            elif all(path.stat().st_size == size for path, size in maps.items()):
                logger.info(f"continuing the interrupted {partial}")
                return state
        except Exception as error:  # of a damaged file, NumPy and zipfile raise almost anything
            reason = f"it is damaged ({error})"
        logger.info(f"starting {partial} again: {reason}")
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    for path, size in maps.items():
        # neither appending nor write-only: where a file system cannot allocate, the C library then refuses
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            os.posix_fallocate(descriptor, 0, size)
        finally:
            os.close(descriptor)
    state = {"facts": np.array(facts), "unreadable": np.array("[]"), "images": np.array(0)}
    state["done"] = np.zeros(sum(-(-len(split) // CHUNK) for split in splits), bool)
    state |= {"pixels": np.zeros((target.side, target.side, 3), np.int64), "products": np.zeros((3, 3), np.int64)}
    for split in splits:
        state[f"{split.name}_digests"] = np.zeros((len(split), DIGEST_BYTES), np.uint8)
        state[f"{split.name}_checksums"] = np.zeros(len(split), np.uint64)
    _save(partial / PROGRESS, **state)
    return state


@dataclass(frozen=True)
class Chunk:
    """Samples of one split that a worker decodes together."""

    number: int
    samples: SourceSplit
    rows: np.ndarray  # (n,) int64, of the samples in their split
    side: int
    map_file: Path | None  # None: only the sums are computed


@dataclass
class Decoded:
    """What a worker returns of a chunk, besides the pixels in the map; zeros for unreadable samples."""

    number: int
    split: str
    rows: np.ndarray  # (n,) int64, of the samples
    digests: np.ndarray  # (n, DIGEST_BYTES) uint8, of the image files
    checksums: np.ndarray  # (n,) uint64, of the squares
    pixels: np.ndarray  # (side, side, 3) uint32, which takes half the time of int64: the sum of the training images
    products: np.ndarray  # (3, 3) int64, the sums of the channels' products over their pixels
    images: int = 0  # in these sums
    unreadable: list[Unreadable] = field(default_factory=list)


def decode_chunk(chunk: Chunk) -> Decoded:
    """Decodes a chunk's samples, and writes their pixels into the map."""
    n, side, samples = len(chunk.rows), chunk.side, chunk.samples
    digests, checksums = np.zeros((n, DIGEST_BYTES), np.uint8), np.zeros(n, np.uint64)
    pixels, products = np.zeros((side, side, 3), np.uint32), np.zeros((3, 3), np.int64)
    done = Decoded(chunk.number, samples.name, chunk.rows, digests, checksums, pixels, products)
    with chunk.map_file.open("r+b", buffering=0) if chunk.map_file else nullcontext() as file:
        for index, row in enumerate(chunk.rows.tolist()):
            try:
                content = samples.read(index)
                image = decode_bytes(content, side, samples.reader.location(index))  # (side, side, 3)
            except UnreadableImage as error:
                done.unreadable.append((samples.name, row, error.reason))
                continue
            digests[index] = np.frombuffer(hashlib.sha256(content).digest()[:DIGEST_BYTES], np.uint8)
            if file:
                checksums[index] = checksum(image)
                os.pwrite(file.fileno(), image.data, row * image.nbytes)
            if samples.name == "train":
                pixels += image
                done.images += 1
                # torch's products: NumPy's start threads of their own in each worker, whose waiting costs up to 50 ms
                planes = torch.from_numpy(np.ascontiguousarray(image.reshape(-1, 3).T, np.float64))  # (3, side * side)
                # a product of such thin matrices takes far longer; sums stay below 2^53, and so exact
                for a, b in combinations_with_replacement(range(3), 2):
                    products[a, b] = products[b, a] = products[a, b] + int(planes[a].dot(planes[b]))
    return done


def chunks(target: CacheFolder, done: np.ndarray) -> Iterator[Chunk]:
    """Yields the chunks that are not done, (all chunks) bool."""
    number = 0
    for split in target.source.splits:
        order = split.reader.storage_order()
        map_file = target.partial / f"{split.name}.u8" if target.has_maps else None
        for first in range(0, len(split), CHUNK):
            if not done[number]:
                rows = np.arange(first, min(first + CHUNK, len(split)))
                rows = rows if order is None else order[rows]
                yield Chunk(number, split.take(rows), rows, target.side, map_file)
            number += 1


def _decode_remaining(target: CacheFolder, state: dict[str, Any], workers: int) -> None:
    """Decodes the chunks that are not done; says once how long it will take, from the rate of a thousand images."""
    load_native()  # here, and not in each worker
    done, tasks = state["done"], chunks(target, state["done"].copy())
    sizes = np.concatenate([np.diff([*range(0, len(split), CHUNK), len(split)]) for split in target.source.splits])
    total, left = int(sizes.sum()), int(sizes[~done].sum())
    waiting = int(np.count_nonzero(~done))
    workers = 1 if waiting <= SERIAL_CHUNKS else min(workers, waiting)
    in_workers = map_in_workers(decode_chunk, tasks, workers, IN_FLIGHT * workers)
    bar = tqdm(total=total, initial=total - left, unit="image", desc="decoding", disable=None, dynamic_ncols=True)
    # the clock starts when each worker has decoded a chunk, so that their start is not measured
    decoded, started, saved_at = 0, 0.0, monotonic()
    first = workers * CHUNK
    last = first + max(MEASURED, 2 * first)
    with bar:
        for each in map(decode_chunk, tasks) if workers == 1 else in_workers:
            record(state, each)
            bar.update(len(each.rows))
            decoded, now = decoded + len(each.rows), monotonic()
            if decoded - len(each.rows) < first <= decoded:
                started, first = now, decoded
            elif decoded - len(each.rows) < last <= decoded:
                rate = (decoded - first) / max(now - started, 1e-9)
                remaining = tqdm.format_interval((left - decoded) / rate)
                processes = "1 process" if workers == 1 else f"{workers} processes"
                logger.info(f"{rate:,.0f} images/s in {processes}: about {remaining} to go")
            if now - saved_at > SAVE_SECONDS:
                _save_progress(target.partial, state)
                saved_at = now
    _save_progress(target.partial, state)


def record(state: dict[str, Any], each: Decoded) -> None:
    """Adds a chunk to the progress."""
    state["done"][each.number] = True
    for name in ("digests", "checksums"):
        state[f"{each.split}_{name}"][each.rows] = getattr(each, name)
    for name in ("pixels", "products", "images"):
        state[name] = state[name] + getattr(each, name)
    if each.unreadable:
        state["unreadable"] = np.array(json.dumps(json.loads(str(state["unreadable"])) + each.unreadable))


def _save_progress(partial: Path, state: dict[str, Any]) -> None:
    """Saves what is done, after its pixels."""
    for path in partial.glob("*.u8"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    _save(partial / PROGRESS, **state)
