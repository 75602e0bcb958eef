"""A fully connected layer, on a CPU by oneDNN."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class _OneDnnLinear(torch.autograd.Function):
    """A fully connected layer by oneDNN, called as torch's compiler calls it.

    torch's own layer uses MKL, which on AMD's processors reaches two thirds of the speed of oneDNN's
    convolutions. The gradient of the weights, whose inner dimension is the batch, would be no faster by oneDNN.
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
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.ops.mkldnn._linear_pointwise(grad, weight.t(), None, "none", [], "")
        grad_weight = grad.t() @ x if ctx.needs_input_grad[1] else None  # not needed for --freeze
        return grad_x, grad_weight, grad.sum(0)


class FullyConnected(nn.Linear):
    """nn.Linear; on a CPU it uses oneDNN where that is faster."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns (N, outputs) for x (N, inputs)."""
        if self._uses_one_dnn(x):
            return _OneDnnLinear.apply(x, self.weight, self.bias)  # type: ignore[no-any-return]
        return super().forward(x)

    def _uses_one_dnn(self, x: Tensor) -> bool:
        if torch.compiler.is_compiling():  # first: comparing the batch's size would make torch.export fix it
            return False
        # below 32 rows or outputs, converting the weights to oneDNN's layout costs more than it saves
        pays = len(x) >= 32 and self.out_features >= 32
        plain = type(x) is Tensor and not torch.is_autocast_enabled("cpu")
        supported = x.is_cpu and x.dtype == torch.float32 and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        return pays and plain and supported
