"""Figures of what a network gets wrong: the confusion matrix, and the worst images."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from alexnet_torch.evaluation.figures.figure_files import STYLE, printable_name
from alexnet_torch.evaluation.guesses import WrongImage

_NAMED, _NUMBERED = 50, 20  # classes whose names and counts there is room for
_COLUMNS = 8


@matplotlib.rc_context(STYLE)
def confusion_figure(classes: Sequence[str], counts: np.ndarray) -> Figure:
    """Draws the confusion matrix: a row for each class, a column for each guess.

    Colours show the fraction of the class's images, on a scale that shows few errors, too; where there are up to 20
    classes, the cells have the number of images.

    Args:
        classes: their names.
        counts: (classes, classes) int64.
    """
    images = counts.sum(axis=1, keepdims=True)
    fractions = np.divide(counts, images, out=np.zeros(counts.shape), where=images > 0)
    side = float(np.clip(1.6 + 0.34 * len(classes), 4.0, 11.0))
    figure = Figure(figsize=(side + 0.9, side), layout="constrained")
    axes = figure.subplots()
    drawn = axes.imshow(fractions, cmap="Blues", norm=PowerNorm(0.4, 0, 1), interpolation="nearest")
    figure.colorbar(drawn, ax=axes, shrink=0.7, label="fraction of the class's images", ticks=[0, 0.01, 0.1, 0.5, 1])
    axes.set_xlabel("guess")
    axes.set_ylabel("class")
    if len(classes) <= _NAMED:
        names = [printable_name(name, 16) for name in classes]
        axes.set_xticks(range(len(classes)), names, rotation=90)
        axes.set_yticks(range(len(classes)), names)
    if len(classes) <= _NUMBERED:
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "white" if fractions[row, column] > 0.3 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=8)
    for spine in axes.spines.values():
        spine.set_visible(True)
    return figure


@matplotlib.rc_context(STYLE)
def wrong_images_figure(images: Sequence[WrongImage]) -> Figure:
    """Draws misclassified images, at least one, with their class, the guess and both probabilities."""
    rows = -(-len(images) // _COLUMNS)
    figure = Figure(figsize=(12, 0.2 + 2.05 * rows), layout="constrained")
    grid = figure.subplots(rows, _COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, image in zip(grid.flat, images, strict=False):
        axes.imshow(image.pixels, interpolation="nearest")
        label, guess = printable_name(image.label, 16), printable_name(image.guess, 16)
        axes.set_title(
            f"{label} ({image.label_probability:.1%})\nguess {guess} ({image.guess_probability:.0%})", fontsize=8
        )
    return figure
