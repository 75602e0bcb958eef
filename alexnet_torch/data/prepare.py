"""Prepares a folder of images: decodes it once into memory maps, or computes only its statistics."""

import shutil
import sys
from io import BytesIO
from pathlib import Path

import numpy as np

from alexnet_torch.data.cache_location import Announce, CacheFolder, locate_cache
from alexnet_torch.data.decode_pass import chunks_of, decode_chunks
from alexnet_torch.data.folder import Folder, scan_folder
from alexnet_torch.data.journal import Journal, allocate_map, close_partial, lock_folder, open_partial
from alexnet_torch.data.manifest import COVARIANCE, MEAN, build_digest, list_files, stale_reason, write_manifest
from alexnet_torch.data.pixel_sums import PixelSums
from alexnet_torch.data.prepared_images import PreparedImages, load_prepared, readable_rows, unreadable_message
from alexnet_torch.data.worker_processes import available_cores
from alexnet_torch.errors import UserError
from alexnet_torch.files import atomic_write, sync_folder


def print_to_stderr(text: str) -> None:
    """Prints a line on stderr."""
    print(text, file=sys.stderr, flush=True)


def prepare(
    root: Path,
    side: int,
    cache: str = "auto",
    skip_bad: bool = False,
    workers: int | None = None,
    announce: Announce = print_to_stderr,
) -> PreparedImages:
    """Decodes a folder's images, unless this was done before.

    Args:
        root: a folder in ImageFolder's layout, with train/ and val/.
        side: side of the decoded squares, in pixels.
        cache: a folder for the decoded images; "auto": the user's cache folder if they fit in half of its free
            disk space, else as "none"; or "none": store only the statistics, decode again in each epoch.
        skip_bad: leave unreadable files out.
        workers: processes that decode; one for each core by default.
        announce: called with a line about what is built, where, and why it is built again.

    Raises:
        UserError: the folder's layout is wrong, files cannot be read, or the disk is too small.
    """
    images = scan_folder(root)
    target = locate_cache(images, list_files(images), side, cache, announce)
    try:
        # a complete folder is only read: it may be on a disk that this user cannot write
        if stale_reason(target):
            target.path.parent.mkdir(parents=True, exist_ok=True)
            with lock_folder(target.path, announce):
                reason = stale_reason(target)  # another process may have built it meanwhile
                if reason and target.path.exists():
                    announce(f"building {target.path} again: {reason}")
                    shutil.rmtree(target.path)  # its disk space is needed
                if reason:
                    _build(target, skip_bad, workers or available_cores(), announce)
        return load_prepared(target, skip_bad, announce)
    except OSError as error:
        raise UserError(
            f"--cache: {target.path} cannot be written ({error.strerror or error}); name another folder"
        ) from error


def _build(target: CacheFolder, skip_bad: bool, workers: int, announce: Announce) -> None:
    """Builds in a folder beside the target, then renames it: the target is never incomplete."""
    partial, digest = target.partial, build_digest(target)
    open_partial(partial, digest, announce)
    for split in target.images.splits:
        if target.has_maps:
            allocate_map(partial / split.map_name, target.map_bytes(split))
    chunks = chunks_of(target)
    sums = decode_chunks(chunks, Journal(partial, digest, len(chunks), target.side), workers)
    unreadable = _unreadable_files(target.images, sums, skip_bad)
    _save_array(partial / MEAN, sums.mean())
    _save_array(partial / COVARIANCE, sums.covariance())
    write_manifest(partial, target, unreadable)
    partial.rename(target.path)
    sync_folder(target.path.parent)
    close_partial(target.path)


def _unreadable_files(images: Folder, sums: PixelSums, skip_bad: bool) -> list[tuple[str, str]]:
    """Returns (path, reason) of each unreadable file, in the folder's order.

    Raises:
        UserError: there are some and they must not be skipped, or no file of a class is readable.
    """
    splits = {split.name: split for split in images.splits}
    unreadable = [(splits[name].paths[row], reason) for name, row, reason in sorted(sums.bad)]
    if unreadable and not skip_bad:
        raise UserError(unreadable_message(images.root, unreadable))
    skipped = {path for path, _ in unreadable}
    for split in images.splits:
        counts = np.bincount(split.labels[readable_rows(split, skipped)], minlength=len(images.classes))
        for label in np.flatnonzero(counts == 0):
            folder = f"{split.name}/{images.classes[label]}"
            path, reason = next(bad for bad in unreadable if bad[0].startswith(f"{folder}/"))
            raise UserError(
                f"--skip-bad: no file in {folder} of {images.root} can be read; "
                f"the first is {images.root / path}: {reason}; fix them"
            )
    return unreadable


def _save_array(path: Path, array: np.ndarray) -> None:
    content = BytesIO()
    np.save(content, array)
    atomic_write(path, lambda file: file.write(content.getbuffer()))
