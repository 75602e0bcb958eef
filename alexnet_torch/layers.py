"""What torch lacks or does slowly: response normalisation, dropout by key, initialisation."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet_torch.architecture import Init, Norm


def _window_sum(x: Tensor, window: int) -> Tensor:
    """Sums over `window` neighbouring channels of (N, C, ...), clipped at the first and last."""
    total = x.clone()
    for offset in range(1, min(window // 2 + 1, x.shape[1])):
        total[:, offset:] += x[:, :-offset]
        total[:, :-offset] += x[:, offset:]
    return total


def _negative_power(scale: Tensor, beta: float) -> Tensor:
    """scale^-beta; for 0.75 and 0.5 by square roots, which cost a fraction of a power."""
    root = scale.rsqrt()
    if beta == 0.75:
        return root * root.sqrt()
    return root if beta == 0.5 else scale.pow(-beta)


class _ResponseNorm(torch.autograd.Function):
    """Saves its input alone: the sum over neighbours is cheaper to redo than to keep.

    The backward pass is the derivative of b_i = a_i s_i^-beta, s_i = k + c sum_j a_j^2:
    grad a_i = g_i s_i^-beta - 2 c beta a_i sum_j g_j a_j s_j^(-beta - 1), j over i's window.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: Norm) -> Tensor:
        ctx.save_for_backward(x)
        ctx.norm = norm
        scale = _window_sum(x * x, norm.window).mul_(norm.alpha / norm.window).add_(norm.k)
        return _negative_power(scale, norm.beta).mul_(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        (grad,) = grads
        norm: Norm = ctx.norm
        c = norm.alpha / norm.window
        scale = _window_sum(x * x, norm.window).mul_(c).add_(norm.k)
        direct = _negative_power(scale, norm.beta).mul_(grad)  # g s^-beta
        inner = _window_sum((direct * x).div_(scale), norm.window)
        return direct.addcmul_(x, inner, value=-2 * c * norm.beta), None


def response_norm(x: Tensor, norm: Norm) -> Tensor:
    """Response normalisation over neighbouring channels (paper, section 3.3).

    Args:
        x: (N, C, H, W), floating-point, in any memory format, which the result keeps.
        norm: window, alpha, beta and k; `across_towers` is the caller's concern.
    """
    return _ResponseNorm.apply(x, norm)  # type: ignore[no-any-return]


def spatial_response_norm(x: Tensor, norm: Norm) -> Tensor:
    """The 2012 source's second norm: over a window x window square of each channel by itself.

    Args:
        x: (N, C, H, W), floating-point.
        norm: alpha is divided by window^2: the source's 0.001 / 25.
    """
    # count_include_pad: the window is clipped at the borders, its divisor stays window^2
    mean = F.avg_pool2d(x * x, norm.window, stride=1, padding=norm.window // 2)
    return x * (norm.k + norm.alpha * mean) ** -norm.beta


def _mix(bits: Tensor) -> Tensor:
    """A bijection of 32-bit values (in int64) in which every input bit moves every output bit.

    The constants are Chris Wellons' lowbias32. Products of 32-bit values are exact in int64 up to
    its wrap-around, which leaves the low 32 bits right.
    """
    low = 0xFFFFFFFF
    bits = ((bits ^ (bits >> 16)) * 0x7FEB352D) & low
    bits = ((bits ^ (bits >> 15)) * 0x846CA68B) & low
    return bits ^ (bits >> 16)


def dropout_mask(shape: torch.Size, rate: float, key: int, first_row: int, device: torch.device) -> Tensor:
    """Which elements of a batch's activations to keep: True at probability 1 - rate.

    A hash of (key, row in the global batch, element), so that a rank that holds rows of the batch
    takes the same rows of the same mask, on any device, and no other rows are ever drawn.

    Args:
        shape: (n, ...) of the activations.
        rate: probability of dropping an element.
        key: non-negative, below 2^62: one for each step, tower and layer.
        first_row: the first of these rows in the global batch.
        device: where the mask is wanted.

    Returns:
        bool, of `shape`.
    """
    rows = torch.arange(first_row, first_row + shape[0], device=device)
    elements = torch.arange(shape[1:].numel(), device=device)
    low, high = key & 0xFFFFFFFF, key >> 32
    rows = _mix(_mix(rows ^ low) + high & 0xFFFFFFFF)  # (n,)
    bits = _mix(_mix(elements) ^ rows[:, None])  # (n, elements)
    return (bits >= int(rate * 2**32)).view(shape)


def initialise(layer: nn.Conv2d | nn.Linear, init: Init, generator: torch.Generator | None = None) -> None:
    """Draws a layer's weights and biases.

    Args:
        layer: on any device; the numbers are drawn on the CPU, so that they are the same on all.
        init: how.
        generator: of the CPU; None for torch's own.
    """
    std = init.std * (layer.weight[0].numel() ** -0.5 if init.by_fan_in else 1.0)
    values = torch.empty(layer.weight.shape, dtype=layer.weight.dtype)
    if init.distribution == "uniform":
        values.uniform_(-std, std, generator=generator)
    elif init.distribution == "truncated_normal":
        nn.init.trunc_normal_(values, 0.0, std, -2 * std, 2 * std, generator=generator)
    else:
        values.normal_(0.0, std, generator=generator)
    assert layer.bias is not None
    with torch.no_grad():
        layer.weight.copy_(values)
        if init.bias is not None:
            layer.bias.fill_(init.bias)
        else:
            biases = torch.empty(layer.bias.shape, dtype=layer.bias.dtype)
            layer.bias.copy_(biases.uniform_(-std, std, generator=generator))
