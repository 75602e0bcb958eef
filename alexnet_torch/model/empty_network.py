"""A network without initial weights, for weights that come from a file."""

from collections.abc import Sequence

import torch

from alexnet_torch.model.alexnet import AlexNet
from alexnet_torch.model.architecture import Architecture
from alexnet_torch.model.tower import allocated


def empty_network(
    architecture: Architecture, num_classes: int, image_size: int, devices: Sequence[torch.device]
) -> AlexNet:
    """Returns a network whose parameters contain anything: every one must be loaded before it computes.

    Drawing the 61 million initial weights of the paper's network takes half a second, which loading others would waste.

    Args:
        architecture, num_classes, image_size: as for `AlexNet`.
        devices: one for each tower.

    Raises:
        ValueError: as for `AlexNet`.
    """
    net = AlexNet(architecture, num_classes, image_size, torch.device("meta"))
    for tower, device in zip(net.towers.values(), devices, strict=True):
        for layer in tower.children():
            allocated(layer, device)
    return net
