"""A torchvision v2 transform from Pillow images to what a network reads."""

from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from alexnet_torch.data.augment import centre_slice
from alexnet_torch.data.decode import UnreadableImage, decode_image
from alexnet_torch.weights.model_file import TrainedModel


def transforms(model: TrainedModel) -> v2.Transform:
    """Returns a transform from a Pillow image to a model's input, (3, H, W) float32, as `predict` computes it.

    Pass images as `Image.open` returns them, for example with `ImageFolder(root, transform, loader=Image.open)`: the
    result is then bitwise that of `predict`. ImageFolder's own loader converts to RGB first: it decodes large JPEGs at
    full size, which changes photographs by a few grey levels (for a 64-pixel network, 1.9 on average), and clips
    16-bit images.

    The transform runs on the CPU, can be pickled for a DataLoader's workers, and takes what v2 transforms take: an
    image, or a sample with images in it.
    """
    return ModelInput(len(model.mean), model.net.image_size, model.centre_mean())


class ModelInput(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """Cuts the centre crop of `size` pixels of an image's square of `side` pixels, and subtracts the mean."""

    _transformed_types = (Image.Image,)

    def __init__(self, side: int, size: int, mean: Tensor) -> None:
        super().__init__()
        self.side, self.size, self.mean = side, size, mean  # (3, size, size) float32, 0..255

    def check_inputs(self, flat_inputs: list[Any]) -> None:
        """Raises a TypeError for samples without a Pillow image, which would pass through unchanged."""
        if not any(isinstance(value, Image.Image) for value in flat_inputs):
            kinds = ", ".join(type(value).__name__ for value in flat_inputs)
            raise TypeError(f"the transform needs a Pillow image as Image.open returns it, not {kinds}")

    def transform(self, inpt: Any, params: dict[str, Any]) -> Tensor:
        """Returns (3, size, size) float32; raises a ValueError for a damaged image or pixels without a range."""
        del params
        centre = centre_slice(self.side, self.size)
        try:
            crop = torch.from_numpy(decode_image(inpt, self.side)[centre, centre])
        except UnreadableImage as error:
            raise ValueError(str(error)) from error
        return (crop.permute(2, 0, 1).float() - self.mean).contiguous()
