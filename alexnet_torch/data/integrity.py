"""Notices damage in a prepared folder: digests of its small files, and checksums of the images in its maps."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

DAMAGED = "damaged.txt"
"""The file by which a process that met damage tells the next start to build the folder again."""

CHECKSUM_BYTES = 8
_CHECKS, _SEAL = "sha256", "manifest_sha256"  # keys of the manifest


def checksums_name(split_name: str) -> str:
    """Returns the name of the file of a split's checksums, (samples,) uint64: see checksums.py."""
    return f"{split_name}.sums"


def read_checksums(folder: Path, split_name: str) -> np.ndarray | None:
    """Returns the checksums of the images in a split's map, (samples,) uint64; None in older folders."""
    path = folder / checksums_name(split_name)
    return np.fromfile(path, "<u8").astype(np.uint64) if path.exists() else None


def sealed(manifest: Mapping[str, Any], folder: Path, names: Iterable[str]) -> dict[str, Any]:
    """Returns a manifest with the digests of some files in its folder, and of itself."""
    checked = {**manifest, _CHECKS: {name: _sha256(folder / name) for name in names}}
    return {**checked, _SEAL: _text_sha256(checked)}


def damage(folder: Path, manifest: Mapping[str, Any]) -> str | None:
    """Returns what is damaged in a prepared folder besides its maps; None if nothing is, or it is too old to tell.

    Raises:
        OSError: a file is missing.
    """
    if (folder / DAMAGED).exists():
        return (folder / DAMAGED).read_text(errors="replace").strip()
    if _SEAL not in manifest:
        return None
    if manifest[_SEAL] != _text_sha256({key: value for key, value in manifest.items() if key != _SEAL}):
        return "its manifest has a wrong checksum"
    for name, sha256 in manifest[_CHECKS].items():
        if _sha256(folder / name) != sha256:
            return f"{name} has a wrong checksum"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _text_sha256(manifest: Mapping[str, Any]) -> str:
    # as it is read again: tuples become lists
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
