"""Layouts of weights: towers by name, as here, and each stage whole, as Caffe and torchvision have them.

Pure conversions. In the grouped layout a stage is one tensor, and tower k its k-th part along
dimension 0; where towers do not meet, that is the layout of a convolution with groups.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alexnet_torch.model.architecture import PAPER, Architecture
from alexnet_torch.model.exchange import Share
from alexnet_torch.model.parameter_names import tower_name
from alexnet_torch.model.tower import Tower

_OURS = re.compile(r"towers\.(\d+)\.(.+)")
_STAGE = re.compile(r"(conv|fc)(\d+)")


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer as a file has it.

    Attributes:
        name: of the layer, in the file.
        weight_name, bias_name: of its tensors, in the file.
        weight: (out, in, height, width) or (out, in), float32, all towers together.
        bias: (out,) float32.
    """

    name: str
    weight_name: str
    bias_name: str
    weight: Tensor
    bias: Tensor


def is_towered(weights: Mapping[str, Tensor]) -> bool:
    """Whether these are weights by tower, under the names of this package."""
    return any(_OURS.fullmatch(name) for name in weights)


def grouped(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by tower, joined: `towers.0.conv1.weight` and `towers.1.conv1.weight` to `conv1.weight`.

    Raises:
        ValueError: a name is not of that form, or the towers' parts do not fit together.
    """
    parts: dict[str, list[Tensor]] = {}
    for name, value in weights.items():
        match = _OURS.fullmatch(name)
        if match is None:
            raise ValueError(f"{name} is of no tower")
        before = parts.setdefault(match[2], [])
        if before and before[0].shape[1:] != value.shape[1:]:
            raise ValueError(f"{name} is {tuple(value.shape)}, which does not fit tower 0's {tuple(before[0].shape)}")
        before.append(value)
    return {name: torch.cat(tower_parts) for name, tower_parts in parts.items()}


def towered(weights: Mapping[str, Tensor], towers: int) -> dict[str, Tensor]:
    """The inverse of `grouped`: each tensor's parts along dimension 0, the first ones taking the rest."""
    return {
        tower_name(tower, name): part
        for name, value in weights.items()
        for tower, part in enumerate(value.tensor_split(towers))
    }


def grouped_shapes(architecture: Architecture, num_classes: int, image_size: int) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of a network in the grouped layout, first stage to last.

    Raises:
        ValueError: `image_size` is too small.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for index in range(architecture.towers):
        tower = Tower(architecture, Share(index, torch.device("meta")), num_classes, image_size)
        for name, value in tower.state_dict().items():
            outputs = shapes[name][0] if name in shapes else 0
            shapes[name] = (outputs + value.shape[0], *value.shape[1:])
    return shapes


def layers_of(state: Mapping[str, Tensor]) -> list[Layer]:
    """The layers of a PyTorch state dict, in its order, without what DataParallel puts into names.

    Args:
        state: with `module.` before every name, or `features.module.`, or neither.

    Raises:
        ValueError: a tensor is not the weight or bias of a layer that has both; the message names it.
    """
    weights = {re.sub(r"(^|\.)module\.", r"\1", name): (name, value) for name, value in state.items()}
    layers = []
    for short, (name, value) in weights.items():
        layer, _, kind = short.rpartition(".")
        partner = f"{layer}.{'bias' if kind == 'weight' else 'weight'}"
        if kind not in ("weight", "bias") or partner not in weights:
            raise ValueError(f"{name} is not one of a layer's weight and bias")
        if kind == "weight":
            bias_name, bias = weights[partner]
            layers.append(Layer(layer, name, bias_name, value.float(), bias.float()))
    return layers


def by_stage(layers: Sequence[Layer]) -> dict[str, Layer]:
    """Each stage's layer, first to last: by name where layers are called conv1, ..., fc6, ..., else by order.

    Raises:
        ValueError: the order does not tell: there are not the 5 convolutions and 3 linear layers of
            the paper.
    """
    numbers = {layer.name: int(match[2]) for layer in layers if (match := _STAGE.fullmatch(layer.name))}
    # in some nets the linear layers are counted from 1 again
    if layers and len(numbers) == len(layers) == len(set(numbers.values())):
        return {layer.name: layer for layer in sorted(layers, key=lambda layer: numbers[layer.name])}
    convs = [layer for layer in layers if layer.weight.ndim == 4]
    linears = [layer for layer in layers if layer.weight.ndim == 2]
    expected = len(PAPER.convs), len(PAPER.linears)
    if (len(convs), len(linears)) != expected or len(layers) != sum(expected):
        raise ValueError(
            f"it has {len(convs)} convolutions and {len(linears)} linear layers among {len(layers)} with weights, "
            f"not AlexNet's {expected[0]} and {expected[1]}"
        )
    return dict(zip(PAPER.stage_names, [*convs, *linears], strict=True))
