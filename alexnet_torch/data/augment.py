"""Crops and mirrors, and the float images that the network reads."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from alexnet_torch.randomness import stream


@dataclass(frozen=True)
class Crops:
    """Where each image is cut, and whether it is then mirrored.

    Attributes:
        top, left: (n,) int64, in pixels.
        mirrored: (n,) bool.
    """

    top: np.ndarray
    left: np.ndarray
    mirrored: np.ndarray

    def __getitem__(self, which: np.ndarray) -> "Crops":
        """The crops of some of the images."""
        return Crops(self.top[which], self.left[which], self.mirrored[which])


def random_crops(n: int, side: int, size: int, seed: int, epoch: int, mirror: bool) -> Crops:
    """An epoch's crop and mirror of every sample: a function of (seed, epoch, sample).

    Args:
        n: samples.
        side: of the images, in pixels.
        size: of the crops; each of the (side - size + 1)^2 positions is equally likely.
        seed: of the run.
        epoch: from 0.
        mirror: whether half of the crops, at random, are mirrored.
    """
    random = stream(seed, "crop", epoch)
    top, left = random.integers(0, side - size + 1, (2, n))
    mirrored = random.integers(0, 2, n, dtype=bool) if mirror else np.zeros(n, dtype=bool)
    return Crops(top, left, mirrored)


def centre_crops(n: int, side: int, size: int) -> Crops:
    """The centre crop, not mirrored, of n samples."""
    offset = np.full(n, (side - size) // 2, dtype=np.int64)
    return Crops(offset, offset, np.zeros(n, dtype=bool))


def cut(image: np.ndarray, top: int, left: int, size: int, mirrored: bool) -> np.ndarray:
    """One crop of one image, as a view.

    Args:
        image: (S, S, 3) of any type.
        top, left: of the crop, before it is mirrored.
        size: of the crop.
        mirrored: left to right.

    Returns:
        (size, size, 3).
    """
    crop = image[top : top + size, left : left + size]
    return crop[:, ::-1] if mirrored else crop


def to_float(images: Tensor, crops: Crops, mean: Tensor, shift: Tensor | None = None, scale: float = 1.0) -> Tensor:
    """Subtracts the mean image, cut and mirrored as each image was (paper, section 2); adds colour noise.

    Args:
        images: (N, H, W, 3) uint8: the crops, on any device.
        crops: the N crops that they are.
        mean: (S, S, 3) float32 mean image, 0..255, on the same device.
        shift: (N, 3) colour noise to add to each image's RGB, on any device; see colour.py.
        scale: what the result is multiplied by.

    Returns:
        (N, 3, H, W) float32, channels_last: (image - mean + shift) * scale, from values of 0..255.
    """
    size, side = images.shape[1], mean.shape[0]
    out = torch.empty(images.shape, dtype=mean.dtype, device=mean.device)  # (N, H, W, 3)
    turned = mean.flip(1)  # torch has no views that run backwards
    for i, (top, left, mirrored) in enumerate(zip(crops.top, crops.left, crops.mirrored, strict=True)):
        source, start = (turned, side - size - left) if mirrored else (mean, left)
        torch.sub(images[i], source[top : top + size, start : start + size], out=out[i])
    if shift is not None:
        out += shift.to(out)[:, None, None, :]
    if scale != 1:
        out *= scale
    return out.permute(0, 3, 1, 2)
