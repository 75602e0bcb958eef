"""What images a network reads, and how one that reads others is made to read ours.

Ours are RGB of 0..255 less the mean image. A constant factor and the order of the channels go
into conv1's weights, exactly: a zero of the padding stays zero.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alexnet_torch.data.decode import decoded_side
from alexnet_torch.errors import UserError
from alexnet_torch.weights.caffe_file import read_mean


@dataclass(frozen=True)
class Inputs:
    """What images a network reads: (x - mean) / std, x of 0..255.

    Attributes:
        mean, std: of red, green and blue; no mean where every network has its own.
        bgr: blue is the first channel.
    """

    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    bgr: bool = False


INPUTS = {
    "rgb": Inputs(),
    # the mean of Caffe's imagenet_mean.binaryproto over its pixels, which Caffe's examples subtract too
    "caffe": Inputs((122.67891434, 116.66876762, 104.00698793), bgr=True),
    # torchvision's: images of 0..1, mean 0.485, 0.456, 0.406 and std 0.229, 0.224, 0.225
    "imagenet": Inputs((255 * 0.485, 255 * 0.456, 255 * 0.406), (255 * 0.229, 255 * 0.224, 255 * 0.225)),
}


def reading_ours(weight: Tensor, inputs: Inputs) -> Tensor:
    """conv1's weights of a network that reads `inputs`, made to read RGB of 0..255 less the mean.

    Args:
        weight: (filters, 3, height, width).
        inputs: what the network reads.
    """
    ordered = weight.flip(1) if inputs.bgr else weight
    return (ordered.double() / _per_channel(inputs)).to(weight.dtype)


def reading_theirs(weight: Tensor, inputs: Inputs) -> Tensor:
    """The inverse of `reading_ours`."""
    scaled = (weight.double() * _per_channel(inputs)).to(weight.dtype)
    return scaled.flip(1) if inputs.bgr else scaled


def _per_channel(inputs: Inputs) -> Tensor:
    return torch.tensor(inputs.std, dtype=torch.float64).view(3, 1, 1)


def mean_image(mean: tuple[float, float, float], image_size: int) -> np.ndarray:
    """(S, S, 3) float32, the same colour everywhere; S is the side that crops are cut from."""
    side = decoded_side(image_size)
    return np.full((side, side, 3), mean, np.float32)


def named_mean(text: str, image_size: int) -> np.ndarray:
    """The mean image that `--mean` names: (S, S, 3) float32 RGB, 0..255.

    Args:
        text: "R,G,B", or a file: .binaryproto, or .npy of shape (S, S, 3) RGB or (3, S, S) BGR, as
            this package and Caffe write them.
        image_size: of the crops that are cut from the mean image.

    Raises:
        UserError: it is none of them, or the image is smaller than the crops.
    """
    path = Path(text)
    if path.suffix == ".binaryproto":
        mean = read_mean(path)
    elif path.suffix == ".npy":
        mean = _read_npy(path)
    else:
        mean = mean_image(_colour(text), image_size)
    if mean.shape[0] < image_size:
        raise UserError(f"--mean {text}: is of {mean.shape[0]} pixels, fewer than the network's {image_size}")
    return mean


def _colour(text: str) -> tuple[float, float, float]:
    try:
        red, green, blue = (float(part) for part in text.split(","))
        if not all(0 <= value <= 255 for value in (red, green, blue)):
            raise ValueError("out of range")
    except ValueError as error:
        raise UserError(f"--mean {text}: must be R,G,B of 0..255, or a .binaryproto or .npy file") from error
    return red, green, blue


def _read_npy(path: Path) -> np.ndarray:
    try:
        mean: np.ndarray = np.load(path, allow_pickle=False).astype(np.float32)
    except (OSError, ValueError) as error:
        raise UserError(f"--mean {path}: cannot be read ({error})") from error
    if mean.ndim == 3 and mean.shape[0] == 3:
        mean = np.ascontiguousarray(mean[::-1].transpose(1, 2, 0))
    if mean.ndim != 3 or mean.shape[2] != 3 or mean.shape[0] != mean.shape[1]:
        raise UserError(f"--mean {path}: is {mean.shape}, neither (S, S, 3) nor (3, S, S)")
    return mean
