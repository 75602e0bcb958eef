"""How Figure 4 is drawn."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alexnet_torch.evaluation.figures.figure4_examples import Example, Neighbour
from alexnet_torch.evaluation.figures.figure_files import BLUE, ORANGE, SKY, STYLE, VERMILLION, printable

COLUMNS = 4
RIGHT = "✓"


@matplotlib.rc_context(STYLE)
def labels_figure(run: str, examples: Sequence[Example]) -> Figure:
    """Images with their most probable labels as bars, the right one marked: Figure 4, left.

    Args:
        run: its name, for the title.
        examples: at least one.
    """
    columns = min(COLUMNS, len(examples))
    rows = -(-len(examples) // columns)
    figure = Figure(figsize=(max(2.35 * columns + 0.3, 5.2), 3.75 * rows + 0.75), layout="constrained")
    figure.suptitle(
        f"Most probable labels by {printable(run)} ({RIGHT}: the right one)", x=0.01, ha="left", fontsize=12
    )
    bars = max(len(example.guesses) for example in examples)
    grid = figure.add_gridspec(2 * rows, columns, height_ratios=[2.2, 0.25 * bars] * rows)
    for index, example in enumerate(examples):
        row, column = divmod(index, columns)
        _show(figure.add_subplot(grid[2 * row, column]), example.picture)
        figure.axes[-1].set_title(printable(example.label or example.file.name), loc="center", weight="bold")
        _bars(figure.add_subplot(grid[2 * row + 1, column]), example, bars)
    return figure


def _show(axes: Axes, picture: np.ndarray) -> None:
    axes.imshow(picture)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color("0.6")


def _bars(axes: Axes, example: Example, bars: int) -> None:
    for place, guess in enumerate(example.guesses):
        right = guess["label"] == example.label
        axes.barh(
            place, guess["probability"], height=0.84, color=ORANGE if right else SKY, alpha=0.8 if right else 0.55
        )
        mark = f"{RIGHT} " if right else ""
        weight = "bold" if right else "normal"
        axes.text(0.02, place, mark + printable(guess["label"], 18), va="center", weight=weight, clip_on=True)
        axes.text(1.0, place, f"{guess['probability']:.0%}", va="center", ha="right", weight=weight)
    axes.set(xlim=(0, 1), ylim=(bars - 0.5, -0.5), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


@matplotlib.rc_context(STYLE)
def neighbours_figure(
    run: str, stage: str, examples: Sequence[Example], neighbours: Sequence[Sequence[Neighbour]]
) -> Figure:
    """Images, and in each one's row the training images nearest to it: Figure 4, right.

    Args:
        run: its name, for the title.
        stage: whose features the distances are taken in.
        examples: at least one.
        neighbours: of each, nearest first.
    """
    columns = 1 + max(len(row) for row in neighbours)
    figure = Figure(figsize=(max(1.38 * columns + 0.3, 7.6), 1.72 * len(examples) + 0.95), layout="constrained")
    figure.suptitle(
        f"Nearest training images by Euclidean distance in {stage} of {printable(run)}\n"
        f"({RIGHT} and a solid frame: the same class; no mark and a dashed frame: another; below: distance)",
        x=0.01,
        ha="left",
        fontsize=11,
    )
    grid = figure.subplots(len(examples), columns, squeeze=False, width_ratios=[1.12] + [1] * (columns - 1))
    for axes, example, row in zip(grid, examples, neighbours, strict=True):
        _show(axes[0], example.picture)
        axes[0].set_title(printable(example.label or example.file.name, 16), loc="center", weight="bold", fontsize=8)
        for place, neighbour in zip(axes[1:], row, strict=False):
            _neighbour(place, neighbour, example.label)
        for place in axes[1 + len(row) :]:
            place.set_axis_off()
    grid[0][0].annotate(
        "image", (0.5, 1.0), xycoords="axes fraction", xytext=(0, 18), textcoords="offset points", ha="center"
    )
    return figure


def _neighbour(axes: Axes, neighbour: Neighbour, label: str | None) -> None:
    _show(axes, neighbour.picture)
    axes.set_xlabel(f"{neighbour.distance:.1f}", fontsize=8, labelpad=2)
    same = neighbour.label == label
    mark = f"{RIGHT} " if same else ""
    axes.set_title(mark + printable(neighbour.label, 14), loc="center", fontsize=8)
    if label is not None:
        axes.spines[:].set(color=BLUE if same else VERMILLION, linewidth=1.8, linestyle="-" if same else (0, (3, 2)))
