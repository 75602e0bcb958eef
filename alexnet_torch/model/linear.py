"""A fully connected layer, on a CPU by oneDNN."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from alexnet_torch.kernel_choice import needs_plain_operations


class _Linear(torch.autograd.Function):
    """A fully connected layer on a CPU, by oneDNN where that is faster.

    torch's own layer uses MKL, which on AMD's processors reaches two thirds of the speed of oneDNN's
    convolutions. The gradient of the weights, whose inner dimension is the batch, would be no faster by oneDNN.
    The derivatives of every order are products of matrices again, so each is this function or torch's.
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # below 32 rows, inputs or outputs, converting the weights to oneDNN's layout costs more than it saves
        if min(len(x), *weight.shape) < 32 or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
            return F.linear(x, weight, bias)
        # called as torch's compiler calls it
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        del output
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad = grads[0].contiguous()  # (N, outputs)
        grad_x = linear(grad, weight.t(), None) if ctx.needs_input_grad[0] else None
        grad_weight = grad.t() @ x if ctx.needs_input_grad[1] else None  # not needed for --freeze
        return grad_x, grad_weight, grad.sum(0) if ctx.needs_input_grad[2] else None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Returns x weight^T + bias, as `torch.nn.functional.linear`, with derivatives of every order.

    Args:
        x: (N, inputs); other shapes, and types other than float32, are computed by torch's function.
        weight: (outputs, inputs).
        bias: (outputs,), or None.
    """
    if _is_plain_float32(x) and _is_plain_float32(weight) and x.ndim == 2 and not torch.is_autocast_enabled("cpu"):
        tensors = (x, weight) if bias is None else (x, weight, bias)
        if not torch.compiler.is_compiling() and not needs_plain_operations(*tensors):
            return _Linear.apply(x, weight, bias)  # type: ignore[no-any-return]
    return F.linear(x, weight, bias)


def _is_plain_float32(x: Tensor) -> bool:
    """Returns whether x is on a CPU, of float32, and of no class that computes in its own way."""
    return x.is_cpu and x.dtype == torch.float32 and type(x) in (Tensor, nn.Parameter)


class FasterLinear(TorchFunctionMode):
    """A context in which nn.Linear computes by `linear`.

    The layers stay nn.Linear itself: quantisation and other tools find them by their exact type, and a hook, a
    parametrisation or pruning works as on any other.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Replaces `torch.nn.functional.linear` as nn.Linear calls it."""
        del types
        if func is F.linear and len(args) == 3 and not kwargs:
            return linear(*args)
        return func(*args, **(kwargs or {}))
