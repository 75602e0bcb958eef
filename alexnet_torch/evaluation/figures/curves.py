"""Plots of a run's results: loss and error by epoch, the confusion matrix, the worst images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alexnet_torch.evaluation.figures.style import MARKERS, PALETTE, Figure, printable_name, styled
from alexnet_torch.evaluation.runs import read_records
from alexnet_torch.evaluation.scoring import WrongImage

MAX_POINTS = 300  # of a curve
COLUMNS = 8  # of worst images


class Curve(NamedTuple):
    """A run's reports on one split, each (n,)."""

    epoch: np.ndarray  # epochs done at each report
    step: np.ndarray  # steps done
    loss: np.ndarray  # in nats
    error: np.ndarray  # top-1 error, as a fraction


def across_seeds(curves: Sequence[Curve]) -> tuple[Curve, Curve, Curve]:
    """Returns the mean, lowest and highest values of curves, with few points, at the steps that all have reported."""
    steps = reduce(np.intersect1d, (curve.step for curve in curves))
    common = [[values[np.isin(curve.step, steps)] for values in curve] for curve in curves]
    parts = np.array_split(np.array(common), min(MAX_POINTS, len(steps)) or 1, axis=2)  # consecutive reports
    short = np.stack([part.mean(2) for part in parts], axis=2) if len(steps) else np.array(common)
    return Curve(*short.mean(0)), Curve(*short.min(0)), Curve(*short.max(0))


@dataclass(frozen=True)
class History:
    """A run's training and validation curves, each of which may be empty, and the test of its best weights."""

    train: Curve
    val: Curve
    test: dict[str, Any] | None = None  # the last record of a test with more crops than one

    def best_step(self) -> int:
        """Returns the step of the lowest validation error, whose weights are in model.pt; 0 before any validation."""
        return int(self.val.step[self.val.error.argmin()]) if len(self.val.step) else 0


def read_history(run: Path) -> History | None:
    """Reads a run's metrics.jsonl; None without that file. A UserError names a line that is no report."""
    if (records := read_records(run)) is None:
        return None
    tests = [record for record in records if record.get("crops", 1) != 1]
    points: dict[str, list[list[float]]] = {"train": [], "val": []}
    for record in records:
        if record.get("crops", 1) == 1:
            points[record["split"]].append([record[name] for name in ("epoch", "step", "loss", "top1_error")])
    train, val = (Curve(*np.array(rows, float).reshape(-1, 4).T) for rows in points.values())
    return History(train, val, tests[-1] if tests else None)


@styled
def curves_figure(histories: Mapping[str, Sequence[History]]) -> Figure:
    """Draws loss and top-1 error by epoch, for runs by their names; those of one name are drawn as mean and band."""
    figure = Figure(figsize=(10, 4.6 + 0.2 * -(-len(histories) // 3)), layout="constrained")
    left, right = figure.subplots(1, 2)
    for index, (name, runs) in enumerate(histories.items()):
        train, (val, low, high) = across_seeds([r.train for r in runs])[0], across_seeds([r.val for r in runs])
        spacing = max(1, len(val.epoch) // 12)
        # colour and marker are unique among 56 runs
        line: dict[str, Any] = {"color": PALETTE[index % len(PALETTE)]}
        marker = {**line, "marker": MARKERS[index % len(MARKERS)], "markerfacecolor": "white"}
        every = index % spacing, spacing  # so that runs' markers do not overlap
        for axes, value, unit in ((left, "loss", 1), (right, "error", 100)):
            if len(runs) > 1:
                band = unit * getattr(low, value), unit * getattr(high, value)
                axes.fill_between(val.epoch, *band, **line, alpha=0.2, linewidth=0)
            axes.plot(train.epoch, unit * getattr(train, value), **line, linewidth=1, alpha=0.75)
            shown = unit * getattr(val, value)
            axes.plot(val.epoch, shown, **marker, ls="--", linewidth=1.6, markersize=5.5, markevery=every)
        seeds = f" ({len(runs)} seeds)" if len(runs) > 1 else ""
        figure.gca().plot([], [], **marker, label=printable_name(name, 34) + seeds)
    figure.legend(loc="outside lower center", ncols=min(3, len(histories)))
    for axes, title in ((left, "Loss (cross-entropy, nats)"), (right, "Top-1 error (%)")):
        axes.set(title=title, xlabel="epoch", xlim=(0, None), ylim=(0, None), axisbelow=True)
        axes.grid(color="0.9", linewidth=0.7)
    if [len(runs) for runs in histories.values()] == [1]:
        val = next(iter(histories.values()))[0].val
        if len(val.error):  # mark the epoch whose weights are in model.pt
            epoch, lowest = val.epoch[val.error.argmin()], 100 * val.error.min()
            for axes in (left, right):
                axes.axvline(epoch, color="0.5", linestyle=":", linewidth=1.2, zorder=0)
            right.plot([epoch], [lowest], marker="*", markersize=13, color="black", zorder=4)
            right.set_title(f"Top-1 error (%), best: {lowest:.2f}%, epoch {epoch:g}")
    handles = right.plot([], [], "-", [], [], "--", color="0.3")
    right.legend(handles, ["training (random crops, dropout)", "validation (centre crop)"], loc="upper right")
    return figure


@styled
def confusion_figure(classes: Sequence[str], counts: np.ndarray) -> Figure:
    """Draws counts (classes, classes): a row for each class, a column for each guess; with numbers if there is room."""
    images = counts.sum(axis=1, keepdims=True)
    fractions = np.divide(counts, images, out=np.zeros(counts.shape), where=images > 0)
    side = float(np.clip(1.6 + 0.34 * len(classes), 4.0, 11.0))
    figure = Figure(figsize=(side + 0.9, side), layout="constrained")
    axes = figure.subplots()
    drawn = axes.imshow(fractions**0.4, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    ticks = (0, 0.01, 0.1, 0.5, 1)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.7, label="fraction of the class's images")
    bar.set_ticks([tick**0.4 for tick in ticks], labels=[f"{tick:g}" for tick in ticks])
    axes.set(xlabel="guess", ylabel="class")
    axes.spines[:].set_visible(True)
    if len(classes) <= 50:
        names = [printable_name(name, 16) for name in classes]
        axes.set_xticks(range(len(classes)), names, rotation=90)
        axes.set_yticks(range(len(classes)), names)
    if len(classes) <= 20:
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "white" if fractions[row, column] > 0.3 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=8)
    return figure


@styled
def wrong_images_figure(images: Sequence[WrongImage]) -> Figure:
    """Draws misclassified images, at least one, with their class, the guess and both probabilities."""
    rows = -(-len(images) // COLUMNS)
    figure = Figure(figsize=(12, 0.2 + 2.05 * rows), layout="constrained")
    for index, image in enumerate(images, 1):
        axes = figure.add_subplot(rows, COLUMNS, index)
        axes.imshow(image.pixels, interpolation="nearest")
        axes.set_axis_off()
        label, guess = printable_name(image.label, 16), printable_name(image.predicted, 16)
        axes.set_title(f"{label} ({image.label_probability:.1%})\nguess {guess} ({image.probability:.0%})", fontsize=8)
    return figure
