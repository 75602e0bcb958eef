"""Two layouts of weights: one tensor for each tower, as here, and grouped, as in Caffe and torchvision.

Pure conversions. In the grouped layout, tower k is the k-th part of each tensor along dimension 0;
where towers do not meet, this is the layout of a convolution with groups.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alexnet_torch.model.architecture import PAPER, Architecture
from alexnet_torch.model.exchange import Shard
from alexnet_torch.model.tower import Tower, grouped_name, tower_name

_WRAPPERS = re.compile(r"(^|\.)(?:(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.)+")
_NUMBERED_LAYER = re.compile(r"(?:conv|fc)(\d+)")


@dataclass(frozen=True)
class FileLayer:
    """A convolution or linear layer, as a file contains it, with its own and its tensors' names in the file."""

    name: str
    weight_name: str
    bias_name: str
    weight: Tensor  # (out, in, height, width) or (out, in), float32, all towers together
    bias: Tensor  # (out,) float32


def towers_to_grouped(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Concatenates the towers' tensors: `towers.0.conv1.weight` and `towers.1.conv1.weight` become `conv1.weight`.

    Args:
        weights: all towers' tensors, tower 0 first.

    Raises:
        ValueError: a name contains no tower, or the shapes of two towers do not fit together.
    """
    towers: dict[str, list[Tensor]] = {}
    for name, value in weights.items():
        tensors = towers.setdefault(grouped_name(name), [])
        if tensors and tensors[0].shape[1:] != value.shape[1:]:
            raise ValueError(f"{name} is {tuple(value.shape)}, which does not fit tower 0's {tuple(tensors[0].shape)}")
        tensors.append(value)
    return {name: torch.cat(tensors) for name, tensors in towers.items()}


def grouped_to_towers(weights: Mapping[str, Tensor], towers: int) -> dict[str, Tensor]:
    """Inverts `towers_to_grouped`; if a tensor cannot be divided equally, the first towers get one row more."""
    return {
        tower_name(tower, name): part
        for name, value in weights.items()
        for tower, part in enumerate(value.tensor_split(towers))
    }


def grouped_shapes(architecture: Architecture, num_classes: int, image_size: int) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each tensor of a network in the grouped layout, first stage to last.

    Raises:
        ValueError: `image_size` is too small.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for index in range(architecture.towers):
        tower = Tower(architecture, Shard(index), torch.device("meta"), num_classes, image_size)
        for name, value in tower.state_dict().items():
            outputs = shapes[name][0] if name in shapes else 0
            shapes[name] = (outputs + value.shape[0], *value.shape[1:])
    return shapes


def without_wrappers(name: str) -> str:
    """Returns a parameter's name without the parts that DataParallel, torch.compile and FSDP put into it."""
    return _WRAPPERS.sub(r"\1", name)


def layers_from_state_dict(state: Mapping[str, Tensor]) -> list[FileLayer]:
    """Returns the layers of a PyTorch state dict, in its order, without the parts that wrappers put into names.

    Raises:
        ValueError: a tensor is not the weight or bias of a layer that has both; the message names it.
    """
    tensors = {without_wrappers(name): (name, value) for name, value in state.items()}
    layers = []
    for short_name, (name, value) in tensors.items():
        layer, _, kind = short_name.rpartition(".")
        partner = f"{layer}.{'bias' if kind == 'weight' else 'weight'}"
        if kind not in ("weight", "bias") or partner not in tensors:
            raise ValueError(f"{name} is not one of a layer's weight and bias")
        if kind == "weight":
            bias_name, bias = tensors[partner]
            layers.append(FileLayer(layer, name, bias_name, value.float(), bias.float()))
    return layers


def layers_by_stage(layers: Sequence[FileLayer]) -> dict[str, FileLayer]:
    """Maps stages to layers, first to last: by name if layers are called conv1, ..., fc6, ..., else by order.

    Raises:
        ValueError: neither names nor order identify the stages: these are not AlexNet's 5 convolutions and
            3 linear layers.
    """
    numbers = {layer.name: int(match[1]) for layer in layers if (match := _NUMBERED_LAYER.fullmatch(layer.name))}
    # some networks count the linear layers from 1 again: conv1, ..., fc1, ...
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
