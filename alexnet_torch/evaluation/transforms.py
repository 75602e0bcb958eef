"""A torchvision v2 transform from Pillow images to what a network reads."""

from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from alexnet_torch.evaluation.predict import centre_crop
from alexnet_torch.weights.model_file import TrainedModel


def transforms(model: TrainedModel) -> v2.Transform:
    """Returns a transform from a Pillow image to a model's input, (3, H, W) float32, bitwise as `predict` computes it.

    Images must be as `Image.open` returns them, for example in `ImageFolder(root, transform, loader=Image.open)`:
    ImageFolder's own loader decodes large JPEGs at full size and clips 16-bit images. It takes an image, or a sample
    with images in it, on the CPU, and can be pickled.
    """
    return ModelInput(len(model.mean), model.net.image_size, model.centre_mean())


class ModelInput(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """Cuts the centre crop of `size` pixels of a square of `side` pixels, and subtracts the mean."""

    _transformed_types = (Image.Image,)

    def __init__(self, side: int, size: int, mean: Tensor) -> None:
        super().__init__()
        self.side, self.size, self.mean = side, size, mean  # (3, size, size) float32, 0..255

    def check_inputs(self, flat_inputs: list[Any]) -> None:
        """Refuses samples without a Pillow image, which would pass through unchanged."""
        if not any(isinstance(value, Image.Image) for value in flat_inputs):
            kinds = ", ".join(type(value).__name__ for value in flat_inputs)
            raise TypeError(f"the transform needs a Pillow image as Image.open returns it, not {kinds}")

    def transform(self, inpt: Any, params: dict[str, Any]) -> Tensor:  # noqa: ARG002
        """Returns (3, size, size) float32; UserError for an image that cannot be read."""
        crop = torch.from_numpy(centre_crop(inpt, self.side, self.size))
        return (crop.permute(2, 0, 1).float() - self.mean).contiguous()
