"""Sums over training pixels, for the mean image and the colour covariance."""

from dataclasses import dataclass, field
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import torch


@dataclass
class PixelSums:
    """Exact integer sums over training pixels: equal in any order, and after any interruption."""

    pixels: np.ndarray  # (side, side, 3) int64 or uint32, the sum of the images
    products: np.ndarray  # (3, 3) int64, the sums of the channels' products over all pixels
    images: int = 0
    bad: list[tuple[str, int, str]] = field(default_factory=list)  # (split, row, reason) of each unreadable file

    @classmethod
    def zeros(cls, side: int, dtype: type[np.integer[Any]] = np.int64) -> "PixelSums":
        """Returns the sums of no images; uint32 is enough for a chunk, and takes half the time to add and to send."""
        return cls(np.zeros((side, side, 3), dtype), np.zeros((3, 3), np.int64))

    def add_image(self, image: np.ndarray) -> None:
        """Adds an image (side, side, 3) uint8."""
        self.pixels += image
        # torch's products, because NumPy's start threads of their own in each worker, whose waiting costs up to 50 ms
        planes = torch.from_numpy(np.ascontiguousarray(image.reshape(-1, 3).T, np.float64))  # (3, side * side)
        for a, b in combinations_with_replacement(range(3), 2):  # a product of such thin matrices takes far longer
            # sums stay below 2^53, and so exact
            self.products[a, b] = self.products[b, a] = self.products[a, b] + int(planes[a].dot(planes[b]))
        self.images += 1

    def add(self, other: "PixelSums") -> None:
        """Adds the sums of other images."""
        self.pixels += other.pixels
        self.products += other.products
        self.images += other.images
        self.bad += other.bad

    def mean(self) -> np.ndarray:
        """Returns the mean image, (side, side, 3) float32, 0..255."""
        return (self.pixels / self.images).astype(np.float32)

    def covariance(self) -> np.ndarray:
        """Returns the covariance of the pixels' RGB, (3, 3) float64."""
        count = self.images * self.pixels.shape[0] ** 2
        mean = self.pixels.sum((0, 1)) / count
        covariance: np.ndarray = self.products / count - np.outer(mean, mean)
        return covariance
