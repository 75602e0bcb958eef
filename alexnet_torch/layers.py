"""What torch lacks: the source's spatial normalisation, dropout by key, initialisation."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
