"""Dropout, with masks as a function of (key, row, element).

`dropout_mask` is some sixty of torch's operations; our kernels compute it in one, with the ReLU
before it, and keep no mask for the backward pass.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet_torch.kernel_choice import choose_kernel, needs_plain_operations
from alexnet_torch.model import cpu_kernels


@dataclass(frozen=True)
class DropoutKey:
    """Identifies one step's dropout masks.

    Attributes:
        seed, step: of the run.
        first_row: position of the first image of a call in the global batch.
        values: `AlexNet.dropout_keys(seed, step)` on the first device, if they were sent already.
    """

    seed: int
    step: int
    first_row: int = 0
    values: Tensor | None = None


class MaskPosition(NamedTuple):
    """The arguments of `dropout_mask` but the shape."""

    rate: float
    key: Tensor
    first_row: int
    first_element: int


def dropout(x: Tensor, position: MaskPosition, relu: bool = False) -> Tensor:
    """Returns x (n, ...), or ReLU(x), with dropped elements 0 and others times 1 / (1 - rate)."""
    if torch.compiler.is_compiling() or needs_plain_operations(x):
        return _formula(x, position, relu)
    return _Dropout.apply(x, position, relu)  # type: ignore[no-any-return]


class _Dropout(torch.autograd.Function):
    """Keeps its result if there is a ReLU, else nothing: the mask is computed again."""

    @staticmethod
    def forward(x: Tensor, position: MaskPosition, relu: bool) -> Tensor:
        return _compute(x, position, relu)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, MaskPosition, bool], output: Tensor) -> None:
        _, ctx.position, relu = inputs
        if relu:
            ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (grad,), gate = grads, ctx.saved_tensors[0] if ctx.saved_tensors else None
        if not torch.is_grad_enabled() and not needs_plain_operations(grad):
            return _compute(grad, ctx.position, False, gate), None, None
        grad = dropout(grad, ctx.position)  # differentiable again
        return _gated(grad, gate), None, None


def _compute(x: Tensor, position: MaskPosition, relu: bool, gate: Tensor | None = None) -> Tensor:
    """Computes dropout by the fastest implementation; the result is 0 where `gate` is 0 or less."""
    chosen = choose_kernel(x, cpu_kernels.available)
    if chosen == "formula":
        return _formula(x, position, relu, gate)
    numbers = *position[1:], _threshold(position.rate), 1 / (1 - position.rate), relu
    if chosen == "C++":
        return cpu_kernels.dropout(_widen(x), *numbers, None if gate is None else _widen(gate)).to(x.dtype)
    from alexnet_torch.model import triton_kernels  # here, because it imports Triton

    return triton_kernels.dropout(x.contiguous(), *numbers, gate)


def _formula(x: Tensor, position: MaskPosition, relu: bool, gate: Tensor | None = None) -> Tensor:
    mask = dropout_mask(x.shape, *position)
    return _gated((F.relu(x) if relu else x) * mask * (1 / (1 - position.rate)), gate)


def _gated(x: Tensor, gate: Tensor | None) -> Tensor:
    return x if gate is None else torch.ops.aten.threshold_backward(x, gate, 0)


def _widen(x: Tensor) -> Tensor:
    return (x if x.dtype == torch.float64 else x.float()).contiguous()


def _threshold(rate: float) -> int:  # the hash, 0..2^32 - 1, below which an element is dropped
    return int(rate * 2**32)


def _mix(bits: Tensor) -> Tensor:
    """Chris Wellons' lowbias32, one to one, of 32-bit values in int64, where products wrap around."""
    low = 0xFFFFFFFF
    bits = ((bits ^ (bits >> 16)) * 0x7FEB352D) & low
    bits = ((bits ^ (bits >> 15)) * 0x846CA68B) & low
    return bits ^ (bits >> 16)


def dropout_mask(shape: torch.Size, rate: float, key: Tensor, first_row: int, first_element: int = 0) -> Tensor:
    """Returns which elements (n, ...) of activations to keep: True with probability 1 - rate.

    A hash of (key, row in the global batch, element of the tower's row): a slice of the batch takes
    its rows of the same mask, on any device. The key, 0-d int64 below 2^62, is of a step, tower and
    stage; it is a tensor, so that a compiled network is not compiled again at each step.
    """
    rows = torch.arange(first_row, first_row + shape[0], device=key.device)
    elements = torch.arange(first_element, first_element + shape[1:].numel(), device=key.device)
    low, high = key & 0xFFFFFFFF, key >> 32
    rows = _mix(_mix(rows ^ low) + high & 0xFFFFFFFF)  # (n,)
    bits = _mix(_mix(elements) ^ rows[:, None])  # (n, elements)
    return (bits >= _threshold(rate)).view(shape)
