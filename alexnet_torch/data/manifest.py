"""Records what a prepared folder was made from, and finds out whether it still matches the source."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_torch.data import decode
from alexnet_torch.data.cache_location import CacheFolder
from alexnet_torch.data.fingerprint import DIGEST_BYTES, Fingerprint, content_fingerprint, files_fingerprint
from alexnet_torch.data.integrity import checksums_name, damage, sealed
from alexnet_torch.data.sources.source import Source, SourceFiles, SourceSplit
from alexnet_torch.files import atomic_write

FORMAT = 4
BEFORE_CONTENT = 2
"""The format without digests of the images' content, which is still taken."""
MANIFEST, LISTING, MEAN, COVARIANCE = "manifest.json", "files.txt", "mean.npy", "covariance.npy"
SAMPLES = "samples.npz"


def digest_name(split: SourceSplit) -> str:
    """Returns the name of the file of a split's digests, (samples, DIGEST_BYTES) uint8."""
    return f"{split.name}.digests"


def listing_text(files: SourceFiles) -> str:
    """Returns a line for each file: size, time of change, path as JSON (names may contain line ends and any bytes)."""
    lines = zip(files.sizes.tolist(), files.times.tolist(), files.paths, strict=True)
    return "\n".join(f"{size}\t{time}\t{json.dumps(path)}" for size, time, path in lines)


def build_digest(cache: CacheFolder) -> str:
    """Returns a digest of the files and settings: an interrupted build continues only with the same ones."""
    text = f"{FORMAT} {decode.VERSION} {cache.side} {cache.has_maps} {cache.source.identities}{cache.source.variant}"
    return hashlib.sha256(f"{text}\n{cache.source.files.digest()}".encode()).hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Returns the manifest of a prepared folder; raises OSError or ValueError if it is missing or damaged."""
    manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    return manifest


def stale_reason(cache: CacheFolder) -> str | None:
    """Returns why a prepared folder cannot be used; None if it can."""
    try:
        manifest = read_manifest(cache.path)
        if found := damage(cache.path, manifest):
            return f"it is damaged ({found})"
        np.load(cache.path / MEAN, mmap_mode="r")
        np.load(cache.path / COVARIANCE, mmap_mode="r")
        if manifest["format"] not in (FORMAT, BEFORE_CONTENT) or manifest["decode"] != decode.VERSION:
            return "it was made by another version"
        if difference := _difference(cache, manifest):
            return difference
    except (OSError, EOFError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        return f"it is damaged ({error})"
    if manifest.get("variant", cache.source.variant) != cache.source.variant:
        return "its images were divided differently"
    if manifest["classes"] != list(cache.source.identities):
        return "its classes differ"
    for split in cache.source.splits:
        if cache.has_maps and not cache.has_map(split):
            return f"it is damaged ({split.map_name} has the wrong size)"
    return None


def _difference(cache: CacheFolder, manifest: Mapping[str, Any]) -> str | None:
    """Counts the files by which the source differs from what was prepared, and names one; None if it is the same."""
    if manifest.get("listing") == cache.source.files.digest():
        return None
    before, now = (cache.path / LISTING).read_text(), listing_text(cache.source.files)
    if before == now:
        return None
    old, new = (set(text.split("\n")) for text in (before, now))
    old_paths, new_paths = ({line.split("\t", 2)[2] for line in lines} for lines in (old - new, new - old))
    changed, added, removed = old_paths & new_paths, new_paths - old_paths, old_paths - new_paths
    example = json.loads(min(changed | added | removed, default='"their order"'))
    return f"{len(added)} files added, {len(removed)} removed, {len(changed)} changed since, such as {example}"


def write_manifest(
    folder: Path, cache: CacheFolder, unreadable: Sequence[tuple[str, str]], rows: list[np.ndarray]
) -> None:
    """Writes the listing, the samples and the manifest of `cache` into the folder being built.

    Args:
        folder: has the digests of all samples.
        cache: what is built.
        unreadable: (key, reason) of each sample that was left out.
        rows: for each split, the others.
    """
    source = cache.source
    digests = [read_digests(folder, split) for split in source.splits]
    manifest = {
        "format": FORMAT,
        "decode": decode.VERSION,
        "root": str(source.root.resolve()),
        "form": source.form,
        "side": cache.side,
        "variant": source.variant,
        "classes": list(source.identities),
        "names": [each.name for each in source.classes],
        "files": {split.name: len(split) for split in source.splits},
        "skipped": unreadable,
        "left_out": {
            reason: {"count": count, "paths": source.skipped.paths[reason]}
            for reason, count in source.skipped.counts.items()
        },
        "listing": source.files.digest(),
        "fingerprint": content_fingerprint(cache.side, source, digests, rows),
        "files_fingerprint": files_fingerprint(cache.side, source, rows),
    }
    atomic_write(folder / LISTING, lambda file: file.write(listing_text(source.files).encode()))
    atomic_write(folder / SAMPLES, lambda file: file.write(_samples(source)))
    checksums = [checksums_name(split.name) for split in source.splits if cache.has_maps]
    text = json.dumps(sealed(manifest, folder, [MEAN, COVARIANCE, SAMPLES, *checksums]), indent=1)
    atomic_write(folder / MANIFEST, lambda file: file.write(text.encode()))


def _samples(source: Source) -> bytes:
    """Returns an npz file of each split's keys and labels: with the map, all that a prepared folder needs."""
    arrays: dict[str, np.ndarray] = {}
    for split in source.splits:
        arrays[f"{split.name}_keys"] = np.frombuffer("\0".join(split.keys).encode("utf-8", "surrogateescape"), np.uint8)
        arrays[f"{split.name}_labels"] = split.labels
    content = BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    return content.getvalue()


def read_digests(folder: Path, split: SourceSplit) -> np.ndarray:
    """Returns the digests of a split's samples, (samples, DIGEST_BYTES) uint8."""
    return np.fromfile(folder / digest_name(split), np.uint8).reshape(len(split), DIGEST_BYTES)


def recorded_fingerprint(cache: CacheFolder, rows: list[np.ndarray]) -> Fingerprint:
    """Returns the fingerprint of a complete prepared folder; `rows` are each split's readable samples."""
    manifest = read_manifest(cache.path)
    if manifest["format"] == BEFORE_CONTENT:
        return Fingerprint(None, files_fingerprint(cache.side, cache.source, rows))
    return Fingerprint(manifest["fingerprint"], manifest["files_fingerprint"])
