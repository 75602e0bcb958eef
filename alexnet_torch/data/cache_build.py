"""Prepares a data set: finds its decoded images, or decodes them once into a cache or a map of their own."""

import hashlib
import json
import logging
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from alexnet_torch.data.cache import (
    MANIFEST,
    SAMPLES,
    CacheFolder,
    PreparedImages,
    Stale,
    free_bytes,
    locate_cache,
    packed,
    require_readable,
)
from alexnet_torch.data.decode_pass import PROGRESS, State, decode_remaining, open_pass, save_arrays
from alexnet_torch.data.sources.classes import in_one_line, normal
from alexnet_torch.data.sources.recognise import open_source
from alexnet_torch.data.sources.source import Source
from alexnet_torch.data.sources.val_split import ValSplit, contents_of, differ, with_validation
from alexnet_torch.data.workers import available_cores
from alexnet_torch.errors import UserError
from alexnet_torch.files import explain_os_error, sync_folder, write_json, writing

logger = logging.getLogger(__name__)


def prepare(
    root: Path,
    side: int,
    cache: str = "auto",
    skip_bad: bool = False,
    workers: int | None = None,
    val_split: ValSplit | None = None,
) -> PreparedImages:
    """Decodes a data set to squares of a side, unless this was done before; says in a line what was found.

    `cache` as --cache: "none" stores only the statistics. `workers`: processes that decode, by default one a core.
    """
    source = _opened(root, val_split)
    if source.map_side is not None:
        return open_map(source, side)
    target = locate_cache(source, side, cache)
    try:
        with suppress(Stale):  # without a lock, on a disk that this user cannot write
            return _load(target, skip_bad)
        with _locked(target.path):
            try:
                return _load(target, skip_bad)  # another process may have built it meanwhile
            except Stale as reason:
                if target.path.exists():
                    logger.info(f"building {target.path} again: {reason}")
                    shutil.rmtree(target.path)  # its disk space is needed
            build(target, skip_bad, workers)
        return _load(target, skip_bad)
    except OSError as error:
        fix = "--cache DIR or XDG_CACHE_HOME names another folder"
        raise UserError(f"--cache {target.path}: {explain_os_error(error)}; {fix}") from error


def open_map(source: Source, side: int) -> PreparedImages:
    named = f"--data {source.root}"
    if source.map_side != side:
        fix = "prepare the images again with the network's --image-size"
        raise UserError(f"{named}: has squares of {source.map_side} pixels, and {side} are needed; {fix}")
    try:
        return _load(CacheFolder(source.root, source, side), skip_bad=True)
    except Stale as reason:
        raise UserError(f"{named}: {reason}; copy the folder again") from reason


def _load(target: CacheFolder, skip_bad: bool) -> PreparedImages:
    prepared = target.load(skip_bad)
    for line in prepared.notes:
        logger.warning(line)
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
    """Decodes a data set into a folder that is a data set of its own; the same call continues an interrupted pass."""
    source, named = _opened(root, val_split), f"--output {output}"
    if source.map_side is not None:
        raise UserError(f"{root}: is a prepared map already; copy the folder, or use it with --data")
    target = CacheFolder(output, source, side)
    with writing(named), _locked(output):
        if output.exists() and (output.is_file() or any(output.iterdir())):
            try:
                target.load(skip_bad=True)
            except Stale as reason:
                raise UserError(f"{named}: has other content ({reason}); name a new folder") from reason
            logger.info(f"{output}: is complete, nothing to do")
            return
        free, needed = free_bytes(output), sum(target.map_sizes.values()) / 1e9
        images = f"{sum(map(len, source.splits)):,} images of {side}x{side} pixels take {needed:.2f} GB"
        if target.missing_bytes() > free:
            raise UserError(f"{named}: {images} and {free / 1e9:.1f} GB are free; make room or name another disk")
        logger.info(f"{named}: {images} of the {free / 1e9:.1f} GB that are free")
        build(target, skip_bad, workers)
    logger.info(f"{output}: complete; it is a data set without the original images: --data {output}")


def _opened(root: Path, val_split: ValSplit | None) -> Source:
    source = with_validation(open_source(root), val_split)
    for line in (source.describe(), *source.notes):
        logger.warning(line)
    return source


def _locked(folder: Path) -> Any:
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f".{folder.name}.lock"), mode=0o666)  # the others of a group build, too
    try:
        return lock.acquire(blocking=False)
    except Timeout:
        logger.info(f"waiting for another process that is building {folder}")
        return lock.acquire()


def remarkable(source: Source, state: State) -> list[str]:
    """Returns a line about each kind of images that is rarely meant."""
    keys = [key for split in source.splits for key in split.keys]
    labels = np.concatenate([split.labels for split in source.splits])
    digests, checksums, plain = (
        np.concatenate([state[f"{split.name}_{array}"] for split in source.splits])
        for array in ("digests", "checksums", "plain")
    )
    read = digests.any(axis=1)
    content, is_val = contents_of(digests), np.arange(len(keys)) >= len(source.splits[0])
    _, square, counts = np.unique(checksums, return_inverse=True, return_counts=True)
    found = {
        "are in train/ and in val/, byte for byte": differ(content, is_val) & read,
        "are in two classes, byte for byte": differ(content, labels) & read,
        "have only one colour": plain,
        "look the same, decoded": (square == counts.argmax()) & (counts.max() > len(keys) / 2) & read,
    }
    return [
        in_one_line(f"--data {source.root}: {mask.sum():,} of {len(keys):,} images {what}: {keys[mask.argmax()]}, ...")
        for what, mask in found.items()
        if mask.any()
    ]


def build(target: CacheFolder, skip_bad: bool, workers: int | None) -> None:
    """Decodes all images beside the target, then renames."""
    source, partial, state = target.source, target.partial, open_pass(target)
    decode_remaining(target, state, workers or available_cores())
    unreadable = sorted(json.loads(str(state["unreadable"])))
    require_readable(source, unreadable, skip_bad)
    fingerprint = hashlib.sha256(repr((target.side, [normal(name) for name in source.identities])).encode())
    arrays = {"paths": packed(source.files.paths), "states": source.files.states}
    for split in source.splits:
        rows = np.delete(np.arange(len(split)), [row for name, row, _ in unreadable if name == split.name])
        if missing := sorted({*range(len(source.classes))} - {*split.labels[rows].tolist()}):
            folder = f"{split.name}/{source.identities[missing[0]]} of {source.root}"
            raise UserError(f"--skip-bad: no file in {folder} can be read; mend or add some")
        fingerprint.update(f"{split.name} {len(rows)}".encode() + split.labels[rows].astype("<i8").tobytes())
        fingerprint.update(state[f"{split.name}_digests"][rows].tobytes())
        arrays |= {f"{split.name}_keys": packed(split.keys), f"{split.name}_labels": split.labels}
        arrays[f"{split.name}.u8_checksums"] = state[f"{split.name}_checksums"]
    # exact, in any order and after any interruption
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
        "notes": remarkable(source, state),
        "unreadable": unreadable,
        "unreadable files": [source.split(name).keys[row] for name, row, _ in unreadable],
        "skipped": vars(source.skipped),
        "fingerprint": fingerprint.hexdigest(),
    }
    save_arrays(partial / SAMPLES, manifest=json.dumps(manifest), **arrays)
    write_json(partial / MANIFEST, manifest, indent=1)
    partial.rename(target.path)
    sync_folder(target.path.parent)
    (target.path / PROGRESS).unlink()
