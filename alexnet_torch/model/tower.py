"""One tower's layers."""

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet_torch.model.architecture import Architecture, Conv
from alexnet_torch.model.exchange import Share, part_sizes
from alexnet_torch.model.layers.linear import FasterLinear


class Tower(nn.Module):
    """One tower's layers by stage name: its part of every stage's output channels.

    Args:
        architecture: the network's architecture.
        share: which part of the tower to make.
        device: where to make its parameters.
        num_classes: outputs of all towers together.
        image_size: height and width of the images in pixels.
    """

    def __init__(
        self, architecture: Architecture, share: Share, device: torch.device, num_classes: int, image_size: int
    ) -> None:
        super().__init__()
        self.share = share
        self._held_rows: dict[str, slice] = {}
        towers, channels, own_channels = architecture.towers, 3, 3  # of all towers' input; of this one's: all images
        for conv in architecture.convs:
            inputs = channels if conv.meet else own_channels
            channels, own_channels = conv.channels, conv.channels // towers
            layer = nn.Conv2d(inputs, own_channels, conv.kernel, conv.stride, _symmetric_padding(conv), device="meta")
            self._add(conv.name, allocated(layer, device), slice(0, own_channels))
        if share.piece is None:
            return
        places = architecture.final_side(image_size) ** 2
        channels, own_channels = channels * places, own_channels * places
        for linear in architecture.linears:
            inputs = channels if linear.meet else own_channels
            channels = linear.width or num_classes
            own_channels = part_sizes(channels, towers)[share.tower]
            pieces = part_sizes(own_channels, share.pieces)
            first, outputs = sum(pieces[: share.piece]), pieces[share.piece]
            fully_connected = nn.Linear(inputs, outputs, device="meta")
            self._add(linear.name, allocated(fully_connected, device), slice(first, first + outputs))

    def _add(self, stage: str, layer: nn.Module, rows: slice) -> None:
        self.add_module(stage, layer)
        self._held_rows[stage] = rows

    @property
    def device(self) -> torch.device:
        """The device of the tower's parameters."""
        return self.layer(next(iter(self._held_rows))).weight.device

    def held_rows(self, stage: str) -> slice:
        """Returns which of the tower's output channels of a stage, so which rows of its parameters, are held here."""
        return self._held_rows[stage]

    def __contains__(self, stage: str) -> bool:
        """Returns whether a part of a stage is held here."""
        return stage in self._held_rows

    def layer(self, stage: str) -> nn.Conv2d | nn.Linear:
        """Returns the convolution or linear layer of a stage."""
        layer = self.get_submodule(stage)
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        return layer

    def run_layer(self, stage: str, x: Tensor) -> Tensor:
        """Returns the output of a stage's layer, which a tool may have replaced, for example by a quantised one."""
        with nullcontext() if torch.compiler.is_compiling() else FasterLinear():
            output: Tensor = self.get_submodule(stage)(x)
        return output


def pad_asymmetric(x: Tensor, conv: Conv) -> Tensor:
    """Adds to maps (N, C, H, W) the part of a convolution's padding that its layer does not add."""
    (left, right, top, bottom), (down, across) = conv.padding, _symmetric_padding(conv)
    if left == right and top == bottom:
        return x
    return F.pad(x, (left - across, right - across, top - down, bottom - down))


def _symmetric_padding(conv: Conv) -> tuple[int, int]:
    """Returns the padding that nn.Conv2d can add, the same on both sides: vertical, horizontal."""
    left, right, top, bottom = conv.padding
    return min(top, bottom), min(left, right)


def allocated(layer: nn.Module, device: torch.device) -> nn.Module:
    """Gives a layer made on "meta" memory on a device, without torch's initialisation: weights must follow."""
    for name, parameter in list(layer.named_parameters(recurse=False)):
        setattr(layer, name, nn.Parameter(torch.empty(parameter.shape, device=device)))
    return layer
