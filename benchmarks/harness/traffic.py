"""Bytes that each rank of a placement sends in a training step, computed from the architecture."""

import math

from alexnet_torch.model.architecture import Architecture
from alexnet_torch.model.exchange import shard_sizes
from alexnet_torch.model.tower import stage_of
from alexnet_torch.weights.state_dicts import grouped_shapes


def parameter_counts(architecture: Architecture, classes: int, image_size: int) -> tuple[int, int]:
    """Returns the numbers of parameters of the convolutions and of the linear stages, of all towers together."""
    conv_names = {conv.name for conv in architecture.convs}
    sizes = {name: math.prod(shape) for name, shape in grouped_shapes(architecture, classes, image_size).items()}
    convs = sum(size for name, size in sizes.items() if stage_of(name) in conv_names)
    return convs, sum(sizes.values()) - convs


def tower_exchanges(architecture: Architecture, classes: int, image_size: int) -> list[tuple[int, bool]]:
    """Returns for each exchange between towers the values of one image, of all towers, and if gradients come back."""
    exchanges, previous = [], 0
    # stage_sides names the parts of a stage in order: the last is the side after its pooling
    sides = {what.partition("'")[0]: side for what, side in architecture.stage_sides(image_size)}
    for conv in architecture.convs:
        if conv.reads_all_towers:
            exchanges.append((previous, True))
        previous = conv.channels * sides[conv.name] ** 2
    for linear in architecture.linears:
        if linear.reads_all_towers:
            exchanges.append((previous, True))
        previous = linear.width or classes
    return [*exchanges, (previous, False)]  # the logits: each tower computes the same loss


def ring_bytes(values: float, ranks: int) -> float:
    """Returns the bytes that each rank sends to add up float32 values in a ring."""
    return 2 * (ranks - 1) / ranks * 4 * values


def bytes_sent(
    split: str, ranks: int, batch: int, architecture: Architecture, classes: int = 1000, image_size: int = 224
) -> dict[str, float]:
    """Returns the bytes that one rank sends in a step as float32, by kind.

    `split` is as train.py's option; the batch is of all ranks together; no norm is across towers.
    """
    convs, linears = parameter_counts(architecture, classes, image_size)
    towers = architecture.towers
    if split == "none":
        return {"gradients": ring_bytes(convs + linears, ranks)}
    if split == "ranks":
        slices = ranks // towers
        rows = shard_sizes(batch, slices)[0]
        exchanged = sum(
            4 * rows * values * (towers - 1) / towers * (2 if gradients_return else 1)
            for values, gradients_return in tower_exchanges(architecture, classes, image_size)
        )
        return {"activations": exchanged, "gradients": ring_bytes((convs + linears) / towers, slices)}
    others = (ranks - 1) / ranks
    flattened = architecture.convs[-1].channels * architecture.final_side(image_size) ** 2
    widths = [linear.width or classes for linear in architecture.linears]
    exchanged = 4 * batch * others * (2 * flattened + 2 * sum(widths[:-1]) + widths[-1])
    return {"activations": exchanged, "gradients": ring_bytes(convs, ranks)}
