"""A folder of images, prepared: decoded once into memory maps, or its statistics alone."""

import hashlib
import json
import shutil
import sys
from concurrent.futures.process import BrokenProcessPool
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_torch.data import decode
from alexnet_torch.data.cache_location import Announce, choose, map_bytes, partial_of, wrong_map
from alexnet_torch.data.decode_pass import CHUNK, Chunk, Sums, allocate, locked, open_partial, run_all
from alexnet_torch.data.folder import Folder, Split, scan_folder
from alexnet_torch.data.prepared_images import PreparedImages, Samples
from alexnet_torch.data.worker_processes import available_cores
from alexnet_torch.errors import UserError
from alexnet_torch.files import atomic_write, sync_folder

FORMAT = 2


def print_to_stderr(text: str) -> None:
    """Announces in a line on stderr."""
    print(text, file=sys.stderr, flush=True)


def prepare(
    root: Path,
    side: int,
    cache: str = "auto",
    skip_bad: bool = False,
    workers: int | None = None,
    announce: Announce = print_to_stderr,
) -> PreparedImages:
    """Decodes a folder's images, or finds that it has been done.

    Args:
        root: in ImageFolder's layout, with train/ and val/.
        side: of the decoded squares, in pixels.
        cache: a folder to keep them in; "auto", the user's cache folder if they fit in half of its free
            disk, else as "none"; or "none": keep the statistics alone, decode again each epoch.
        skip_bad: leave unreadable files out.
        workers: processes that decode; all cores by default.
        announce: told in a line each what is built, where, and why again.

    Raises:
        UserError: the folder's layout is wrong, files cannot be read, or the disk is too small.
    """
    folder = scan_folder(root)
    listing = _listing(folder)
    target, stored = choose(folder, side, cache, announce)
    try:
        # a complete folder is only read: it may lie on a disk that this user cannot write
        if _stale(target, folder, listing, side, stored):
            target.parent.mkdir(parents=True, exist_ok=True)
            with locked(target, announce):
                why = _stale(target, folder, listing, side, stored)
                if why and target.exists():
                    announce(f"building {target} again: {why}")
                    shutil.rmtree(target)  # its disk is needed
                if why:
                    _build(folder, listing, target, side, stored, skip_bad, workers or available_cores(), announce)
        return _load(folder, listing, target, skip_bad, announce)
    except BrokenProcessPool as error:
        raise UserError(
            "--cache: a decoding process was killed, for want of memory perhaps; run again, and it goes on from there"
        ) from error
    except OSError as error:
        raise UserError(
            f"--cache: {target} cannot be written ({error.strerror or error}); name another folder"
        ) from error


def _listing(folder: Folder) -> str:
    """A line for each file: size, time of change, path as JSON, since names hold line ends and stray bytes."""
    lines = []
    for split in (folder.train, folder.val):
        for path in split.paths:
            try:
                status = (folder.root / path).stat()
                lines.append(f"{status.st_size}\t{status.st_mtime_ns}\t{json.dumps(path)}")
            except OSError:  # a link to nowhere: decoding it says so, with the other bad files
                lines.append(f"-1\t0\t{json.dumps(path)}")
    return "\n".join(lines)


def _stale(target: Path, folder: Folder, listing: str, side: int, stored: bool) -> str | None:
    """Why a prepared folder cannot be used; None if it can."""
    try:
        manifest = json.loads((target / "manifest.json").read_text())
        before = (target / "files.txt").read_text()
        np.load(target / "mean.npy", mmap_mode="r")
        np.load(target / "covariance.npy", mmap_mode="r")
    except (OSError, ValueError) as error:
        return f"it is damaged ({error})"
    if (manifest["format"], manifest["decode"]) != (FORMAT, decode.VERSION):
        return "it was made by another version"
    if before != listing:
        old, new = (set(text.split("\n")) for text in (before, listing))
        old_paths, new_paths = ({line.split("\t", 2)[2] for line in lines} for lines in (old - new, new - old))
        changed, added, removed = old_paths & new_paths, new_paths - old_paths, old_paths - new_paths
        example = json.loads(min(changed | added | removed, default='"their order"'))
        return f"{len(added)} files added, {len(removed)} removed, {len(changed)} changed since, such as {example}"
    if manifest["classes"] != list(folder.classes):
        return "its classes differ"
    for split in (folder.train, folder.val):
        if stored and wrong_map(target, split, side):
            return f"it is damaged ({split.name}.u8 has the wrong size)"
    return None


