"""What each process of a placement sends in a training step, in bytes, from the architecture alone."""

import math

from alexnet_torch.model.architecture import Architecture
from alexnet_torch.model.exchange import part_sizes


def weights(architecture: Architecture, classes: int, image_size: int) -> tuple[int, int]:
    """Weights and biases of the convolutions, and of the linear stages, all towers together."""
    from alexnet_torch.weights.grouped import grouped_shapes

    convs = {conv.name for conv in architecture.convs}
    counts = [0, 0]
    for name, shape in grouped_shapes(architecture, classes, image_size).items():
        counts[name.split(".")[0] not in convs] += math.prod(shape)
    return counts[0], counts[1]


def joined(architecture: Architecture, classes: int, image_size: int) -> list[tuple[int, bool]]:
    """What towers exchange for one image, as numbers of all towers together; and whether gradients come back."""
    found = []
    previous = 0
    # of each stage the last, after its pooling
    sides = {what.partition("'")[0]: side for what, side in architecture.stage_sides(image_size)}
    for conv in architecture.convs:
        if conv.meet:
            found.append((previous, True))
        previous = conv.channels * sides[conv.name] ** 2
    for linear in architecture.linears:
        if linear.meet:
            found.append((previous, True))
        previous = linear.width or classes
    return [*found, (previous, False)]  # the logits, of which each tower makes the same loss


def ring(numbers: float, ranks: int) -> float:
    """Bytes that each of some ranks sends to add up float32 numbers in a ring."""
    return 2 * (ranks - 1) / ranks * 4 * numbers


def sent(
    split_name: str, ranks: int, batch: int, architecture: Architecture, classes: int = 1000, image_size: int = 224
) -> dict[str, float]:
    """Bytes a step that one rank sends, by what they are; in float32.

    Args:
        split_name: "none", "ranks" or "hybrid".
        ranks: processes in all.
        batch: images of all of them.
        architecture: without normalisation across towers.
        classes: of the images.
        image_size: in pixels.
    """
    convs, linears = weights(architecture, classes, image_size)
    towers = architecture.towers
    if split_name == "none":
        return {"gradients": ring(convs + linears, ranks)}
    if split_name == "ranks":
        slices = ranks // towers
        rows = part_sizes(batch, slices)[0]
        exchanged = sum(
            4 * rows * numbers * (towers - 1) / towers * (2 if back else 1)
            for numbers, back in joined(architecture, classes, image_size)
        )
        return {"activations": exchanged, "gradients": ring((convs + linears) / towers, slices)}
    others = (ranks - 1) / ranks
    first = architecture.convs[-1].channels * architecture.final_side(image_size) ** 2
    widths = [linear.width or classes for linear in architecture.linears]
    exchanged = 4 * batch * others * (2 * first + 2 * sum(widths[:-1]) + widths[-1])
    return {"activations": exchanged, "gradients": ring(convs, ranks)}
