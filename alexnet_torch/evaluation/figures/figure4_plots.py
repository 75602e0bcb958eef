"""The drawing of the paper's Figure 4."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alexnet_torch.evaluation.figures.figure4_examples import Example, Neighbour
from alexnet_torch.evaluation.figures.figure_files import BLUE, ORANGE, SKY, STYLE, VERMILLION, printable_name

COLUMNS = 4
CHECK_MARK = "✓"


@matplotlib.rc_context(STYLE)
def labels_figure(run: str, examples: Sequence[Example]) -> Figure:
    """Draws one image or more with bars for their most probable labels, the true one marked: Figure 4, left."""
    columns = min(COLUMNS, len(examples))
    rows = -(-len(examples) // columns)
    figure = Figure(figsize=(max(2.35 * columns + 0.3, 5.2), 3.75 * rows + 0.75), layout="constrained")
    title = f"Most probable labels by {printable_name(run)} ({CHECK_MARK}: the true label)"
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    bars = max(len(example.predictions) for example in examples)
    grid = figure.add_gridspec(2 * rows, columns, height_ratios=[2.2, 0.25 * bars] * rows)
    for index, example in enumerate(examples):
        row, column = divmod(index, columns)
        _show_image(figure.add_subplot(grid[2 * row, column]), example.image)
        figure.axes[-1].set_title(printable_name(example.label or example.file.name), loc="center", weight="bold")
        _draw_bars(figure.add_subplot(grid[2 * row + 1, column]), example, bars)
    return figure


def _show_image(axes: Axes, image: np.ndarray) -> None:
    axes.imshow(image)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color("0.6")


def _draw_bars(axes: Axes, example: Example, bars: int) -> None:
    for y, prediction in enumerate(example.predictions):
        correct = prediction["label"] == example.label
        colour, alpha = (ORANGE, 0.8) if correct else (SKY, 0.55)
        axes.barh(y, prediction["probability"], height=0.84, color=colour, alpha=alpha)
        mark = f"{CHECK_MARK} " if correct else ""
        weight = "bold" if correct else "normal"
        axes.text(0.02, y, mark + printable_name(prediction["label"], 18), va="center", weight=weight, clip_on=True)
        axes.text(1.0, y, f"{prediction['probability']:.0%}", va="center", ha="right", weight=weight)
    axes.set(xlim=(0, 1), ylim=(bars - 0.5, -0.5), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


@matplotlib.rc_context(STYLE)
def neighbours_figure(
    run: str, stage: str, examples: Sequence[Example], neighbours: Sequence[Sequence[Neighbour]]
) -> Figure:
    """Draws a row for each image: the image and its nearest training images in a stage's features: Figure 4, right."""
    columns = 1 + max(len(row) for row in neighbours)
    figure = Figure(figsize=(max(1.38 * columns + 0.3, 7.6), 1.72 * len(examples) + 0.95), layout="constrained")
    figure.suptitle(
        f"Nearest training images by Euclidean distance in {stage} of {printable_name(run)}\n"
        f"({CHECK_MARK} and a solid frame: the same class; no mark and a dashed frame: another class; below: distance)",
        x=0.01,
        ha="left",
        fontsize=11,
    )
    grid = figure.subplots(len(examples), columns, squeeze=False, width_ratios=[1.12] + [1] * (columns - 1))
    for axes, example, row in zip(grid, examples, neighbours, strict=True):
        _show_image(axes[0], example.image)
        name = printable_name(example.label or example.file.name, 16)
        axes[0].set_title(name, loc="center", weight="bold", fontsize=8)
        for column, neighbour in enumerate(row, 1):
            _draw_neighbour(axes[column], neighbour, example.label)
        for unused in axes[1 + len(row) :]:
            unused.set_axis_off()
    grid[0][0].annotate(
        "image", (0.5, 1.0), xycoords="axes fraction", xytext=(0, 18), textcoords="offset points", ha="center"
    )
    return figure


def _draw_neighbour(axes: Axes, neighbour: Neighbour, label: str | None) -> None:
    _show_image(axes, neighbour.image)
    axes.set_xlabel(f"{neighbour.distance:.1f}", fontsize=8, labelpad=2)
    same = neighbour.label == label
    mark = f"{CHECK_MARK} " if same else ""
    axes.set_title(mark + printable_name(neighbour.label, 14), loc="center", fontsize=8)
    if label is not None:
        axes.spines[:].set(color=BLUE if same else VERMILLION, linewidth=1.8, linestyle="-" if same else (0, (3, 2)))
