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
            parts = _operation(name, parts, net)
    return torch.cat(parts, dim=1)


def _operation(name: Operation, parts: list[Tensor], architecture: Architecture) -> list[Tensor]:
    """Returns the outputs of one operation on the parts of all towers, (N, C, H, W) or (N, C) each."""
    norm, square = architecture.norm, architecture.spatial_norm
    size, stride = architecture.pool_size, architecture.pool_stride
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


def grouped_logits(
    weights: Mapping[str, Tensor],
    x: Tensor,
    alpha: float = 1e-4,
    k: float = 1.0,
    halves: bool = False,
    pool_first: bool = False,
) -> Tensor:
    """Returns logits of the net as it is usually written, with groups of 2: bvlc_alexnet, or with other norms.

    The norms are of each half of the channels, or of all; `pool_first` makes it CaffeNet.
    """

    def conv(stage: str, x: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
        groups = 2 if stage in ("conv2", "conv4", "conv5") else 1
        return F.relu(F.conv2d(x, weights[f"{stage}.weight"], weights[f"{stage}.bias"], stride, padding, 1, groups))

    def pool(x: Tensor) -> Tensor:
        return F.max_pool2d(x, 3, 2, ceil_mode=True)

    def norm_and_pool(x: Tensor) -> Tensor:
        parts = (pool(x) if pool_first else x).chunk(2 if halves else 1, dim=1)
        x = torch.cat([F.local_response_norm(part, 5, alpha, 0.75, k) for part in parts], 1)
        return x if pool_first else pool(x)

    x = norm_and_pool(conv("conv2", norm_and_pool(conv("conv1", x, 4)), 1, 2))
    x = pool(conv("conv5", conv("conv4", conv("conv3", x, 1, 1), 1, 1), 1, 1)).flatten(1)
    for stage in ("fc6", "fc7"):
        x = F.relu(F.linear(x, weights[f"{stage}.weight"], weights[f"{stage}.bias"]))
    return F.linear(x, weights["fc8.weight"], weights["fc8.bias"])
