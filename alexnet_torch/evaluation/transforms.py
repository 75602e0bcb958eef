"""A torchvision v2 transform from Pillow images to what a network reads."""

from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from alexnet_torch.data.augment import centre_slice
from alexnet_torch.data.decode import UnreadableImage, decode_image
from alexnet_torch.weights.model_file import TrainedModel


def transforms(model: TrainedModel) -> v2.Compose:
    """Returns a transform from a Pillow image to a model's input, (3, H, W) float32, as `predict` computes it.

    Pass images as `Image.open` returns them, for example with `ImageFolder(root, transform, loader=Image.open)`: the
    result is then bitwise that of `predict`. ImageFolder's own loader converts to RGB first: it decodes large JPEGs at
    full size, which changes photographs by a few grey levels (for a 64-pixel network, 1.9 on average), and clips
    16-bit images.

    The transform runs on the CPU, can be pickled for a DataLoader's workers, and takes what v2 transforms take: an
    image, or a sample with images in it.

    Args:
        model: the model whose image size and mean image are used.
    """
    size, side = model.net.image_size, model.mean.shape[0]
    return v2.Compose(
        [
            CentralSquare(side),  # (3, S, S) uint8
            CentreCrop(size),  # (3, H, W) uint8
            v2.ToDtype(torch.float32),
            SubtractMean(model.centre_mean()),
        ]
    )


class CentralSquare(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """Converts a Pillow image to its central square: upright, RGB, scaled to a side.

    Args:
        side: side of the result (3, side, side) uint8, in pixels.
    """

    _transformed_types = (Image.Image,)

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def check_inputs(self, flat_inputs: list[Any]) -> None:
        """Refuses samples without a Pillow image, which would pass through unchanged.

        Raises:
            TypeError: there is none.
        """
        if not any(isinstance(value, Image.Image) for value in flat_inputs):
            kinds = ", ".join(type(value).__name__ for value in flat_inputs)
            raise TypeError(f"the transform needs a Pillow image as Image.open returns it, not {kinds}")

    def transform(self, inpt: Any, params: dict[str, Any]) -> Tensor:
        """Returns (3, side, side) uint8.

        Raises:
            ValueError: the image is damaged, or its pixels have no defined range.
        """
        del params
        try:
            return torch.from_numpy(decode_image(inpt, self.side)).permute(2, 0, 1)
        except UnreadableImage as error:
            raise ValueError(str(error)) from error


class CentreCrop(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """Cuts the central square of a side; rounds towards the top left, where v2.CenterCrop rounds half to even.

    Args:
        size: side of the result, in pixels.
    """

    _transformed_types = (Tensor,)

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def transform(self, inpt: Any, params: dict[str, Any]) -> Tensor:
        """Returns (3, size, size) of an image (3, S, S)."""
        del params
        centre = centre_slice(inpt.shape[-1], self.size)
        cropped: Tensor = inpt[:, centre, centre]
        return cropped


class SubtractMean(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """Subtracts a mean image.

    Args:
        mean: (3, H, W) float32, 0..255.
    """

    _transformed_types = (Tensor,)

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.mean = mean

    def transform(self, inpt: Any, params: dict[str, Any]) -> Tensor:
        """Returns an image (3, H, W), contiguous, minus the mean image."""
        del params
        difference: Tensor = inpt - self.mean
        return difference.contiguous()
