"""Random crops and mirror images, and the images that the network reads."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from alexnet_torch.kernel_choice import choose_kernel
from alexnet_torch.randomness import random_generator


@dataclass(frozen=True)
class Crops:
    """Each image's crop, in pixels, and whether it is then mirrored."""

    top: np.ndarray  # (n,) int64
    left: np.ndarray  # (n,) int64
    mirrored: np.ndarray  # (n,) bool

    def __getitem__(self, indices: np.ndarray) -> "Crops":
        return Crops(self.top[indices], self.left[indices], self.mirrored[indices])

    def positions(self) -> np.ndarray:
        """Returns (n, 3) int64: top, left, and 1 if mirrored."""
        return np.stack([self.top, self.left, self.mirrored], axis=1, dtype=np.int64)


def random_crops(n: int, side: int, size: int, seed: int, epoch: int, mirror: bool) -> Crops:
    random = random_generator(seed, "crop", epoch)
    top, left = random.integers(0, side - size + 1, (2, n))
    mirrored = random.integers(0, 2, n, dtype=bool) if mirror else np.zeros(n, dtype=bool)
    return Crops(top, left, mirrored)


def centre_slice(side: int, size: int) -> slice:
    """Returns the rows, and columns, of the centre crop, half a pixel to the top left."""
    offset = (side - size) // 2
    return slice(offset, offset + size)


def centre_crops(n: int, side: int, size: int) -> Crops:
    offset = np.full(n, centre_slice(side, size).start, dtype=np.int64)
    return Crops(offset, offset, np.zeros(n, dtype=bool))


def subtract_mean(
    images: Tensor,
    crops: Crops,
    mean: Tensor,
    noise: Tensor | None = None,
    scale: float = 1,
    positions: Tensor | None = None,
) -> Tensor:
    """Returns (image - mean + noise) * scale, (N, 3, H, W) float32, channels_last (paper, section 2).

    Of crops (N, H, W, 3) uint8, the mean image (S, S, 3) on their device, and PCA noise (N, 3) on any; `positions` are
    the crops on the images' device, if they are there already.
    """
    if noise is not None:
        noise = noise.to(mean, non_blocking=True)
    if mean.device.type == "cpu":
        return _subtract_per_image(images, crops, mean, noise, scale).permute(0, 3, 1, 2)
    if positions is None:
        positions = torch.from_numpy(crops.positions()).to(mean.device, non_blocking=True)
    if choose_kernel(images) != "Triton":
        return _subtract_per_batch(images, positions, mean, noise, scale).permute(0, 3, 1, 2)
    from alexnet_torch.data import triton_pixels  # here, because it imports Triton

    return triton_pixels.subtract(images, positions, mean, noise, scale).permute(0, 3, 1, 2)


def _subtract_per_image(images: Tensor, crops: Crops, mean: Tensor, noise: Tensor | None, scale: float) -> Tensor:
    """Returns (N, H, W, 3); one image at a time, which stays in a core's cache."""
    size, side = images.shape[1], len(mean)
    out = torch.empty(images.shape, dtype=mean.dtype)
    mirror_mean = mean.flip(1) if crops.mirrored.any() else mean  # torch has no views with negative strides
    # rows of W * 3 numbers: torch is slow over a last dimension of 3
    image_rows, mean_rows, mirror_rows = (x.flatten(-2) for x in (images, mean, mirror_mean))
    for i, (top, left, mirrored) in enumerate(zip(crops.top, crops.left, crops.mirrored, strict=True)):
        rows, start = (mirror_rows, side - size - left) if mirrored else (mean_rows, left)
        image = out[i].flatten(-2)  # (H, W * 3)
        image.copy_(image_rows[i])  # converting and subtracting in one call takes a fifth longer
        image.sub_(rows[top : top + size, 3 * start : 3 * (start + size)])
        if noise is not None:
            image.add_(noise[i].repeat(size))
        if scale != 1:
            image.mul_(scale)
    return out


def _subtract_per_batch(images: Tensor, positions: Tensor, mean: Tensor, noise: Tensor | None, scale: float) -> Tensor:
    """Returns (N, H, W, 3), in a few launches for any N."""
    size = images.shape[1]
    steps = torch.arange(size, device=mean.device)
    top, left, mirrored = positions.split(1, dim=1)  # (N, 1) each
    y = top + steps  # (N, H)
    x = left + torch.where(mirrored > 0, size - 1 - steps, steps)  # (N, W)
    out = images - mean[y[:, :, None], x[:, None, :]]
    if noise is not None:
        out += noise[:, None, None, :]
    if scale != 1:
        out *= scale
    return out
