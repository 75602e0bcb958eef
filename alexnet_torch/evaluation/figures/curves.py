"""Training curves of one or several runs, from their metrics.jsonl."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from alexnet_torch.evaluation.figures.figure_files import MARKERS, PALETTE, STYLE, printable_name
from alexnet_torch.evaluation.runs import read_records

COLUMNS = ("epoch", "step", "loss", "top1_error")  # of a curve, in metrics.jsonl
MAX_POINTS = 300  # of a curve
LEGEND_COLUMNS = 3


@dataclass(frozen=True)
class Curve:
    """A run's reports on one split."""

    epoch: np.ndarray  # (n,) epochs done at each report
    step: np.ndarray  # (n,) steps done
    loss: np.ndarray  # (n,) in nats
    error: np.ndarray  # (n,) top-1 error, as a fraction

    @property
    def columns(self) -> tuple[np.ndarray, ...]:
        """All values, in the order of the fields."""
        return self.epoch, self.step, self.loss, self.error

    def downsampled(self, max_points: int) -> "Curve":
        """Returns the means of groups of consecutive reports, `max_points` groups at most."""
        points = min(max_points, len(self.epoch))
        starts = np.unique(np.linspace(0, len(self.epoch), points, endpoint=False).astype(int))
        sizes = np.diff(np.append(starts, len(self.epoch)))
        return Curve(*(np.add.reduceat(v, starts) / sizes for v in self.columns))


@dataclass(frozen=True)
class Band:
    """The curves of runs that differ in their seed, at the steps that all of them have reported."""

    mean: Curve
    low: Curve
    high: Curve


def across_seeds(curves: Sequence[Curve]) -> Band:
    """Returns the mean, the lowest and the highest values of one or more curves, with few points."""
    steps = reduce(np.intersect1d, (curve.step for curve in curves))
    common = [Curve(*(value[np.isin(curve.step, steps)] for value in curve.columns)) for curve in curves]
    short = [curve.downsampled(MAX_POINTS) if len(steps) else curve for curve in common]
    columns = list(zip(*(curve.columns for curve in short), strict=True))
    return Band(*(Curve(*(combine(values, axis=0) for values in columns)) for combine in (np.mean, np.min, np.max)))


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
    """Reads the reports in a run's metrics.jsonl; returns None without that file, as for imported weights.

    Raises:
        UserError: a line is not a report.
    """
    records = read_records(run)
    if records is None:
        return None
    tests = [record for record in records if record.get("crops", 1) != 1]  # no points of the curve
    rows: dict[str, list[list[float]]] = {"train": [], "val": []}
    for record in records:
        if record.get("crops", 1) == 1:
            rows[record["split"]].append([record[name] for name in COLUMNS])
    train, val = (Curve(*np.array(of_split, np.float64).reshape(-1, len(COLUMNS)).T) for of_split in rows.values())
    return History(train, val, tests[-1] if tests else None)


@matplotlib.rc_context(STYLE)
def curves_figure(histories: Mapping[str, Sequence[History]]) -> Figure:
    """Draws loss and top-1 error by epoch, for one run or more by their names.

    Training is drawn as thin lines, validation as dashed lines with markers; of one run, the best epoch is marked. Runs
    that differ only in their seed have one name: the line is their mean, and validation has a band from the lowest to
    the highest.
    """
    figure = Figure(figsize=(10, 4.6 + 0.2 * -(-len(histories) // LEGEND_COLUMNS)), layout="constrained")
    left, right = figure.subplots(1, 2)
    for index, seeds in enumerate(histories.values()):
        colour, marker = _line_style(index)
        train, val = across_seeds([run.train for run in seeds]), across_seeds([run.val for run in seeds])
        marker_spacing = max(1, len(val.mean.epoch) // 12)
        for axes, name, factor in ((left, "loss", 1), (right, "error", 100)):
            if len(seeds) > 1:
                low, high = factor * getattr(val.low, name), factor * getattr(val.high, name)
                axes.fill_between(val.mean.epoch, low, high, color=colour, alpha=0.2, linewidth=0)
            axes.plot(train.mean.epoch, factor * getattr(train.mean, name), color=colour, linewidth=1, alpha=0.75)
            axes.plot(
                val.mean.epoch,
                factor * getattr(val.mean, name),
                color=colour,
                linestyle="--",
                linewidth=1.6,
                marker=marker,
                markersize=5.5,
                markevery=(index % marker_spacing, marker_spacing),  # so that runs' markers do not overlap
                markerfacecolor="white",
            )
    left.set_title("Loss (cross-entropy, nats)")
    right.set_title("Top-1 error (%)")
    for axes in (left, right):
        _format_axes(axes)
    if [len(seeds) for seeds in histories.values()] == [1]:
        _mark_best(left, right, *next(iter(histories.values())))
    lines = [Line2D([], [], color="0.3", linewidth=1), Line2D([], [], color="0.3", linewidth=1.6, linestyle="--")]
    right.legend(lines, ["training (random crops, dropout)", "validation (centre crop)"], loc="upper right")
    styles = map(_line_style, range(len(histories)))
    figure.legend(
        [Line2D([], [], color=colour, marker=marker, markerfacecolor="white") for colour, marker in styles],
        [
            printable_name(name, 34) + (f" ({len(seeds)} seeds)" if len(seeds) > 1 else "")
            for name, seeds in histories.items()
        ],
        loc="outside lower center",
        ncols=min(LEGEND_COLUMNS, len(histories)),
    )
    return figure


def _mark_best(loss: Axes, error: Axes, history: History) -> None:
    """Draws a vertical line at the epoch whose weights are in model.pt, with its error."""
    if not len(history.val.epoch):
        return
    best = int(history.val.error.argmin())
    epoch, lowest = history.val.epoch[best], 100 * history.val.error[best]
    for axes in (loss, error):
        axes.axvline(epoch, color="0.5", linestyle=":", linewidth=1.2, zorder=0)
    error.plot([epoch], [lowest], marker="*", markersize=13, color="black", zorder=4)
    near_end = epoch > 0.6 * history.val.epoch[-1]
    error.annotate(
        f"best: {lowest:.2f}%, epoch {epoch:g}",
        (epoch, lowest),
        xytext=(-8 if near_end else 8, 12),
        textcoords="offset points",
        ha="right" if near_end else "left",
    )


def _line_style(index: int) -> tuple[str, str]:
    """Returns a run's colour and marker, which are unique among 56 runs."""
    return PALETTE[index % len(PALETTE)], MARKERS[index % len(MARKERS)]


def _format_axes(axes: Axes) -> None:
    axes.set_xlabel("epoch")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.grid(color="0.9", linewidth=0.7)
    axes.set_axisbelow(True)
