"""Initial weights."""

import torch
from torch import nn

from alexnet_torch.model.architecture import Init


def initialise(
    layer: nn.Conv2d | nn.Linear,
    init: Init,
    generator: torch.Generator | None = None,
    outputs: int | None = None,
    rows: slice = slice(None),
) -> None:
    """Draws a layer's weights and biases.

    Args:
        layer: on any device; the values are drawn on the CPU, so that all devices get the same.
        init: the distribution of the weights, and the biases.
        generator: a CPU generator; None for torch's own.
        outputs: number of outputs of the full layer, if this one is a piece of it; None for this layer's number.
        rows: the rows of the full layer that this one has.
    """
    if layer.weight.is_meta:  # a shape without memory: there is nothing to draw
        return
    std = init.std * (layer.weight.shape[1:].numel() ** -0.5 if init.by_fan_in else 1.0)
    outputs = len(layer.weight) if outputs is None else outputs
    values = torch.empty((outputs, *layer.weight.shape[1:]), dtype=layer.weight.dtype, device="cpu")
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
            biases = torch.empty(outputs, dtype=layer.bias.dtype, device="cpu")
            layer.bias.copy_(biases.uniform_(-std, std, generator=generator)[rows])
