"""What torch lacks: the source's spatial normalisation, dropout by key, initialisation."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from alexnet_torch.architecture import Init, Norm


def spatial_response_norm(x: Tensor, norm: Norm) -> Tensor:
    """The 2012 source's second norm: over a window x window square of each channel by itself.

    Args:
        x: (N, C, H, W), floating-point.
        norm: alpha is divided by window^2: the source's 0.001 / 25.
    """
    # count_include_pad: the window is clipped at the borders, its divisor stays window^2
    mean = F.avg_pool2d(x * x, norm.window, stride=1, padding=norm.window // 2)
    return x * (norm.k + norm.alpha * mean) ** -norm.beta


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


def _mix(bits: Tensor) -> Tensor:
    """A bijection of 32-bit values (in int64) in which every input bit moves every output bit.

    The constants are Chris Wellons' lowbias32. Products of 32-bit values are exact in int64 up to
    its wrap-around, which leaves the low 32 bits right.
    """
    low = 0xFFFFFFFF
    bits = ((bits ^ (bits >> 16)) * 0x7FEB352D) & low
    bits = ((bits ^ (bits >> 15)) * 0x846CA68B) & low
    return bits ^ (bits >> 16)


def dropout_mask(shape: torch.Size, rate: float, key: Tensor, first_row: int, first_element: int = 0) -> Tensor:
    """Which elements of a batch's activations to keep: True at probability 1 - rate.

    A hash of (key, row in the global batch, element), so that a rank that holds rows of the batch
    takes the same rows of the same mask, on any device, and no other rows are ever drawn.

    Args:
        shape: (n, ...) of the activations.
        rate: probability of dropping an element.
        key: 0-d int64, non-negative, below 2^62: one for each step, tower and layer. A tensor, on the device
            where the mask is wanted, so that a compiled network is not compiled anew for each step.
        first_row: the first of these rows in the global batch.
        first_element: the first of these elements in the tower's row.

    Returns:
        bool, of `shape`.
    """
    rows = torch.arange(first_row, first_row + shape[0], device=key.device)
    elements = torch.arange(first_element, first_element + shape[1:].numel(), device=key.device)
    low, high = key & 0xFFFFFFFF, key >> 32
    rows = _mix(_mix(rows ^ low) + high & 0xFFFFFFFF)  # (n,)
    bits = _mix(_mix(elements) ^ rows[:, None])  # (n, elements)
    return (bits >= int(rate * 2**32)).view(shape)


def initialise(
    layer: nn.Conv2d | nn.Linear,
    init: Init,
    generator: torch.Generator | None = None,
    outputs: int | None = None,
    rows: slice = slice(None),
) -> None:
    """Draws a layer's weights and biases.

    Args:
        layer: on any device; the numbers are drawn on the CPU, so that they are the same on all.
        init: how.
        generator: of the CPU; None for torch's own.
        outputs: of the whole layer, of which this one is a piece; None for what it has.
        rows: of the whole layer's outputs, those that this one has.
    """
    std = init.std * (layer.weight.shape[1:].numel() ** -0.5 if init.by_fan_in else 1.0)
    outputs = len(layer.weight) if outputs is None else outputs
    values = torch.empty((outputs, *layer.weight.shape[1:]), dtype=layer.weight.dtype)
    if init.distribution == "uniform":
        values.uniform_(-std, std, generator=generator)
    elif init.distribution == "truncated_normal":
        nn.init.trunc_normal_(values, 0.0, std, -2 * std, 2 * std, generator=generator)
    else:
        values.normal_(0.0, std, generator=generator)
    assert layer.bias is not None
    with torch.no_grad():
        layer.weight.copy_(values[rows])
        if init.bias is not None:
            layer.bias.fill_(init.bias)
        else:
            biases = torch.empty(outputs, dtype=layer.bias.dtype)
            layer.bias.copy_(biases.uniform_(-std, std, generator=generator)[rows])
