"""Records what a prepared folder was made from, and finds out whether it still matches the image files."""

import hashlib
import json
from collections.abc import Sequence, Set
from pathlib import Path

import numpy as np

from alexnet_torch.data import decode
from alexnet_torch.data.cache_location import CacheFolder
from alexnet_torch.data.folder import Folder
from alexnet_torch.files import atomic_write

FORMAT = 2
MANIFEST, LISTING, MEAN, COVARIANCE = "manifest.json", "files.txt", "mean.npy", "covariance.npy"


def list_files(images: Folder) -> str:
    """Returns a line for each file: size, time of change, path as JSON (names may contain line ends and any bytes)."""
    lines = []
    for path in images.train.paths + images.val.paths:
        try:
            status = (images.root / path).stat()
            lines.append(f"{status.st_size}\t{status.st_mtime_ns}\t{json.dumps(path)}")
        except OSError:  # a broken link: decoding reports it with the other unreadable files
            lines.append(f"-1\t0\t{json.dumps(path)}")
    return "\n".join(lines)


def build_digest(cache: CacheFolder) -> str:
    """Returns a digest of the files and settings: an interrupted build continues only with the same ones."""
    text = f"{FORMAT} {decode.VERSION} {cache.side} {cache.has_maps}\n{cache.listing}"
    return hashlib.sha256(text.encode()).hexdigest()


def stale_reason(cache: CacheFolder) -> str | None:
    """Returns why a prepared folder cannot be used; None if it can."""
    try:
        manifest = json.loads((cache.path / MANIFEST).read_text())
        listing = (cache.path / LISTING).read_text()
        np.load(cache.path / MEAN, mmap_mode="r")
        np.load(cache.path / COVARIANCE, mmap_mode="r")
    except (OSError, ValueError) as error:
        return f"it is damaged ({error})"
    if (manifest["format"], manifest["decode"]) != (FORMAT, decode.VERSION):
        return "it was made by another version"
    if listing != cache.listing:
        return _difference(listing, cache.listing)
    if manifest["classes"] != list(cache.images.classes):
        return "its classes differ"
    for split in cache.images.splits:
        if cache.has_maps and not cache.has_map(split):
            return f"it is damaged ({split.map_name} has the wrong size)"
    return None


def _difference(before: str, now: str) -> str:
    """Counts the files by which two listings differ, and names one."""
    old, new = (set(text.split("\n")) for text in (before, now))
    old_paths, new_paths = ({line.split("\t", 2)[2] for line in lines} for lines in (old - new, new - old))
    changed, added, removed = old_paths & new_paths, new_paths - old_paths, old_paths - new_paths
    example = json.loads(min(changed | added | removed, default='"their order"'))
    return f"{len(added)} files added, {len(removed)} removed, {len(changed)} changed since, such as {example}"


def write_manifest(folder: Path, cache: CacheFolder, unreadable: Sequence[tuple[str, str]]) -> None:
    """Writes the listing and the manifest of `cache` into the folder being built; `unreadable` are (path, reason)."""
    manifest = {
        "format": FORMAT,
        "decode": decode.VERSION,
        "root": str(cache.images.root.resolve()),
        "side": cache.side,
        "classes": list(cache.images.classes),
        "files": {split.name: len(split.paths) for split in cache.images.splits},
        "skipped": unreadable,
    }
    atomic_write(folder / LISTING, lambda file: file.write(cache.listing.encode()))
    atomic_write(folder / MANIFEST, lambda file: file.write(json.dumps(manifest, indent=1).encode()))


def fingerprint(cache: CacheFolder, skipped: Set[str]) -> str:
    """Returns a digest of the classes, and of the paths and sizes of all files but the skipped ones."""
    digest = hashlib.sha256(f"{cache.side} {cache.images.classes}".encode())
    paths = cache.images.train.paths + cache.images.val.paths
    for line, path in zip(cache.listing.split("\n"), paths, strict=True):
        if path not in skipped:
            digest.update(f"{line.split()[0]} {path}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
