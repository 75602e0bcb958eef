"""One tower's layers, their initial weights, and the names of their parameters.

`towers.0.conv1.weight`; in the grouped layout, which has all towers in one tensor, `conv1.weight`.
"""

import re
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from alexnet_torch.kernel_choice import needs_plain_operations
from alexnet_torch.model.architecture import Architecture, Conv, Init
from alexnet_torch.model.exchange import Shard, shard_sizes
from alexnet_torch.randomness import random_key


class Tower(nn.Module):
    """A shard of one tower: its layers by stage name, with any weights."""

    def __init__(
        self, architecture: Architecture, shard: Shard, device: torch.device, num_classes: int, image_size: int
    ) -> None:
        super().__init__()
        self.shard = shard
        self.local_rows: dict[str, slice] = {}  # by stage: which rows of the tower's parameters are local
        self._outputs: dict[str, int] = {}  # of all shards of the tower together
        channels = own_channels = 3  # of all towers' input, and of this one's
        for conv in architecture.convs:
            inputs = channels if conv.reads_all_towers else own_channels
            channels, own_channels = conv.channels, conv.channels // architecture.towers
            padding = _symmetric_padding(conv)
            layer = nn.Conv2d(inputs, own_channels, conv.kernel, conv.stride, padding, device="meta")
            self.add_module(conv.name, layer)
            self._outputs[conv.name], self.local_rows[conv.name] = own_channels, slice(0, own_channels)
        places = architecture.final_side(image_size) ** 2
        channels, own_channels = channels * places, own_channels * places
        for linear in architecture.linears if shard.index is not None else ():
            assert shard.index is not None
            inputs = channels if linear.reads_all_towers else own_channels
            channels = linear.width or num_classes
            own_channels = shard_sizes(channels, architecture.towers)[shard.tower]
            sizes = shard_sizes(own_channels, shard.count)
            rows = slice(sum(sizes[: shard.index]), sum(sizes[: shard.index + 1]))
            self.add_module(linear.name, nn.Linear(inputs, sizes[shard.index], device="meta"))
            self._outputs[linear.name], self.local_rows[linear.name] = own_channels, rows
        allocate(self, device)

    @property
    def device(self) -> torch.device:
        return self.layer(next(iter(self.local_rows))).weight.device

    def layer(self, stage: str) -> nn.Conv2d | nn.Linear:
        layer = self.get_submodule(stage)
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        return layer

    def reset_parameters(self, architecture: Architecture, seed: int | None) -> None:
        """Draws the weights and biases by (seed, tower, stage); from torch's generator without a seed."""
        for index, stage in enumerate(architecture.stages):
            if (rows := self.local_rows.get(stage.name)) is not None:
                key = None if seed is None else random_key(seed, "init", self.shard.tower, index)
                generator = None if key is None else torch.Generator().manual_seed(key)
                initialise(self.layer(stage.name), stage.init, generator, self._outputs[stage.name], rows)

    def run_layer(self, stage: str, x: Tensor) -> Tensor:
        """Returns the output of a stage's layer, which a tool may have replaced by a quantised one."""
        on_cpu = x.ndim == 2 and x.is_cpu and not torch.compiler.is_compiling()
        with FasterLinear() if on_cpu else nullcontext():
            output: Tensor = self.get_submodule(stage)(x)
        return output


def allocate(net: nn.Module, device: torch.device) -> None:
    """Gives parameters on "meta" memory, with any values. `to_empty` imports sympy: a third of a second."""
    for module in net.modules():
        for name, value in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(torch.empty(value.shape, dtype=value.dtype, device=device)))


def pad_asymmetric(x: Tensor, conv: Conv) -> Tensor:
    """Adds to maps (N, C, H, W) the part of a convolution's padding that its layer does not add."""
    (left, right, top, bottom), (down, across) = conv.padding, _symmetric_padding(conv)
    if left == right and top == bottom:
        return x
    return F.pad(x, (left - across, right - across, top - down, bottom - down))


def _symmetric_padding(conv: Conv) -> tuple[int, int]:
    """Returns the padding that nn.Conv2d adds, the same on both sides: vertical, horizontal."""
    left, right, top, bottom = conv.padding
    return min(top, bottom), min(left, right)


def initialise(
    layer: nn.Conv2d | nn.Linear, init: Init, generator: torch.Generator | None, outputs: int, rows: slice
) -> None:
    """Draws a layer with `outputs` outputs on the CPU, for a shard that has `rows` of them."""
    if layer.weight.is_meta:
        return
    std = init.std * (layer.weight.shape[1:].numel() ** -0.5 if init.by_fan_in else 1.0)
    values = torch.empty((outputs, *layer.weight.shape[1:]), dtype=layer.weight.dtype, device="cpu")
    if init.distribution == "uniform":
        values.uniform_(-std, std, generator=generator)
    elif init.distribution == "truncated_normal":
        nn.init.trunc_normal_(values, 0.0, std, -2 * std, 2 * std, generator=generator)
    else:
        values.normal_(0.0, std, generator=generator)
    assert layer.bias is not None
    biases = torch.full((outputs,), init.bias or 0.0, dtype=layer.bias.dtype, device="cpu")
    if init.bias is None:
        biases.uniform_(-std, std, generator=generator)
    with torch.no_grad():
        layer.weight.copy_(values[rows])
        layer.bias.copy_(biases[rows])


class _Linear(torch.autograd.Function):
    """A fully connected layer by oneDNN, which is faster than torch's MKL on AMD's processors.

    Not the gradient of the weights, whose inner dimension is the batch. Derivatives are products of
    matrices again, so each is this function or torch's.
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # below 32 rows, inputs or outputs, converting the weights to oneDNN's layout costs more
        if min(len(x), *weight.shape) < 32 or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
            return F.linear(x, weight, bias)
        # called as torch's compiler calls it
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad = grads[0].contiguous()  # (N, outputs)
        grad_x = linear(grad, weight.t(), None) if ctx.needs_input_grad[0] else None
        grad_weight = grad.t() @ x if ctx.needs_input_grad[1] else None  # not needed for --freeze
        return grad_x, grad_weight, grad.sum(0) if ctx.needs_input_grad[2] else None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Returns x weight^T + bias as `F.linear`; of x (N, inputs) in float32 by oneDNN."""
    tensors = (x, weight) if bias is None else (x, weight, bias)
    own = all(t.is_cpu and t.dtype == torch.float32 and type(t) in (Tensor, nn.Parameter) for t in tensors)
    if not own or x.ndim != 2 or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
        return F.linear(x, weight, bias)
    return F.linear(x, weight, bias) if needs_plain_operations(*tensors) else _Linear.apply(x, weight, bias)


class FasterLinear(TorchFunctionMode):
    """A context in which nn.Linear, which tools find by its exact type, computes by `linear`."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        del types
        if func is F.linear and len(args) == 3 and not kwargs:
            return linear(*args)
        return func(*args, **(kwargs or {}))


def tower_of(name: str) -> int:
    """Returns 1 for `towers.1.fc7.bias`."""
    return int(name.split(".")[1])


def stage_of(name: str) -> str:
    """Returns `fc7` for `towers.1.fc7.bias` and for `fc7.bias`."""
    return name.split(".")[-2]


def has_tower(name: str) -> bool:
    """Returns whether the name contains a tower, as `towers.1.fc7.bias`."""
    return re.fullmatch(r"towers\.\d+\..+", name) is not None
