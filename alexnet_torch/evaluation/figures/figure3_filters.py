"""The paper's Figure 3: the first stage's filters by tower, and how colourful each filter is."""

import textwrap
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from alexnet_torch.evaluation.figures.colourfulness import WHITE_NOISE, TowerColourfulness
from alexnet_torch.evaluation.figures.figure_files import BLUE, MARKERS, PALETTE, STYLE, printable_name
from alexnet_torch.evaluation.figures.filter_grid import filter_grid

COLUMNS = 16  # three rows for each tower, as in the paper


@matplotlib.rc_context(STYLE)
def filters_figure(run: str, weights: Sequence[Tensor], colours: TowerColourfulness, note: str | None = None) -> Figure:
    """Draws each tower's filters (filters, 3, height, width), each scaled with 0 as mid-grey, and their colourfulness.

    The title names the run; the note, from `grey_note`, is below it.
    """
    grids = [filter_grid(tower, COLUMNS).permute(1, 2, 0).numpy() for tower in weights]  # (H, W, 3) each
    width = 9.0
    heights = [width * grid.shape[0] / grid.shape[1] for grid in grids]
    panel = 0.55 + 0.45 * len(weights)  # height of the colourfulness
    figure = Figure(figsize=(width + 0.4, sum(heights) + 0.45 * len(weights) + panel + 1.1), layout="constrained")
    rows = figure.subplots(len(weights) + 1, 1, height_ratios=[*heights, panel])
    filters, channels, filter_height, filter_width = weights[0].shape
    total = sum(len(tower) for tower in weights)
    figure.suptitle(
        f"{colours.stage} of {printable_name(run)}: {total} filters of {filter_height} x {filter_width} x {channels}, "
        "by tower" + (f"\n{textwrap.fill(note, 95)}" if note else ""),
        x=0.01,
        ha="left",
        fontsize=12,
    )
    for index, (axes, grid, values) in enumerate(zip(rows, grids, colours.towers, strict=False)):
        axes.imshow(grid, interpolation="nearest", aspect="equal")
        axes.set_axis_off()
        first = index * filters
        axes.set_title(
            f"Tower {index}: filters {first} to {first + len(values) - 1}, "
            f"colourfulness {values.mean():.2f} ± {values.std():.2f}"
        )
    _draw_colourfulness(rows[-1], colours)
    return figure


def grey_note(mean: np.ndarray) -> str | None:
    """Returns what to expect of filters that learnt from grey images, such as digits; None if the images have colours.

    Args:
        mean: (S, S, 3) mean image, whose channels are equal if those of every image are.
    """
    if (mean != mean[..., :1]).any() or (mean == mean[0, 0]).all():  # a constant mean says nothing about the images
        return None
    return (
        "the training images are grey, so that nothing gives the filters colours: the colours are what is left of the "
        "random initial weights, which look like noise, and training changes only light and dark"
    )


def _draw_colourfulness(axes: Axes, colours: TowerColourfulness) -> None:
    """Draws a line for each tower, with a marker for each filter and a bar at the tower's mean."""
    count = len(colours.towers)
    for index, values in enumerate(colours.towers):
        colour, y = PALETTE[index % len(PALETTE)], count - 1 - index
        order = np.argsort(np.argsort(values, kind="stable"))
        ys = y + (order % 5 - 2) * 0.09  # similar values at different heights, so that all are visible
        marker = MARKERS[index % len(MARKERS)]
        axes.scatter(values, ys, s=14, marker=marker, facecolors="none", edgecolors=colour, linewidths=0.9)
        axes.plot([values.mean()] * 2, [y - 0.36, y + 0.36], color=colour, linewidth=2.5)
    axes.axvline(WHITE_NOISE, color="0.5", linestyle=":", linewidth=1)
    axes.annotate(
        "white noise", (WHITE_NOISE, 0), xycoords=("data", "axes fraction"), xytext=(3, 3), textcoords="offset points"
    ).set_color("0.4")
    axes.set_yticks(range(count), [f"tower {index}" for index in reversed(range(count))])
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.75, count - 0.5))
    axes.set_xlabel("colourfulness: fraction of a filter's energy that is not grey (markers: filters; bars: means)")
    conclusion = colours.conclusion()
    significant = colours.p is not None and colours.p < 0.05
    axes.set_title(conclusion[0].upper() + conclusion[1:], color=BLUE if significant else "black")
