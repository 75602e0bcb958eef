"""One tower's layers, their initial weights, and the names of their parameters."""

import re
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet_torch.model.architecture import Architecture, Conv, Init
from alexnet_torch.model.exchange import Shard, shard_sizes
from alexnet_torch.model.linear import FasterLinear


class Tower(nn.Module):
    """One tower's layers by stage name: its part of every stage's output channels.

    Args:
        architecture: the network's architecture.
        shard: which shard of the tower to make.
        device: where to make its parameters.
        num_classes: outputs of all towers together.
        image_size: height and width of the images in pixels.
    """

    def __init__(
        self, architecture: Architecture, shard: Shard, device: torch.device, num_classes: int, image_size: int
    ) -> None:
        super().__init__()
        self.shard = shard
        self._local_rows: dict[str, slice] = {}
        towers, channels, own_channels = architecture.towers, 3, 3  # of all towers' input; of this one's: all images
        for conv in architecture.convs:
            inputs = channels if conv.reads_all_towers else own_channels
            channels, own_channels = conv.channels, conv.channels // towers
            layer = nn.Conv2d(inputs, own_channels, conv.kernel, conv.stride, _symmetric_padding(conv), device="meta")
            self._add(conv.name, allocated(layer, device), slice(0, own_channels))
        if shard.index is None:
            return
        places = architecture.final_side(image_size) ** 2
        channels, own_channels = channels * places, own_channels * places
        for linear in architecture.linears:
            inputs = channels if linear.reads_all_towers else own_channels
            channels = linear.width or num_classes
            own_channels = shard_sizes(channels, towers)[shard.tower]
            sizes = shard_sizes(own_channels, shard.count)
            first, outputs = sum(sizes[: shard.index]), sizes[shard.index]
            fully_connected = nn.Linear(inputs, outputs, device="meta")
            self._add(linear.name, allocated(fully_connected, device), slice(first, first + outputs))

    def _add(self, stage: str, layer: nn.Module, rows: slice) -> None:
        self.add_module(stage, layer)
        self._local_rows[stage] = rows

    @property
    def device(self) -> torch.device:
        """The device of the tower's parameters."""
        return self.layer(next(iter(self._local_rows))).weight.device

    def local_rows(self, stage: str) -> slice:
        """Returns which of the tower's output channels of a stage, so which rows of its parameters, are local."""
        return self._local_rows[stage]

    def __contains__(self, stage: str) -> bool:
        """Returns whether a part of a stage is local."""
        return stage in self._local_rows

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


def initialise(
    layer: nn.Conv2d | nn.Linear,
    init: Init,
    generator: torch.Generator | None = None,
    outputs: int | None = None,
    rows: slice = slice(None),
) -> None:
    """Draws a layer's weights and biases.

    Args:
        layer: on any device; the values are drawn on the CPU, so that all devices get the same.
        init: the distribution of the weights, and the biases.
        generator: a CPU generator; None for torch's own.
        outputs: number of outputs of the full layer, if this one is a shard of it; None for this layer's number.
        rows: the rows of the full layer that this one has.
    """
    if layer.weight.is_meta:  # a shape without memory: there is nothing to draw
        return
    std = init.std * (layer.weight.shape[1:].numel() ** -0.5 if init.by_fan_in else 1.0)
    outputs = len(layer.weight) if outputs is None else outputs
    values = torch.empty((outputs, *layer.weight.shape[1:]), dtype=layer.weight.dtype, device="cpu")
    if init.distribution == "uniform":
        values.uniform_(-std, std, generator=generator)
    elif init.distribution == "truncated_normal":
        nn.init.trunc_normal_(values, 0.0, std, -2 * std, 2 * std, generator=generator)
    else:
        values.normal_(0.0, std, generator=generator)
    assert layer.bias is not None
    with torch.no_grad():
        layer.weight.copy_(values[rows])
        if init.bias is not None:
            layer.bias.fill_(init.bias)
        else:
            biases = torch.empty(outputs, dtype=layer.bias.dtype, device="cpu")
            layer.bias.copy_(biases.uniform_(-std, std, generator=generator)[rows])


def tower_of(name: str) -> int:
    """Returns the tower of a parameter, from 0: 1 for `towers.1.fc7.bias`."""
    return int(name.split(".")[1])


def stage_of(name: str) -> str:
    """Returns the stage of a parameter: `fc7` for `towers.1.fc7.bias` and for `fc7.bias`."""
    return name.split(".")[-2]


def kind_of(name: str) -> str:
    """Returns the kind of a parameter, "weight" or "bias"."""
    return name.split(".")[-1]


def has_tower(name: str) -> bool:
    """Returns whether the name contains a tower: true for `towers.1.fc7.bias`, false for `fc7.bias`."""
    return re.fullmatch(r"towers\.\d+\..+", name) is not None


def grouped_name(name: str) -> str:
    """Returns the name without its tower: `fc7.bias` for `towers.1.fc7.bias`.

    Raises:
        ValueError: the name contains no tower.
    """
    if not has_tower(name):
        raise ValueError(f"{name} contains no tower")
    return name.split(".", 2)[2]


def tower_name(tower: int, grouped: str) -> str:
    """Returns the name of one tower's parameter: `towers.1.fc7.bias` for tower 1 and `fc7.bias`."""
    return f"towers.{tower}.{grouped}"


def parameter_name(stage: str, kind: str) -> str:
    """Returns the name in the grouped layout: `fc7.bias` for stage "fc7" and kind "bias"."""
    return f"{stage}.{kind}"
