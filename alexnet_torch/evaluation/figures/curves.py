"""Plots of a run's results: loss and error by epoch, and the confusion matrix."""

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from alexnet_torch.evaluation.figures.style import MARKERS, PALETTE, Axes, Figure, printable_name, styled
from alexnet_torch.evaluation.published import is_imagenet, published_points
from alexnet_torch.evaluation.runs import Record, Run

MAX_POINTS = 300  # of a curve


class Curve(NamedTuple):
    """A run's reports on one split, each (n,)."""

    epoch: np.ndarray  # epochs done at each report
    step: np.ndarray  # steps done
    loss: np.ndarray  # in nats
    error: np.ndarray  # top-1 error, as a fraction


def curve_of(records: Sequence[Record]) -> Curve:
    rows = [[record[name] for name in ("epoch", "step", "loss", "top1_error")] for record in records]
    return Curve(*np.array(rows, float).reshape(-1, 4).T)


def across_seeds(curves: Sequence[Curve]) -> tuple[Curve, Curve, Curve]:
    """Returns mean, lowest and highest values, with few points, at the steps that all curves have."""
    steps = reduce(np.intersect1d, (curve.step for curve in curves))
    common = np.array([[values[np.isin(curve.step, steps)] for values in curve] for curve in curves])
    parts = np.array_split(common, min(MAX_POINTS, len(steps)), axis=2) if len(steps) else []  # consecutive reports
    short = np.stack([part.mean(2) for part in parts], axis=2) if parts else common
    return Curve(*short.mean(0)), Curve(*short.min(0)), Curve(*short.max(0))


@styled
def curves_figure(groups: Mapping[str, Sequence[Run]]) -> Figure:
    """Draws loss and top-1 error by epoch; several runs of one name as mean and band."""
    figure = Figure(figsize=(10, 4.6 + 0.2 * -(-len(groups) // 3)), layout="constrained")
    left, right = figure.subplots(1, 2)
    for index, (name, runs) in enumerate(groups.items()):
        train, *_ = across_seeds([curve_of(run.train) for run in runs])
        val, low, high = across_seeds([curve_of(run.val) for run in runs])
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
    figure.legend(loc="outside lower center", ncols=min(3, len(groups)))
    for axes, title in ((left, "Loss (cross-entropy, nats)"), (right, "Top-1 error (%)")):
        axes.set(title=title, xlabel="epoch", xlim=(0, None), ylim=(0, None), axisbelow=True)
        axes.grid(color="0.9", linewidth=0.7)
    (first, *more), *others = groups.values()
    if is_imagenet(first.config.get("classes", ())):
        _draw_published(left, right, first.config["images"]["train"])
    if first.best and not more and not others:  # mark the epoch whose weights are in model.pt
        epoch, lowest = first.best["epoch"], 100 * first.best["top1_error"]
        for axes in (left, right):
            axes.axvline(epoch, color="0.5", linestyle=":", linewidth=1.2, zorder=0)
        right.plot([epoch], [lowest], marker="*", markersize=13, color="black", zorder=4)
        right.set_title(f"Top-1 error (%), best: {lowest:.2f}%, epoch {epoch:g}")
    handles = right.plot([], [], "-", [], [], "--", color="0.3")
    right.legend(handles, ["training (random crops, dropout)", "validation (centre crop)"], loc="upper right")
    return figure


def _draw_published(left: Axes, right: Axes, images: int) -> None:
    """Draws the published points, by images seen, in the epochs of a run on so many images."""
    for axes, unit in ((left, 1), (right, 100)):
        end = 1.05 * axes.get_xlim()[1]
        for split, mark in (("train", "+"), ("val", "x")):
            points = [(p.images / images, p.loss, p.error) for p in published_points() if p.split == split]
            shown = [(epoch, unit * (loss if unit == 1 else error)) for epoch, loss, error in points if epoch <= end]
            axes.plot(*np.array(shown).reshape(-1, 2).T, mark, color="0.5", markersize=5, zorder=1)
    left.plot([], [], "+", [], [], "x", color="0.5")
    left.legend(left.lines[-2:], ["published: training", "published: validation"], loc="upper right")


@styled
def confusion_figure(classes: Sequence[str], counts: np.ndarray) -> Figure:
    """Draws counts (classes, classes): a row for each true class, a column for each predicted one."""
    images = counts.sum(axis=1, keepdims=True)
    fractions = np.divide(counts, images, out=np.zeros(counts.shape), where=images > 0)
    side = float(np.clip(1.6 + 0.34 * len(classes), 4.0, 11.0))
    figure = Figure(figsize=(side + 0.9, side), layout="constrained")
    axes = figure.subplots()
    drawn = axes.imshow(fractions**0.4, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    ticks = (0, 0.01, 0.1, 0.5, 1)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.7, label="fraction of the class's images")
    bar.set_ticks([tick**0.4 for tick in ticks], labels=[f"{tick:g}" for tick in ticks])
    axes.set(xlabel="predicted", ylabel="true")
    axes.spines[:].set_visible(True)
    if len(classes) <= 50:
        names = [printable_name(name, 28) for name in classes]
        axes.set_xticks(range(len(classes)), names, rotation=90)
        axes.set_yticks(range(len(classes)), names)
    if len(classes) <= 20:
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "white" if fractions[row, column] > 0.3 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=8)
    return figure
