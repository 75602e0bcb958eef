"""One tower's layers."""

import torch
from torch import nn

from alexnet_torch.model.architecture import Architecture, Conv
from alexnet_torch.model.exchange import Share, part_sizes
from alexnet_torch.model.layers.linear import FullyConnected


class Tower(nn.Module):
    """One tower's layers by stage name: its share of every stage's output channels.

    Args:
        architecture: of the network.
        share: what of the tower is to be made.
        num_classes: of all towers.
        image_size: in pixels.
    """

    def __init__(self, architecture: Architecture, share: Share, num_classes: int, image_size: int) -> None:
        super().__init__()
        self.share = share
        self._rows: dict[str, slice] = {}
        channels, towers = 3, architecture.towers  # what the towers put out together
        read = 3  # what one tower puts out; the images are whole in each
        for conv in architecture.convs:
            inputs = channels if conv.meet else read
            channels, read = conv.channels, conv.channels // towers
            self._add(conv.name, _conv2d(conv, inputs, read), slice(0, read))
        side = architecture.final_side(image_size)
        channels, read = channels * side * side, read * side * side
        if share.piece is None:
            return
        for linear in architecture.linears:
            width = linear.width or num_classes
            inputs = channels if linear.meet else read
            channels, read = width, part_sizes(width, towers)[share.tower]
            pieces = part_sizes(read, share.pieces)
            first = sum(pieces[: share.piece])
            rows = slice(first, first + pieces[share.piece])
            self._add(linear.name, FullyConnected(inputs, rows.stop - rows.start, device="meta"), rows)

    def _add(self, stage: str, layer: nn.Module, rows: slice) -> None:
        self.add_module(stage, _on(self.share.device, layer))
        self._rows[stage] = rows

    def rows(self, stage: str) -> slice:
        """Which of the tower's output channels of a stage are here, and so which rows of its weights and biases."""
        return self._rows[stage]

    def __contains__(self, stage: str) -> bool:
        """Whether anything of a stage is here."""
        return stage in self._rows

    def layer(self, stage: str) -> nn.Conv2d | nn.Linear:
        """The convolution or linear layer of a stage."""
        layer = self.get_submodule(stage)
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        return layer


def _conv2d(conv: Conv, inputs: int, outputs: int) -> nn.Conv2d:
    left, right, top, bottom = conv.padding
    # nn.Conv2d pads alike on both sides; the rest is padded by hand before it
    even = (min(top, bottom), min(left, right))
    return nn.Conv2d(inputs, outputs, conv.kernel, conv.stride, padding=even, device="meta")


def _on(device: torch.device, layer: nn.Module) -> nn.Module:
    """Gives a layer made on "meta" memory of its own, without torch's initialisation, which we replace.

    Convolutions run faster channels_last, on CPUs and on GPUs, and pass the format on to what follows.
    """
    for name, parameter in list(layer.named_parameters(recurse=False)):
        layout = torch.channels_last if parameter.ndim == 4 else torch.contiguous_format
        empty = torch.empty(parameter.shape, device=device, memory_format=layout)
        setattr(layer, name, nn.Parameter(empty))
    return layer
