"""Entry points of torch.hub, for example torch.hub.load("FOLDER", "alexnet", source="local").

Neither downloads weights.
"""

import collections.abc
import pathlib

from torch import nn

import alexnet_torch

# torch.hub takes every function and class here for an entry point: other names are imported as modules' attributes
dependencies = ["torch", "torchvision", "numpy", "PIL"]


def alexnet(
    architecture: str = "paper",
    num_classes: int = 1000,
    image_size: int = 224,
    devices: collections.abc.Sequence[str] | None = None,
    seed: int | None = None,
) -> alexnet_torch.AlexNet:
    """Returns a network with random initial weights.

    Args:
        architecture: paper, paper_literal, source_2012, caffe, caffenet, tensorflow_post or torchvision.
        num_classes: number of outputs.
        image_size: height and width of the images in pixels; Caffe's weights need 227.
        devices: one device for all towers, or one for each; by default the CPU.
        seed: seed of the initial weights.

    Raises:
        ValueError: there is no such architecture, or a number is too small.
    """
    return alexnet_torch.AlexNet(architecture, num_classes, image_size, devices, seed)


def from_run(path: str | pathlib.Path) -> nn.Sequential:
    """Returns a trained network for RGB images (N, 3, H, W) of 0..1, in evaluation mode, on the CPU.

    It is `alexnet_torch.plain` with the mean image inside; its attribute `classes` has the names of the logits.

    Args:
        path: a run's folder, with model.pt and model.json.

    Raises:
        UserError: a file is missing or damaged.
    """
    model = alexnet_torch.load_model(path, ["cpu"])
    net = alexnet_torch.plain(model, unit_range=True)
    net.classes = model.classes  # type: ignore[assignment]  # nn.Module's attributes are typed as modules and tensors
    return net
