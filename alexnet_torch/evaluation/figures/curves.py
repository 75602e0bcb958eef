"""Training curves of one or several runs, from their metrics.jsonl."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from alexnet_torch.errors import UserError
from alexnet_torch.evaluation.figures.figure_files import MARKERS, PALETTE, STYLE, printable
from alexnet_torch.run_folder import METRICS

POINTS = 300  # of a training curve: reports are averaged to so many
LEGEND_COLUMNS = 3


@dataclass(frozen=True)
class Curve:
    """One split's reports of a run.

    Attributes:
        epoch: (n,) of each report.
        step: (n,) steps done.
        loss: (n,) in nats.
        error: (n,) top-1 error, as a fraction.
    """

    epoch: np.ndarray
    step: np.ndarray
    loss: np.ndarray
    error: np.ndarray

    def averaged(self, points: int) -> "Curve":
        """The means of consecutive reports, so that at most `points` are left."""
        starts = np.unique(np.linspace(0, len(self.epoch), min(points, len(self.epoch)), endpoint=False).astype(int))
        sizes = np.diff(np.append(starts, len(self.epoch)))
        return Curve(*(np.add.reduceat(v, starts) / sizes for v in (self.epoch, self.step, self.loss, self.error)))


@dataclass(frozen=True)
class History:
    """A run's curves; either may have no points yet."""

    train: Curve
    val: Curve

    def best_step(self) -> int:
        """The step of the lowest validation error, whose weights model.pt has; 0 before any validation."""
        return int(self.val.step[self.val.error.argmin()]) if len(self.val.step) else 0


def read_history(run: Path) -> History | None:
    """The reports of a run's metrics.jsonl; None if it has none, as when its weights were imported.

    Raises:
        UserError: a line is no report. A last line without its end is one being written, and left out.
    """
    path = run / METRICS
    if not path.exists():
        return None
    rows: dict[str, list[tuple[float, ...]]] = {"train": [], "val": []}
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break
        try:
            record = json.loads(line)
            values = tuple(float(record[name]) for name in ("epoch", "step", "loss", "top1_error"))
            if record.get("crops", 1) == 1:  # tests with more crops are no points of the curve
                rows[record["split"]].append(values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: line {number} is no report ({error!r}); restore the file") from error
    columns = {split: np.array(values, np.float64).reshape(-1, 4).T for split, values in rows.items()}
    return History(Curve(*columns["train"]), Curve(*columns["val"]))


@matplotlib.rc_context(STYLE)
def curves_figure(histories: Mapping[str, History]) -> Figure:
    """Loss and top-1 error by epoch: training as thin lines, validation as dashes with marks.

    Args:
        histories: by run's name, at least one.
    """
    figure = Figure(figsize=(10, 4.6 + 0.2 * -(-len(histories) // LEGEND_COLUMNS)), layout="constrained")
    left, right = figure.subplots(1, 2)
    for index, history in enumerate(histories.values()):
        colour, marker = _look(index)
        train = history.train.averaged(POINTS) if len(history.train.epoch) else history.train
        for axes, name, factor in ((left, "loss", 1), (right, "error", 100)):
            axes.plot(train.epoch, factor * getattr(train, name), color=colour, linewidth=1, alpha=0.75)
            every = max(1, len(history.val.epoch) // 12)
            validated = factor * getattr(history.val, name)
            axes.plot(
                history.val.epoch,
                validated,
                color=colour,
                linestyle="--",
                linewidth=1.6,
                marker=marker,
                markersize=5.5,
                markevery=(index % every, every),  # so that marks of several runs do not lie on each other
                markerfacecolor="white",
            )
    left.set_title("Loss (cross-entropy, nats)")
    right.set_title("Top-1 error (%)")
    for axes in (left, right):
        _frame(axes)
    kinds = [Line2D([], [], color="0.3", linewidth=1), Line2D([], [], color="0.3", linewidth=1.6, linestyle="--")]
    right.legend(kinds, ["training (random crops, dropout)", "validation (centre crop)"], loc="upper right")
    figure.legend(
        [Line2D([], [], color=c, marker=m, markerfacecolor="white") for c, m in map(_look, range(len(histories)))],
        [printable(name, 34) for name in histories],
        loc="outside lower center",
        ncols=min(LEGEND_COLUMNS, len(histories)),
    )
    return figure


def _look(index: int) -> tuple[str, str]:
    """A run's colour and marker, which differ from any other's among 56."""
    return PALETTE[index % len(PALETTE)], MARKERS[index % len(MARKERS)]


def _frame(axes: Axes) -> None:
    axes.set_xlabel("epoch")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.grid(color="0.9", linewidth=0.7)
    axes.set_axisbelow(True)
