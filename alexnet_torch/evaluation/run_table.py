"""Tables of runs for a terminal: one run a line, or the mean and spread over seeds."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alexnet_torch.evaluation.run_list import RunSummary
from alexnet_torch.evaluation.run_settings import differing_settings, same_but_seed

_LONGEST = 28  # characters of a setting


def run_table(runs: Sequence[RunSummary], folder: Path) -> str:
    """Returns a table with a line for each run: the settings that differ, state, best error, time.

    Args:
        runs: at least one.
        folder: names of runs are relative to it.
    """
    names = differing_settings({str(run.folder): run.settings for run in runs})
    headings = ["run", *names, "state", "epochs", "best error", "at epoch", "test error", "time"]
    rows = [
        [
            _name(run, folder),
            *(_shown(run.settings.get(name)) for name in names),
            run.state,
            f"{run.epoch:.4g}/{run.settings.get('epochs', '?')}",
            _percent(run.best_error),
            "" if run.best_epoch is None else f"{run.best_epoch:g}",
            _percent(run.test_error),
            duration(run.seconds),
        ]
        for run in runs
    ]
    return _table(headings, rows, 1 + len(names) + 1)


def comparison_table(runs: Sequence[RunSummary], folder: Path) -> str:
    """Returns a table with a line for each setting that differs, except the seed: mean and spread over seeds.

    The spread is the sample standard deviation; runs that are not done are counted, but not part of the mean.

    Args:
        runs: at least one.
        folder: names of runs are relative to it.
    """
    by_name = {_name(run, folder): run for run in runs}
    groups = same_but_seed({name: run.settings for name, run in by_name.items()})
    names = [n for n in differing_settings({name: run.settings for name, run in by_name.items()}) if n != "seed"]
    headings = [
        *(names or ["run"]),
        "seeds",
        "best error: mean",
        "spread",
        "lowest",
        "highest",
        "test error: mean",
        "spread",
    ]
    rows = []
    for group in groups:
        members = [by_name[name] for name in group]
        done = [run for run in members if run.state == "done"]
        label = [_shown(members[0].settings.get(name)) for name in names] or [group[0]]
        best = [run.best_error for run in done if run.best_error is not None]
        test = [run.test_error for run in done if run.test_error is not None]
        seeds = f"{len(done)}" + (f" + {len(members) - len(done)} not done" if len(done) < len(members) else "")
        ends = [_percent(min(best)), _percent(max(best))] if best else ["", ""]
        rows.append([*label, seeds, *_mean_and_spread(best), *ends, *_mean_and_spread(test)])
    return _table(headings, rows, len(names) or 1)


def duration(seconds: float) -> str:
    """Returns a time as 12 s, 3 min 04 s or 5 h 06 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def _mean_and_spread(errors: Sequence[float]) -> list[str]:
    if not errors:
        return ["", ""]
    return [_percent(statistics.fmean(errors)), f"± {statistics.stdev(errors):.2%}" if len(errors) > 1 else ""]


def _name(run: RunSummary, folder: Path) -> str:
    return str(run.folder.relative_to(folder)) if run.folder != folder else run.folder.name or str(run.folder)


def _shown(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= _LONGEST else f"...{text[3 - _LONGEST :]}"


def _percent(error: float | None) -> str:
    return "" if error is None else f"{error:.2%}"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """Returns a table whose first `left` columns are aligned to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    lines = []
    for row in [headings, *rows]:
        cells = [f"{c:<{w}}" if i < left else f"{c:>{w}}" for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
