"""A fully connected layer, on a CPU by oneDNN."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class _Linear(torch.autograd.Function):
    """A fully connected layer by oneDNN, as torch's compiler calls it.

    torch's own way is MKL, which on AMD's processors runs at two thirds of the rate of oneDNN's
    convolutions. The weights' gradient, whose inner dimension is the batch, gains nothing by it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor]:
        x, weight = ctx.saved_tensors
        grad = grads[0].contiguous()  # (N, outputs)
        inner = None
        if ctx.needs_input_grad[0]:
            inner = torch.ops.mkldnn._linear_pointwise(grad, weight.t(), None, "none", [], "")
        weights = grad.t() @ x if ctx.needs_input_grad[1] else None  # --freeze wants none
        return inner, weights, grad.sum(0)


class FullyConnected(nn.Linear):
    """nn.Linear, on a CPU by the faster way."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, outputs) of x (N, inputs)."""
        return _Linear.apply(x, self.weight, self.bias) if self._by_one_dnn(x) else super().forward(x)

    def _by_one_dnn(self, x: Tensor) -> bool:
        if torch.compiler.is_compiling():  # first: torch.export would fix a batch's size that it sees compared
            return False
        # below 32 rows or outputs, bringing the weights into oneDNN's layout costs more than it saves
        worth = len(x) >= 32 and self.out_features >= 32
        plain = type(x) is Tensor and not torch.is_autocast_enabled("cpu")
        there = x.is_cpu and x.dtype == torch.float32 and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        return worth and plain and there