def _build(
    folder: Folder,
    listing: str,
    target: Path,
    side: int,
    stored: bool,
    skip_bad: bool,
    workers: int,
    announce: Announce,
) -> None:
    """Makes the pass in a folder beside the target, then renames that: the target is never half-written."""
    partial = partial_of(target)
    digest = hashlib.sha256(f"{FORMAT} {decode.VERSION} {side} {stored}\n{listing}".encode()).hexdigest()
    open_partial(partial, digest, announce)
    chunks: list[Chunk] = []
    for split in (folder.train, folder.val):
        into = partial / f"{split.name}.u8" if stored else None
        if into is not None:
            allocate(into, map_bytes(split, side))
        for first in range(0, len(split.paths), CHUNK):
            paths = tuple(folder.root / path for path in split.paths[first : first + CHUNK])
            chunks.append(Chunk(len(chunks), split.name, first, paths, side, into, split.name == "train"))
    sums = run_all(chunks, partial, digest, side, workers)
    bad = _bad_files(folder, sums, skip_bad)
    manifest = {
        "format": FORMAT,
        "decode": decode.VERSION,
        "root": str(folder.root.resolve()),
        "side": side,
        "classes": list(folder.classes),
        "files": {split.name: len(split.paths) for split in (folder.train, folder.val)},
        "skipped": bad,
    }
    _write(partial / "mean.npy", sums.mean())
    _write(partial / "covariance.npy", sums.covariance())
    atomic_write(partial / "files.txt", lambda file: file.write(listing.encode()))
    atomic_write(partial / "manifest.json", lambda file: file.write(json.dumps(manifest, indent=1).encode()))
    partial.rename(target)
    sync_folder(target.parent)
    for name in ("journal.npz", "listing.txt"):  # not before: killed here, a pass would start anew
        (target / name).unlink()


def _bad_files(folder: Folder, sums: Sums, skip_bad: bool) -> list[tuple[str, str]]:
    """(path, reason) of each unreadable file, in the folder's order.

    Raises:
        UserError: there are some and they are not to be skipped, or nothing would be left of a class.
    """
    splits = {split.name: split for split in (folder.train, folder.val)}
    bad = [(splits[name].paths[row], reason) for name, row, reason in sorted(sums.bad)]
    if bad and not skip_bad:
        raise UserError(_bad_message(folder.root, bad))
    skipped = {path for path, _ in bad}
    for split in splits.values():
        left = np.bincount(split.labels[_good(split, skipped)], minlength=len(folder.classes))
        for label in np.flatnonzero(left == 0):
            raise UserError(
                f"--skip-bad: no file in {split.name}/{folder.classes[label]} of {folder.root} can be read; "
                f"the first is {_bad_message(folder.root, bad[:1]).splitlines()[-1].strip()}; mend them"
            )
    return bad


def _bad_message(root: Path, bad: list[Any]) -> str:
    files = "\n".join(f"  {root / path}: {reason}" for path, reason in bad)
    mend = "mend or remove them, or leave them out with --skip-bad"
    return f"--data {root}: {len(bad)} file(s) cannot be read; {mend}:\n{files}"


def _good(split: Split, skipped: set[str]) -> np.ndarray:
    return np.array([i for i, path in enumerate(split.paths) if path not in skipped], dtype=np.int64)


def _write(path: Path, array: np.ndarray) -> None:
    content = BytesIO()
    np.save(content, array)
    atomic_write(path, lambda file: file.write(content.getbuffer()))


def _load(folder: Folder, listing: str, target: Path, skip_bad: bool, announce: Announce) -> PreparedImages:
    manifest = json.loads((target / "manifest.json").read_text())
    side, bad = manifest["side"], manifest["skipped"]
    if bad and not skip_bad:
        raise UserError(_bad_message(folder.root, bad))
    if bad:
        announce(f"{len(bad)} unreadable file(s) left out; {target}/manifest.json lists them")
    skipped = {path for path, _ in bad}
    sets = []
    for split in (folder.train, folder.val):
        rows = _good(split, skipped)
        path = target / f"{split.name}.u8"
        images = np.memmap(path, np.uint8, "r", shape=(len(split.paths), side, side, 3)) if path.exists() else None
        sets.append(Samples(images, rows, split.labels[rows], tuple(split.paths[i] for i in rows)))
    fingerprint = hashlib.sha256(f"{side} {folder.classes}".encode())
    for line, name in zip(listing.split("\n"), folder.train.paths + folder.val.paths, strict=True):
        if name not in skipped:
            fingerprint.update(f"{line.split()[0]} {name}\n".encode("utf-8", "surrogateescape"))
    return PreparedImages(
        folder.root,
        folder.classes,
        side,
        np.load(target / "mean.npy"),
        np.load(target / "covariance.npy"),
        sets[0],
        sets[1],
        tuple(path for path, _ in bad),
        fingerprint.hexdigest(),
    )
