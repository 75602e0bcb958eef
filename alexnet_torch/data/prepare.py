"""Prepares a data set: decodes its images once into memory maps, or computes only their statistics."""

import logging
import shutil
from io import BytesIO
from pathlib import Path

import numpy as np

from alexnet_torch.data.cache_location import CacheFolder, locate_cache
from alexnet_torch.data.decode_pass import Chunks, decode_chunks
from alexnet_torch.data.fingerprint import DIGEST_BYTES
from alexnet_torch.data.integrity import CHECKSUM_BYTES, checksums_name
from alexnet_torch.data.journal import Journal, allocate_map, close_partial, lock_folder, open_partial
from alexnet_torch.data.manifest import COVARIANCE, MEAN, build_digest, digest_name, stale_reason, write_manifest
from alexnet_torch.data.pixel_sums import PixelSums
from alexnet_torch.data.prepared_images import (
    PreparedImages,
    load_map,
    load_prepared,
    readable_rows,
    unreadable_message,
)
from alexnet_torch.data.sources.recognise import open_source
from alexnet_torch.data.sources.source import Source, SourceSplit
from alexnet_torch.data.sources.val_split import ValSplit, with_validation
from alexnet_torch.data.worker_processes import available_cores
from alexnet_torch.errors import UserError
from alexnet_torch.files import atomic_write, explain_os_error, sync_folder

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
    source = with_validation(open_source(root), val_split)
    for line in (source.describe(), *source.notes):
        logger.warning(line)
    return prepare_source(source, side, cache, skip_bad, workers)


def prepare_source(
    source: Source,
    side: int,
    cache: str = "auto",
    skip_bad: bool = False,
    workers: int | None = None,
) -> PreparedImages:
    """Decodes a source's images, unless this was done before; arguments and errors as for `prepare`."""
    if source.map_side is not None:
        return load_map(source, side)
    target = locate_cache(source, side, cache)
    try:
        # a complete folder is only read: it may be on a disk that this user cannot write
        if stale_reason(target):
            target.path.parent.mkdir(parents=True, exist_ok=True)
            with lock_folder(target.path):
                reason = stale_reason(target)  # another process may have built it meanwhile
                if reason and target.path.exists():
                    logger.info(f"building {target.path} again: {reason}")
                    shutil.rmtree(target.path)  # its disk space is needed
                if reason:
                    build(target, skip_bad, workers or available_cores())
        return load_prepared(target, skip_bad)
    except OSError as error:
        named = "" if cache not in ("auto", "none") else "; --cache DIR or XDG_CACHE_HOME names another folder"
        raise UserError(f"--cache {target.path}: {explain_os_error(error)}{named}") from error


def build(target: CacheFolder, skip_bad: bool, workers: int) -> None:
    """Decodes all images into a prepared folder: beside the target, then renames it, which is never incomplete.

    Args:
        target: what to build; the caller holds its lock.
        skip_bad: leave unreadable images out.
        workers: processes that decode.

    Raises:
        UserError: images cannot be read.
        OSError: the folder cannot be written.
    """
    partial, digest = target.partial, build_digest(target)
    open_partial(partial, digest)
    for split in target.source.splits:
        allocate_map(partial / digest_name(split), len(split) * DIGEST_BYTES)
        if target.has_maps:
            allocate_map(partial / split.map_name, target.map_bytes(split))
            allocate_map(partial / checksums_name(split.name), len(split) * CHECKSUM_BYTES)
    chunks = Chunks(target)
    sums = decode_chunks(chunks, Journal(partial, digest, len(chunks), target.side), workers)
    unreadable, rows = _unreadable_samples(target.source, sums, skip_bad)
    _save_array(partial / MEAN, sums.mean())
    _save_array(partial / COVARIANCE, sums.covariance())
    write_manifest(partial, target, unreadable, rows)
    partial.rename(target.path)
    sync_folder(target.path.parent)
    close_partial(target.path)


def _unreadable_samples(
    source: Source, sums: PixelSums, skip_bad: bool
) -> tuple[list[tuple[str, str]], list[np.ndarray]]:
    """Returns (key, reason) of each unreadable sample, in order; and the rows of the others, for each split.

    Raises:
        UserError: there are some and they must not be skipped, or no sample of a class is readable.
    """
    splits: dict[str, SourceSplit] = {split.name: split for split in source.splits}
    bad = sorted(sums.bad)
    unreadable = [(splits[name].keys[row], reason) for name, row, reason in bad]
    if unreadable and not skip_bad:
        raise UserError(unreadable_message(source, unreadable))
    rows = readable_rows(source, {key for key, _ in unreadable})
    for split, readable in zip(source.splits, rows, strict=True):
        counts = np.bincount(split.labels[readable], minlength=len(source.classes))
        for label in np.flatnonzero((counts == 0) & (np.bincount(split.labels, minlength=len(counts)) > 0)):
            row, reason = next(b[1:] for b in bad if b[0] == split.name and split.labels[b[1]] == label)
            raise UserError(
                f"--skip-bad: no file in {split.name}/{source.identities[label]} of {source.root} can be read; "
                f"the first is {split.reader.location(row)}: {reason}; fix them"
            )
    return unreadable, rows


def _save_array(path: Path, array: np.ndarray) -> None:
    content = BytesIO()
    np.save(content, array)
    atomic_write(path, lambda file: file.write(content.getbuffer()))
