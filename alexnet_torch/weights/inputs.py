"""Which images a network reads, and how conv1's weights are converted to this package's images.

Networks here read RGB images, 0..255, minus the mean image. A constant factor and the channel order go
into conv1's weights, exactly: a zero of the padding stays zero.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alexnet_torch.data.decode import decoded_side
from alexnet_torch.errors import UserError
from alexnet_torch.files import reading
from alexnet_torch.weights.caffe import read_mean_image


@dataclass(frozen=True)
class InputConvention:
    """The images that a network reads: (x - mean) / std, where x is 0..255."""

    mean: tuple[float, float, float] | None = None  # for red, green and blue; None if each network has its own
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    bgr: bool = False  # whether the channel order is blue, green, red

    def to_ours(self, weight: Tensor) -> Tensor:
        """Converts conv1's weights (filters, 3, height, width) to RGB images, 0..255, minus the mean."""
        rgb = weight.flip(1) if self.bgr else weight
        return (rgb.double() / torch.tensor(self.std, dtype=torch.float64).view(3, 1, 1)).to(weight.dtype)

    def from_ours(self, weight: Tensor) -> Tensor:
        """Inverts `to_ours`."""
        rgb = (weight.double() * torch.tensor(self.std, dtype=torch.float64).view(3, 1, 1)).to(weight.dtype)
        return rgb.flip(1) if self.bgr else rgb


INPUT_CONVENTIONS = {
    "rgb": InputConvention(),
    # the mean over the pixels of Caffe's imagenet_mean.binaryproto, which Caffe's examples subtract too
    "caffe": InputConvention((122.67891434, 116.66876762, 104.00698793), bgr=True),
    # torchvision's: images of 0..1, mean 0.485, 0.456, 0.406 and std 0.229, 0.224, 0.225
    "imagenet": InputConvention((255 * 0.485, 255 * 0.456, 255 * 0.406), (255 * 0.229, 255 * 0.224, 255 * 0.225)),
}


def mean_of_colour(colour: tuple[float, float, float], image_size: int) -> np.ndarray:
    """Returns a mean image of one RGB colour: (S, S, 3) float32, where crops are cut from sides of S."""
    side = decoded_side(image_size)
    return np.full((side, side, 3), colour, np.float32)


def mean_from_option(text: str, image_size: int) -> np.ndarray:
    """Returns the mean image of `--mean`, (S, S, 3) float32 RGB, 0..255, for crops of `image_size`."""
    option = f"--mean {text}"
    if text.endswith((".binaryproto", ".npy")):
        with reading(option, "name another .binaryproto or .npy file"):
            mean = read_mean_image(Path(text)) if text.endswith("o") else np.load(text).astype(np.float32)
        if mean.ndim == 3 and mean.shape[0] == 3:
            mean = np.ascontiguousarray(mean[::-1].transpose(1, 2, 0))
    else:
        try:
            red, green, blue = map(float, text.split(","))
        except ValueError as error:
            raise UserError(f"{option}: must be R,G,B of 0..255, or a .binaryproto or .npy file") from error
        mean = mean_of_colour((red, green, blue), image_size)
    if mean.ndim != 3 or mean.shape[2] != 3 or mean.shape[0] != mean.shape[1]:
        raise UserError(f"{option}: its shape is {mean.shape}; must be (S, S, 3) RGB or (3, S, S) BGR, as Caffe's")
    if not ((mean >= 0) & (mean <= 255)).all():
        raise UserError(f"{option}: has values that are not numbers of 0..255; name another mean")
    if (side := len(mean)) < image_size:
        raise UserError(f"{option}: has {side}x{side} pixels; name one of at least {image_size}x{image_size}")
    return mean
