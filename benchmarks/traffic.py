"""What each process of a placement sends in a training step, in bytes, from the architecture alone."""

from alexnet_torch.architecture import Architecture
from alexnet_torch.exchange import split


def weights(architecture: Architecture, classes: int, image_size: int) -> tuple[int, int]:
    """Weights and biases of the convolutions, and of the linear stages, all towers together."""
    from alexnet_torch.layouts import grouped_shapes

    convs = {conv.name for conv in architecture.convs}
    counts = [0, 0]
    for name, shape in grouped_shapes(architecture, classes, image_size).items():
        size = 1
        for side in shape:
            size *= side
        counts[name.split(".")[0] not in convs] += size
    return counts[0], counts[1]


def sides(architecture: Architecture, image_size: int) -> list[int]:
    """The side of each convolution stage's map, after its pooling."""
    out, side = [], image_size
    for conv in architecture.convs:
        side = (side + conv.padding[0] + conv.padding[1] - conv.kernel) // conv.stride + 1
        if "pool" in conv.after:
            side = (side - architecture.pool_size) // architecture.pool_stride + 1
        out.append(side)
    return out


def joined(architecture: Architecture, classes: int, image_size: int) -> list[tuple[int, bool]]:
    """What towers exchange for one image, as numbers of all towers together; and whether gradients come back."""
    found = []
    previous, maps = 0, sides(architecture, image_size)
    for conv, side in zip(architecture.convs, maps, strict=True):
        if conv.meet:
            found.append((previous, True))
        previous = conv.channels * side * side
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
        rows = split(batch, slices)[0]
        exchanged = sum(
            4 * rows * numbers * (towers - 1) / towers * (2 if back else 1)
            for numbers, back in joined(architecture, classes, image_size)
        )
        return {"activations": exchanged, "gradients": ring((convs + linears) / towers, slices)}
    others = (ranks - 1) / ranks
    first = architecture.convs[-1].channels * sides(architecture, image_size)[-1] ** 2
    widths = [linear.width or classes for linear in architecture.linears]
    exchanged = 4 * batch * others * (2 * first + 2 * sum(widths[:-1]) + widths[-1])
    return {"activations": exchanged, "gradients": ring(convs, ranks)}
