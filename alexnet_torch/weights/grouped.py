"""Two layouts of weights: one tensor for each tower, as here, and grouped, as in Caffe and torchvision.

Pure conversions. In the grouped layout, tower k is the k-th part of each tensor along dimension 0;
where towers do not meet, this is the layout of a convolution with groups.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from alexnet_torch.model.alexnet import AlexNet
from alexnet_torch.model.architecture import PAPER, Architecture
from alexnet_torch.model.exchange import Shard
from alexnet_torch.model.tower import Tower, grouped_name, parameter_name, tower_name

CONV1 = parameter_name("conv1", "weight")  # of the first stage of every preset
_WRAPPERS = re.compile(r"(^|\.)(?:(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.)+")
_NUMBERED_LAYER = re.compile(r"(?:conv|fc)(\d+)")


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


def grouped_state_dict(net: AlexNet) -> dict[str, Tensor]:
    """Returns a copy of a network's weights in the grouped layout, contiguous, on the first parameter's device.

    conv1's weights are multiplied by the architecture's `input_scale`, which a state dict does not contain.
    """
    device = next(net.parameters()).device
    weights = towers_to_grouped({name: value.detach().to(device) for name, value in net.state_dict().items()})
    weights = {name: value.contiguous() for name, value in weights.items()}
    first = parameter_name(net.architecture.stage_names[0], "weight")
    if net.architecture.input_scale != 1:
        weights[first] = weights[first] * net.architecture.input_scale
    return weights


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


def layers_by_stage(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Returns the name in a PyTorch state dict of each tensor of the grouped layout, first stage to last.

    Stages are found by name if layers are called conv1, ..., fc6, ..., else by order.

    Raises:
        ValueError: a tensor is not the weight or bias of a layer that has both, or the layers are not AlexNet's 5
            convolutions and 3 linear layers.
    """
    names = {without_wrappers(name): name for name in state}
    layers = []
    for short_name, name in names.items():
        layer, _, kind = short_name.rpartition(".")
        if kind not in ("weight", "bias") or not {f"{layer}.weight", f"{layer}.bias"} <= set(names):
            raise ValueError(f"{name} is not one of a layer's weight and bias")
        if kind == "weight":
            layers.append(layer)
    numbers = {layer: int(match[1]) for layer in layers if (match := _NUMBERED_LAYER.fullmatch(layer))}
    if layers and len(numbers) == len(layers) == len(set(numbers.values())):
        stages = {layer: layer for layer in sorted(layers, key=lambda layer: numbers[layer])}
    else:  # some networks count the linear layers from 1 again: conv1, ..., fc1, ...
        dimensions = {layer: state[names[f"{layer}.weight"]].ndim for layer in layers}
        convs, linears = ([layer for layer in layers if dimensions[layer] == ndim] for ndim in (4, 2))
        require_alexnet(len(convs), len(linears), len(layers) - len(convs) - len(linears))
        stages = dict(zip(PAPER.stage_names, [*convs, *linears], strict=True))
    return {
        parameter_name(stage, kind): names[f"{layer}.{kind}"]
        for stage, layer in stages.items()
        for kind in ("weight", "bias")
    }


def require_alexnet(convs: int, linears: int, others: int = 0) -> None:
    """Raises a ValueError that says what a network has if that is not AlexNet's number of layers."""
    if (convs, linears, others) != (5, 3, 0):
        counts = f"{convs} convolution{'s' * (convs != 1)} and {linears} linear layer{'s' * (linears != 1)}"
        more = f" and {others} other layers with weights" if others else ""
        raise ValueError(f"it has {counts}{more}, not AlexNet's 5 and 3")


def differences(source: Architecture, target: Architecture, stages: Sequence[str] | None = None) -> Iterator[str]:
    """Yields what two networks compute differently with the same weights, such as "norm.k 1.0 instead of 2.0".

    Args:
        source, target: architectures with the same stages.
        stages: the stages to compare; None for all.
    """
    source, target = source.computation_only(), target.computation_only()
    yield from _field_differences("", source, target)
    target_stages = {stage.name: stage for stage in target.stages}
    for stage in source.stages:
        if stages is None or stage.name in stages:
            yield from _field_differences(f"{stage.name}.", stage, target_stages[stage.name])


def _field_differences(prefix: str, source: Any, target: Any) -> Iterator[str]:
    """Compares two dataclasses field by field, without stages and fields that the weights' shapes determine."""
    for field in fields(source):
        value, target_value = getattr(source, field.name), getattr(target, field.name)
        if is_dataclass(value):
            yield from _field_differences(f"{prefix}{field.name}.", value, target_value)
        elif value != target_value and field.name not in ("convs", "linears", "towers", "channels", "width"):
            yield f"{prefix}{field.name} {value} instead of {target_value}"
