"""Which images a network reads: here RGB, 0..255, minus the mean image.

A constant factor and the channel order go into conv1's weights, exactly: a zero of the padding stays zero.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from alexnet_torch.data.decode import decoded_side
from alexnet_torch.errors import UserError
from alexnet_torch.files import reading
from alexnet_torch.weights.caffe import read_mean_image


@dataclass(frozen=True)
class InputConvention:
    """The images that a network reads: (x - mean) / std, where x is 0..255."""

    mean: tuple[float, float, float] | None = None  # RGB; None if each network has its own
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    bgr: bool = False  # the order of the channels

    def to_ours(self, weight: Tensor) -> Tensor:
        rgb = weight.flip(1) if self.bgr else weight
        return (rgb.double() / torch.tensor(self.std, dtype=torch.float64).view(3, 1, 1)).to(weight.dtype)

    def from_ours(self, weight: Tensor) -> Tensor:
        rgb = (weight.double() * torch.tensor(self.std, dtype=torch.float64).view(3, 1, 1)).to(weight.dtype)
        return rgb.flip(1) if self.bgr else rgb


INPUT_CONVENTIONS = {
    "rgb": InputConvention(),
    # the mean pixel of Caffe's imagenet_mean.binaryproto, as Caffe's examples have it
    "caffe": InputConvention((122.67891434, 116.66876762, 104.00698793), bgr=True),
    # torchvision's: images of 0..1, mean 0.485, 0.456, 0.406 and std 0.229, 0.224, 0.225
    "imagenet": InputConvention((255 * 0.485, 255 * 0.456, 255 * 0.406), (255 * 0.229, 255 * 0.224, 255 * 0.225)),
}


ILSVRC_2012 = "ilsvrc-2012"
"""The authors' mean image of ILSVRC-2012's training images, from cuda-convnet2 (make-data/input_meta, Apache 2.0), in
whole grey levels; its mean colour is 127.305, 119.715, 104.913."""


def mean_of_colour(colour: tuple[float, ...], image_size: int) -> np.ndarray:
    side = decoded_side(image_size)
    return np.full((side, side, 3), colour, np.float32)


def mean_from_option(text: str, image_size: int) -> np.ndarray:
    """Returns the mean image of `--mean`, (S, S, 3) float32 RGB, for crops of `image_size`."""
    files = f"a .npy or .binaryproto file of (S, S, 3) RGB or (3, S, S) BGR, S at least {image_size}"
    must = f"must be R,G,B of 0..255, {ILSVRC_2012}, or {files}"
    if text == ILSVRC_2012:
        side = decoded_side(image_size)
        with Image.open(Path(__file__).with_name("ilsvrc_2012_mean.png")) as image:
            return np.array(image.resize((side, side), Image.Resampling.BOX), np.float32)
    is_file = text.endswith((".binaryproto", ".npy"))
    if not is_file and not re.fullmatch(r"[\d.]+,[\d.]+,[\d.]+", text):
        raise UserError(f"--mean {text}: {must}")
    with reading(f"--mean {text}", must):
        if is_file:
            mean = read_mean_image(Path(text)) if text.endswith("o") else np.load(text).astype(np.float32)
        else:
            mean = mean_of_colour(tuple(map(float, text.split(","))), image_size)
        if len(mean) == 3:  # Caffe's
            mean = np.ascontiguousarray(mean[::-1].transpose(1, 2, 0))
        side, low, high = len(mean), mean.min(), mean.max()
        if mean.shape != (side, side, 3) or side < image_size or not 0 <= low <= high <= 255:
            raise UserError(f"--mean {text}: its shape is {mean.shape}, its values {low:g}..{high:g}; {must}")
    return mean
