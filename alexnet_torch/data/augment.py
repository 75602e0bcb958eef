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


def copy_crop(image: np.ndarray, top: int, left: int, mirrored: bool, out: Tensor) -> None:
    """Copies one crop of one image.

    Args:
        image: (S, S, 3) uint8.
        top, left: of the crop, before it is mirrored.
        mirrored: left to right.
        out: (size, size, 3) uint8, contiguous, on the CPU.
    """
    size = len(out)
    out.numpy()[...] = image[top : top + size, left : left + size]
    if mirrored:
        # NumPy would copy it backwards byte by byte, in ten times the time
        out.copy_(out.flip(1))


def subtract_mean(
    images: Tensor, crops: Crops, mean: Tensor, shift: Tensor | None = None, scale: float = 1.0
) -> Tensor:
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
    if shift is not None:
        shift = shift.to(mean, non_blocking=True)
    # an image at a time stays in a core's cache; a GPU would wait for each launch
    convert = _image_by_image if mean.device.type == "cpu" else _at_once
    return convert(images, crops, mean, shift, scale).permute(0, 3, 1, 2)


def _image_by_image(images: Tensor, crops: Crops, mean: Tensor, shift: Tensor | None, scale: float) -> Tensor:
    """(N, H, W, 3)."""
    size, side = images.shape[1], len(mean)
    out = torch.empty(images.shape, dtype=mean.dtype)
    turned = mean.flip(1) if crops.mirrored.any() else mean  # torch has no views that run backwards
    # as rows of W * 3 numbers, since torch is slow over a last dimension of 3
    rows, flat, flat_turned = (x.flatten(-2) for x in (images, mean, turned))
    for i, (top, left, mirrored) in enumerate(zip(crops.top, crops.left, crops.mirrored, strict=True)):
        source, start = (flat_turned, side - size - left) if mirrored else (flat, left)
        image = out[i].flatten(-2)  # (H, W * 3)
        image.copy_(rows[i])  # converting and subtracting in one call takes a fifth longer
        image.sub_(source[top : top + size, 3 * start : 3 * (start + size)])
        if shift is not None:
            image.add_(shift[i].repeat(size))
        if scale != 1:
            image.mul_(scale)
    return out


def _at_once(images: Tensor, crops: Crops, mean: Tensor, shift: Tensor | None, scale: float) -> Tensor:
    """(N, H, W, 3), in a few launches whatever N is."""
    size = images.shape[1]
    steps = np.arange(size)
    first = np.where(crops.mirrored, crops.left + size - 1, crops.left)
    y = crops.top[:, None] + steps  # (N, H)
    x = first[:, None] + np.where(crops.mirrored, -1, 1)[:, None] * steps  # (N, W)
    rows, columns = (torch.from_numpy(at).to(mean.device, non_blocking=True) for at in (y, x))
    out = images - mean[rows[:, :, None], columns[:, None, :]]
    if shift is not None:
        out += shift[:, None, None, :]
    if scale != 1:
        out *= scale
    return out
