"""The network in torch's own operations, one at a time, as a function of its parameters."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet_torch.model.architecture import Architecture, Conv, Linear, Operation


def plain_logits(net: Architecture, parameters: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """Returns logits (N, classes) without dropout of images (N, 3, H, W); parameters have an AlexNet's names."""
    parts = [images] * net.towers
    for stage in net.stages:
        if stage is net.linears[0]:
            parts = [x if net.adaptive_pool is None else F.adaptive_avg_pool2d(x, net.adaptive_pool) for x in parts]
            parts = [x.flatten(1) for x in parts]
        if stage.reads_all_towers:
            parts = [torch.cat(parts, dim=1)] * net.towers
        parts = [_layer(stage, parameters, tower, x) for tower, x in enumerate(parts)]
        after = () if stage is net.linears[-1] else (net.linear_activation,)
        for name in stage.after if isinstance(stage, Conv) else after:
            parts = plain_operation(name, parts, net)
    return torch.cat(parts, dim=1)


def plain_operation(name: Operation, parts: list[Tensor], architecture: Architecture) -> list[Tensor]:
    """Returns the outputs of one operation on the parts of all towers, (N, C, H, W) or (N, C) each."""
    norm, square, size, stride = (
        architecture.norm,
        architecture.spatial_norm,
        architecture.pool_size,
        architecture.pool_stride,
    )
    if name == "norm" and norm.across_towers:
        whole = F.local_response_norm(torch.cat(parts, 1), norm.window, norm.alpha, norm.beta, norm.k)
        return list(whole.chunk(len(parts), 1))
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "relu": F.relu,
        "tanh": torch.tanh,
        "pool": lambda x: F.max_pool2d(x, size, stride, ceil_mode=bool(architecture.pool_ceil)),
        "norm": lambda x: F.local_response_norm(x, norm.window, norm.alpha, norm.beta, norm.k),
        "spatial_norm": lambda x: (
            x / (square.k + square.alpha * F.avg_pool2d(x * x, square.window, 1, square.window // 2)) ** square.beta
        ),
    }
    return [functions[name](part) for part in parts]


def _layer(stage: Conv | Linear, parameters: Mapping[str, Tensor], tower: int, x: Tensor) -> Tensor:
    weight, bias = (parameters[f"towers.{tower}.{stage.name}.{kind}"] for kind in ("weight", "bias"))
    if isinstance(stage, Conv):
        return F.conv2d(F.pad(x, stage.padding), weight, bias, stage.stride)
    return F.linear(x, weight, bias)
