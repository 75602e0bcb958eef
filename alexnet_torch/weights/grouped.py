"""Two layouts of weights: a tensor for each tower, as here; or grouped, as in Caffe and torchvision.

In the grouped layout, tower k is the k-th part of each tensor along dimension 0, as in a convolution with groups.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from alexnet_torch.model.alexnet import AlexNet
from alexnet_torch.model.architecture import PAPER, Architecture

CONV1 = "conv1.weight"  # of the first stage of every preset
_WRAPPERS = re.compile(r"(^|\.)(?:(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.)+")


def towers_to_grouped(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Makes `conv1.weight` of `towers.0.conv1.weight` and `towers.1.conv1.weight`."""
    towers: dict[str, list[Tensor]] = {}
    for name, value in weights.items():
        towers.setdefault(name.split(".", 2)[2], []).append(value)
    return {name: torch.cat(parts) for name, parts in towers.items()}


def grouped_to_towers(weights: Mapping[str, Tensor], towers: int) -> dict[str, Tensor]:
    """Inverts `towers_to_grouped`; of an odd number of rows, the first towers get one more."""
    return {f"towers.{k}.{name}": part for name, w in weights.items() for k, part in enumerate(w.tensor_split(towers))}


def grouped_state_dict(net: AlexNet) -> dict[str, Tensor]:
    """Returns a copy of the weights on the first tower's device; conv1's have the `input_scale` in them."""
    device = next(net.parameters()).device
    weights = towers_to_grouped({name: value.detach().to(device) for name, value in net.state_dict().items()})
    first = f"{net.architecture.stage_names[0]}.weight"
    weights[first] = weights[first] * net.architecture.input_scale
    return {name: value.contiguous() for name, value in weights.items()}


def grouped_shapes(net: Architecture, num_classes: int, image_size: int) -> dict[str, tuple[int, ...]]:
    towers = AlexNet(net, num_classes, image_size, torch.device("meta")).state_dict()
    return {name: tuple(value.shape) for name, value in towers_to_grouped(towers).items()}


def without_wrappers(name: str) -> str:
    """Returns a parameter's name without those of DataParallel, torch.compile and FSDP."""
    return _WRAPPERS.sub(r"\1", name)


def layers_by_stage(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Returns a state dict's name of each tensor of the grouped layout: by name (conv1, ...), else by order."""
    names = {without_wrappers(name): name for name in state}
    dims = dict[str, int]()  # by layer
    for short, name in names.items():
        layer, _, kind = short.rpartition(".")
        if kind not in ("weight", "bias") or not {f"{layer}.weight", f"{layer}.bias"} <= set(names):
            raise ValueError(f"{name} is not one of a layer's weight and bias")
        if kind == "weight":
            dims[layer] = state[name].ndim
    numbers = {layer: int(match[1]) for layer in dims if (match := re.fullmatch(r"(?:conv|fc)(\d+)", layer))}
    if dims and len(dims) == len(set(numbers.values())):
        stages = {layer: layer for layer in sorted(dims, key=numbers.__getitem__)}
    else:  # some networks count the linear layers from 1 again: conv1, ..., fc1, ...
        convs, linears = ([layer for layer in dims if dims[layer] == ndim] for ndim in (4, 2))
        require_alexnet(len(convs), len(linears), len(dims) - len(convs) - len(linears))
        stages = dict(zip(PAPER.stage_names, [*convs, *linears], strict=True))
    kinds = ("weight", "bias")
    return {f"{stage}.{kind}": names[f"{layer}.{kind}"] for stage, layer in stages.items() for kind in kinds}


def require_alexnet(convs: int, linears: int, others: int = 0) -> None:
    if (convs, linears, others) != (5, 3, 0):
        more = f" and {others} others with weights" if others else ""
        raise ValueError(f"it has {convs} convolutions and {linears} linear layers{more}, not AlexNet's 5 and 3")


def differences(source: Architecture, target: Architecture, stages: Sequence[str]) -> list[str]:
    """Returns what two networks compute differently with equal weights, as "norm.k 1.0 instead of 2.0"."""
    ours, theirs = _settings(source, stages), _settings(target, stages)
    return [f"{name} {ours[name]} instead of {theirs[name]}" for name in ours if ours[name] != theirs[name]]


def _settings(net: Architecture, stages: Sequence[str]) -> dict[str, Any]:
    """Returns what decides some stages' outputs besides the weights' shapes."""
    values = asdict(net.computation_only())
    groups = {name: values.pop(name) for name in ("norm", "spatial_norm")}
    groups |= {
        stage["name"]: stage for stage in (*values.pop("convs"), *values.pop("linears")) if stage["name"] in stages
    }
    values |= {f"{group}.{name}": value for group, of_group in groups.items() for name, value in of_group.items()}
    return {
        name: value for name, value in values.items() if name.rpartition(".")[2] not in ("towers", "channels", "width")
    }
