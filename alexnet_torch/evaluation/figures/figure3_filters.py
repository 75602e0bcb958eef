"""The paper's Figure 3: the first stage's filters, tower by tower; and how colourful each is."""

from collections.abc import Sequence

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from alexnet_torch.evaluation.figures.colourfulness import WHITE_NOISE, TowerColours
from alexnet_torch.evaluation.figures.figure_files import BLUE, MARKERS, PALETTE, STYLE, printable

COLUMNS = 16  # three rows a tower, as in the paper


@matplotlib.rc_context(STYLE)
def filters_figure(run: str, weights: Sequence[Tensor], colours: TowerColours) -> Figure:
    """The filters of each tower, each scaled by itself with 0 as mid-grey, above their colourfulness.

    Args:
        run: its name, for the title.
        weights: of each tower, (filters, 3, height, width).
        colours: of the same.
    """
    pictures = [filter_grid(tower, COLUMNS).permute(1, 2, 0).numpy() for tower in weights]
    width = 9.0
    heights = [width * picture.shape[0] / picture.shape[1] for picture in pictures]
    strip = 0.55 + 0.45 * len(weights)
    figure = Figure(figsize=(width + 0.4, sum(heights) + 0.45 * len(weights) + strip + 1.1), layout="constrained")
    rows = figure.subplots(len(weights) + 1, 1, height_ratios=[*heights, strip])
    filters, channels, height, across = weights[0].shape
    total = sum(len(tower) for tower in weights)
    figure.suptitle(
        f"{colours.stage} of {printable(run)}: {total} filters of {height} x {across} x {channels}, tower by tower",
        x=0.01,
        ha="left",
        fontsize=12,
    )
    for index, (axes, picture, values) in enumerate(zip(rows, pictures, colours.towers, strict=False)):
        axes.imshow(picture, interpolation="nearest", aspect="equal")
        axes.set_axis_off()
        first = index * filters
        axes.set_title(
            f"Tower {index}: filters {first} to {first + len(values) - 1}, "
            f"colourfulness {values.mean():.2f} ± {values.std():.2f}"
        )
    _strip(rows[-1], colours)
    return figure


def _strip(axes: Axes, colours: TowerColours) -> None:
    """Each filter's index as a mark, a line a tower; the tower's mean as a bar."""
    count = len(colours.towers)
    for index, values in enumerate(colours.towers):
        colour, height = PALETTE[index % len(PALETTE)], count - 1 - index
        rank = np.argsort(np.argsort(values, kind="stable"))
        spread = height + (rank % 5 - 2) * 0.09  # neighbours apart, so that all are seen
        marker = MARKERS[index % len(MARKERS)]
        axes.scatter(values, spread, s=14, marker=marker, facecolors="none", edgecolors=colour, linewidths=0.9)
        axes.plot([values.mean()] * 2, [height - 0.36, height + 0.36], color=colour, linewidth=2.5)
    axes.axvline(WHITE_NOISE, color="0.5", linestyle=":", linewidth=1)
    axes.annotate(
        "white noise", (WHITE_NOISE, 0), xycoords=("data", "axes fraction"), xytext=(3, 3), textcoords="offset points"
    ).set_color("0.4")
    axes.set_yticks(range(count), [f"tower {index}" for index in reversed(range(count))])
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.75, count - 0.5))
    axes.set_xlabel("colourfulness: share of a filter's energy that is not grey (a mark a filter, bars: means)")
    axes.set_title(_sentence(colours.verdict()), color=BLUE if colours.p is not None and colours.p < 0.05 else "black")


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def filter_grid(weights: Tensor, columns: int = 8) -> Tensor:
    """Filters side by side as one picture (3, height, width) in [0, 1].

    Each is scaled by itself, so that its largest weight is at the end of the range and 0 is mid-grey.

    Args:
        weights: (filters, 3, height, width), of any range.
        columns: filters in a row.
    """
    w = weights.detach().float().cpu()
    largest = w.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
    w = torch.nn.functional.pad(0.5 + 0.5 * w / largest, (1, 1, 1, 1), value=1.0)
    missing = -len(w) % columns
    w = torch.cat([w, w.new_ones(missing, *w.shape[1:])])
    rows = w.reshape(-1, columns, *w.shape[1:])  # (rows, columns, 3, height, width)
    return rows.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)
