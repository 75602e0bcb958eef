"""What follows a stage's layer: activation, normalisation and pooling, several in a pass if possible."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet_torch.model.architecture import Architecture, Conv, Linear, Norm, Operation
from alexnet_torch.model.exchange import Exchange, TowerTensors
from alexnet_torch.model.response_norm import response_norm, response_norm_pool, spatial_response_norm

StageOperation = Callable[[TowerTensors, Exchange], TowerTensors]


def operations_after(stage: Conv | Linear, net: Architecture) -> list[StageOperation]:
    """Returns the functions to call in order on the outputs of a stage's layer."""
    names: tuple[Operation, ...] = stage.after if isinstance(stage, Conv) else (net.linear_activation,)
    functions, operations = _functions(net, stage.name), []
    while names and stage is not net.linears[-1]:
        count = max(count for count in range(1, len(names) + 1) if names[:count] in functions)
        operations.append(functions[names[:count]])
        names = names[count:]
    return operations


def relu_follows(stage: Conv | Linear, net: Architecture) -> bool:
    """Returns whether only a ReLU follows a stage's layer."""
    return isinstance(stage, Linear) and stage is not net.linears[-1] and net.linear_activation == "relu"


def _functions(net: Architecture, stage: str) -> dict[tuple[Operation, ...], StageOperation]:
    """Returns a function for each operation, and for each sequence that one function computes."""
    norm, ceil = net.norm, net.pools_up(stage)
    pool = {"size": net.pool_size, "stride": net.pool_stride, "ceil": ceil}
    functions: dict[tuple[Operation, ...], StageOperation] = {
        ("relu",): _by_tower(F.relu),  # not in place: hooks on the layers have seen the input
        ("tanh",): _by_tower(torch.tanh),
        ("pool",): _by_tower(nn.MaxPool2d(net.pool_size, net.pool_stride, ceil_mode=ceil)),
        ("avg_pool",): _by_tower(nn.AvgPool2d(net.pool_size, net.pool_stride, ceil_mode=ceil, count_include_pad=False)),
        ("spatial_norm",): _by_tower(spatial_response_norm, norm=net.spatial_norm),
    }
    for before, relu in (((), False), (("relu",), True)):
        if norm.across_towers:
            functions[*before, "norm"] = partial(_norm_across_towers, norm=norm, relu=relu, stage=stage)
        else:
            functions[*before, "norm"] = _by_tower(response_norm, norm=norm, relu=relu)
            functions[*before, "norm", "pool"] = _by_tower(response_norm_pool, norm=norm, relu=relu, **pool)
    return functions


def _by_tower(function: Callable[..., Tensor], **settings: object) -> StageOperation:
    return partial(_call_by_tower, partial(function, **settings))  # no lambda: networks are pickled


def _call_by_tower(function: Callable[[Tensor], Tensor], xs: TowerTensors, _: Exchange) -> TowerTensors:
    return [function(x) for x in xs]


def _norm_across_towers(xs: TowerTensors, exchange: Exchange, norm: Norm, relu: bool, stage: str) -> TowerTensors:
    widened = exchange.channel_halo(xs, norm.window // 2, f"{stage}'s norm")
    return [
        response_norm(wide, norm, relu)[:, before : before + x.shape[1]]  # (N, C, H, W)
        for x, (wide, before) in zip(xs, widened, strict=True)
    ]
