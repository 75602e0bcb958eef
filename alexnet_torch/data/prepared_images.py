"""The images of a prepared folder: what training and evaluation read."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Samples:
    """One split's readable images.

    Attributes:
        images: (rows, side, side, 3) uint8 memory map; None when they are decoded as they are needed.
        rows: (n,) int64, each sample's row in the map.
        labels: (n,) int64.
        paths: relative to the folder.
    """

    images: np.ndarray | None
    rows: np.ndarray
    labels: np.ndarray
    paths: tuple[str, ...]


@dataclass(frozen=True)
class PreparedImages:
    """A folder of images, ready to train on.

    Attributes:
        side: of the decoded square images, in pixels.
        mean: (side, side, 3) float32 mean of the training images, 0..255.
        covariance: (3, 3) float64 of the training pixels' RGB.
        skipped: unreadable files that were left out, relative to the folder.
        fingerprint: of the classes, files and sizes: equal for the same data set.
    """

    root: Path
    classes: tuple[str, ...]
    side: int
    mean: np.ndarray
    covariance: np.ndarray
    train: Samples
    val: Samples
    skipped: tuple[str, ...]
    fingerprint: str
