"""Training curves of one or several runs, from their metrics.jsonl."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from alexnet_torch.errors import UserError
from alexnet_torch.evaluation.figures.figure_files import MARKERS, PALETTE, STYLE, printable_name
from alexnet_torch.run_folder import METRICS

MAX_POINTS = 300  # of a training curve
LEGEND_COLUMNS = 3


@dataclass(frozen=True)
class Curve:
    """A run's reports on one split."""

    epoch: np.ndarray  # (n,) epochs done at each report
    step: np.ndarray  # (n,) steps done
    loss: np.ndarray  # (n,) in nats
    error: np.ndarray  # (n,) top-1 error, as a fraction

    def downsampled(self, max_points: int) -> "Curve":
        """Returns the means of groups of consecutive reports, `max_points` groups at most."""
        points = min(max_points, len(self.epoch))
        starts = np.unique(np.linspace(0, len(self.epoch), points, endpoint=False).astype(int))
        sizes = np.diff(np.append(starts, len(self.epoch)))
        return Curve(*(np.add.reduceat(v, starts) / sizes for v in (self.epoch, self.step, self.loss, self.error)))


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

    A last line without a newline is still being written: it is left out.

    Raises:
        UserError: a line is not a report.
    """
    path = run / METRICS
    if not path.exists():
        return None
    rows: dict[str, list[tuple[float, ...]]] = {"train": [], "val": []}
    test = None
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break
        try:
            record = json.loads(line)
            values = tuple(float(record[name]) for name in ("epoch", "step", "loss", "top1_error"))
            if record.get("crops", 1) == 1:
                rows[record["split"]].append(values)
            else:  # no point of the curve
                test = record
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: line {number} is not a report ({error!r}); restore the file") from error
    columns = {split: np.array(values, np.float64).reshape(-1, 4).T for split, values in rows.items()}
    return History(Curve(*columns["train"]), Curve(*columns["val"]), test)


@matplotlib.rc_context(STYLE)
def curves_figure(histories: Mapping[str, History]) -> Figure:
    """Draws loss and top-1 error by epoch, for one run or more by their names.

    Training is drawn as thin lines, validation as dashed lines with markers; of one run, the best epoch is marked.
    """
    figure = Figure(figsize=(10, 4.6 + 0.2 * -(-len(histories) // LEGEND_COLUMNS)), layout="constrained")
    left, right = figure.subplots(1, 2)
    for index, history in enumerate(histories.values()):
        colour, marker = _line_style(index)
        train = history.train.downsampled(MAX_POINTS) if len(history.train.epoch) else history.train
        marker_spacing = max(1, len(history.val.epoch) // 12)
        for axes, name, factor in ((left, "loss", 1), (right, "error", 100)):
            axes.plot(train.epoch, factor * getattr(train, name), color=colour, linewidth=1, alpha=0.75)
            axes.plot(
                history.val.epoch,
                factor * getattr(history.val, name),
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
    if len(histories) == 1:
        _mark_best(left, right, *histories.values())
    lines = [Line2D([], [], color="0.3", linewidth=1), Line2D([], [], color="0.3", linewidth=1.6, linestyle="--")]
    right.legend(lines, ["training (random crops, dropout)", "validation (centre crop)"], loc="upper right")
    styles = map(_line_style, range(len(histories)))
    figure.legend(
        [Line2D([], [], color=colour, marker=marker, markerfacecolor="white") for colour, marker in styles],
        [printable_name(name, 34) for name in histories],
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
