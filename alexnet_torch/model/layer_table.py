"""The table of a network's layers: shapes, parameters and multiply-adds, without torch."""

from collections.abc import Callable
from dataclasses import astuple, dataclass, fields

from alexnet_torch.console import text_table
from alexnet_torch.model.architecture import Architecture


@dataclass(frozen=True)
class LayerRow:
    """A stage of the full network, both towers together."""

    stage: str
    output: tuple[int, ...]  # (channels, height, width), or (width,) of a linear stage
    pooled: tuple[int, ...]  # the same after pooling, as the next stage reads it
    kernel: int
    stride: int
    padding: tuple[int, ...]  # at the left, right, top and bottom
    groups: int  # of input channels that are read apart: towers, or 1 where each reads all
    parameters: int
    multiply_adds: int  # of one image's forward pass, without the biases


def layer_table(net: Architecture, num_classes: int = 1000, image_size: int = 224) -> list[LayerRow]:
    final_side, channels, rows = net.final_side(image_size), 3, list[LayerRow]()
    sides = dict(net.stage_sides(image_size))
    for conv in net.convs:
        # conv1 reads the image, which every tower has whole
        groups = net.towers if rows and not conv.reads_all_towers else 1
        side, weights = sides[conv.name], conv.channels * channels // groups * conv.kernel**2
        pooled = final_side if conv is net.convs[-1] else sides.get(f"{conv.name}'s pooling", side)
        output, read = (conv.channels, side, side), (conv.channels, pooled, pooled)
        shape = conv.kernel, conv.stride, conv.padding, groups
        rows.append(LayerRow(conv.name, output, read, *shape, weights + conv.channels, weights * side * side))
        channels = conv.channels
    inputs = channels * final_side**2
    for linear in net.linears:
        groups, width = 1 if linear.reads_all_towers else net.towers, linear.width or num_classes
        weights = inputs // groups * width
        rows.append(LayerRow(linear.name, (width,), (width,), 1, 1, (0, 0, 0, 0), groups, weights + width, weights))
        inputs = width
    return rows


def table_text(rows: list[LayerRow], as_csv: bool = False) -> str:
    """Returns the rows below their column names: with sums for people, or as CSV."""
    names = [field.name for field in fields(LayerRow)]
    number: Callable[[int], str] = str if as_csv else "{:,}".format
    cells = [
        [number(v) if isinstance(v, int) else v if isinstance(v, str) else "x".join(map(str, v)) for v in astuple(row)]
        for row in rows
    ]
    if as_csv:
        return "\n".join(",".join(row) for row in [names, *cells])
    sums = (sum(row.parameters for row in rows), sum(row.multiply_adds for row in rows))
    return text_table(names, [*cells, ["all", *[""] * 6, *map(number, sums)]], left=0)
