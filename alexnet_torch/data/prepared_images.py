"""The images of a prepared folder, as training and evaluation read them."""

import json
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alexnet_torch.data.cache_location import Announce, CacheFolder
from alexnet_torch.data.folder import Split
from alexnet_torch.data.image_map import ImageMap
from alexnet_torch.data.manifest import COVARIANCE, MANIFEST, MEAN, fingerprint
from alexnet_torch.errors import UserError


@dataclass(frozen=True)
class Samples:
    """The readable images of one split."""

    images: ImageMap | None  # (rows, side, side, 3) uint8; None: decoded when they are needed
    rows: np.ndarray  # (n,) int64, each sample's row in the map
    labels: np.ndarray  # (n,) int64
    paths: tuple[str, ...]  # relative to the folder


@dataclass(frozen=True)
class PreparedImages:
    """A folder of images, ready to train on."""

    root: Path
    classes: tuple[str, ...]
    side: int  # of the decoded squares, in pixels
    mean: np.ndarray  # (side, side, 3) float32, of the training images, 0..255
    covariance: np.ndarray  # (3, 3) float64, of the training pixels' RGB
    train: Samples
    val: Samples
    skipped: tuple[str, ...]  # unreadable files that were left out, relative to the folder
    fingerprint: str  # digest of the classes, files and sizes: equal for the same data set


def load_prepared(cache: CacheFolder, skip_bad: bool, announce: Announce) -> PreparedImages:
    """Opens a complete prepared folder; raises a UserError if files were left out of it, without `skip_bad`."""
    manifest = json.loads((cache.path / MANIFEST).read_text())
    unreadable = [(path, reason) for path, reason in manifest["skipped"]]
    if unreadable and not skip_bad:
        raise UserError(unreadable_message(cache.images.root, unreadable))
    if unreadable:
        announce(f"{len(unreadable)} unreadable file(s) left out; {cache.path / MANIFEST} lists them")
    skipped = {path for path, _ in unreadable}
    samples = []
    for split in cache.images.splits:
        rows, path = readable_rows(split, skipped), cache.path / split.map_name
        images = ImageMap(path, len(split.paths), cache.side) if path.exists() else None
        samples.append(Samples(images, rows, split.labels[rows], tuple(split.paths[row] for row in rows)))
    return PreparedImages(
        cache.images.root,
        cache.images.classes,
        cache.side,
        np.load(cache.path / MEAN),
        np.load(cache.path / COVARIANCE),
        samples[0],
        samples[1],
        tuple(path for path, _ in unreadable),
        fingerprint(cache, skipped),
    )


def readable_rows(split: Split, skipped: Set[str]) -> np.ndarray:
    """Returns the rows of the files that are not skipped, (n,) int64."""
    return np.array([row for row, path in enumerate(split.paths) if path not in skipped], dtype=np.int64)


def unreadable_message(root: Path, unreadable: list[tuple[str, str]]) -> str:
    """Returns the error message that lists unreadable files."""
    files = "\n".join(f"  {root / path}: {reason}" for path, reason in unreadable)
    fix = "fix or remove them, or leave them out with --skip-bad"
    return f"--data {root}: {len(unreadable)} file(s) cannot be read; {fix}:\n{files}"
