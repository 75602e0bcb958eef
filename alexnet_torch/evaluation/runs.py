"""Runs that were trained: what a run's folder records, the images it was trained on, and tables of runs."""

import json
import logging
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_torch.errors import UserError
from alexnet_torch.files import reading
from alexnet_torch.recipes.settings import deciding
from alexnet_torch.run_folder import CHECKPOINTS, CONFIG, END, METRICS, TENSORBOARD, fix_of_damage, is_claimed

if TYPE_CHECKING:  # they import torch, which the list of runs does not need
    from alexnet_torch.data.cache import PreparedImages
    from alexnet_torch.data.sources.val_split import ValSplit
    from alexnet_torch.weights.model_file import TrainedModel

logger = logging.getLogger(__name__)


def read_config(run: Path) -> dict[str, Any]:
    """Returns the content of a run's config.json; nothing without that file, as for imported weights."""
    if not (path := run / CONFIG).exists():
        return {}
    with reading(path, "restore it"):
        config = dict(json.loads(path.read_text()))
        return config | {"settings": dict(config["settings"])}


def read_settings(run: Path) -> dict[str, Any]:
    """Returns a run's settings by option; nothing if they are unknown."""
    return dict(read_config(run).get("settings", {}))


def read_records(run: Path) -> list[dict[str, Any]] | None:
    """Returns the records of reports, validations and tests in metrics.jsonl, oldest first; None without the file."""
    if not (path := run / METRICS).exists():
        return None
    *lines, _ = path.read_bytes().split(b"\n")  # a last line without a newline is still being written
    records = []
    for number, line in enumerate(lines, 1):
        with reading(f"{path}: line {number}", fix_of_damage(run, "restore the file")):
            record = json.loads(line)
            record |= {name: float(record[name]) for name in ("epoch", "step", "loss", "top1_error")}
            if record["split"] not in ("train", "val"):
                raise ValueError(f"split {record['split']!r}")
            records.append(record)
    return records


def recorded_split(run: Path, data: str | Path) -> "ValSplit | None":
    """Returns how a run's --val-split divided the images that it was trained on, if `data` names these."""
    from alexnet_torch.data.digits import data_folder
    from alexnet_torch.data.sources.val_split import ValSplit

    settings = read_settings(run)
    fraction, own = settings.get("val_split"), settings.get("data")
    if fraction is None or own is None or data_folder(own).resolve() != data_folder(str(data)).resolve():
        return None
    return ValSplit(float(fraction), int(settings["seed"]))


def images_of_run(run: Path, model: "TrainedModel", data: str | None) -> "PreparedImages | None":
    """Returns the images that --data names, by default the run's; None if they are unknown, or --data is "none"."""
    from alexnet_torch.data.cache_build import prepare
    from alexnet_torch.data.digits import data_folder
    from alexnet_torch.data.sources.classes import same_names

    settings = read_settings(run)
    data = data or settings.get("data")
    if data in (None, "none"):
        return None
    cache, skip_bad = settings.get("cache", "auto"), settings.get("skip_bad", False)
    prepared = prepare(data_folder(data), len(model.mean), cache, skip_bad, val_split=recorded_split(run, data))
    if not same_names(prepared.classes, model.classes):
        raise UserError(f"--data {data}: its classes differ from those of {run}; name the images it was trained on")
    return prepared


def differing_settings(runs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns the names of the settings that are not the same in all runs, which are given by name."""
    names = dict.fromkeys(name for settings in runs.values() for name in deciding(settings))
    return [name for name in names if len({json.dumps(settings.get(name)) for settings in runs.values()}) > 1]


def same_but_seed(runs: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Returns names of runs in groups that differ only in their seed; a run without settings is a group of its own."""
    groups: dict[str, list[str]] = {}
    for index, (name, settings) in enumerate(runs.items()):
        key = json.dumps(deciding(settings) | {"seed": None}, sort_keys=True)
        seeds = {runs[other].get("seed") for other in groups.get(key, [])}
        if settings.get("seed") is None or settings["seed"] in seeds:
            key += f" {index}"
        groups.setdefault(key, []).append(name)
    return list(groups.values())


@dataclass(frozen=True)
class RunSummary:
    """A run in a line."""

    name: str
    settings: dict[str, Any]
    state: str  # running, stopped, diverged, failed or done
    epoch: float  # epochs done at the last report
    best_error: float | None  # the lowest top-1 error of a validation, as a fraction; None before the first one
    best_epoch: float | None
    test_error: float | None  # of the best weights with several crops; None before the end
    seconds: float  # of training, without validation and pauses


def find_runs(folder: Path) -> list[RunSummary]:
    """Returns the runs in a folder, which may be a run itself, by name; damaged ones are left out with a line."""
    if not folder.is_dir():
        raise UserError(f"runs {folder}: no such folder; name the folder of your runs")
    runs = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in (CHECKPOINTS, TENSORBOARD) and name[0] != ".")
        run = Path(parent)
        try:
            settings = read_settings(run) if CONFIG in files else {}
            if "recipe" in settings:  # otherwise another program's config.json
                name = str(run.relative_to(folder)) if run != folder else run.name or str(run)
                runs.append(_summarise(run, name, settings))
        except UserError as error:
            logger.warning("left out: %s", error)
    return runs


def _summarise(run: Path, name: str, settings: dict[str, Any]) -> RunSummary:
    records = read_records(run) or []
    tests = [r for r in records if r.get("crops", 1) != 1]
    validations = [r for r in records if r["split"] == "val" and r not in tests]
    best: dict[str, Any] = min(validations, key=lambda record: record["top1_error"], default={})
    last: dict[str, Any] = ([{}] + (validations if tests else records))[-1]  # a test is of older weights
    state, end = "done" if tests else "stopped", run / END  # killed, if nothing says how it ended
    if is_claimed(run):
        state = "running"
    elif end.exists():
        with reading(end, "mend it or move it elsewhere"):
            state = json.loads(end.read_text())["state"]
    seconds = training_seconds(records, settings.get("batch_size", 1))
    errors = best.get("top1_error"), best.get("epoch"), tests[-1]["top1_error"] if tests else None
    return RunSummary(name, settings, state, last.get("epoch", 0.0), *errors, seconds)


def training_seconds(records: Sequence[dict[str, Any]], batch_size: int) -> float:
    """Returns how long training took: each report's images over its images/s."""
    seconds, step = 0.0, 0.0
    for record in records:
        if record["split"] == "train" and record.get("images_per_second"):
            seconds += (record["step"] - step) * batch_size / record["images_per_second"]
            step = record["step"]
    return seconds


def run_table(runs: Sequence[RunSummary]) -> str:
    """Returns a table with a line for each run: the settings that differ, state, best error, time."""
    names = differing_settings({run.name: run.settings for run in runs})
    rows = []
    for run in runs:
        shown = [_shown(run.settings.get(name)) for name in names]
        epochs = f"{run.epoch:.4g}/{run.settings.get('epochs', '?')}"
        best = percent(run.best_error), "" if run.best_epoch is None else f"{run.best_epoch:g}"
        rows.append([run.name, *shown, run.state, epochs, *best, percent(run.test_error), duration(run.seconds)])
    headings = ["run", *names, "state", "epochs", "best error", "at epoch", "test error", "time"]
    return text_table(headings, rows, left=len(names) + 2)


def comparison_table(runs: Sequence[RunSummary]) -> str:
    """Returns a table with a line for each setting that differs, except the seed: mean and spread over seeds."""
    settings, by_name = {run.name: run.settings for run in runs}, {run.name: run for run in runs}
    names, rows = [name for name in differing_settings(settings) if name != "seed"], []
    for group in same_but_seed(settings):
        label = [_shown(settings[group[0]].get(name)) for name in names] or [group[0]]
        done = [by_name[name] for name in group if by_name[name].state == "done"]
        best = [run.best_error for run in done if run.best_error is not None]
        test = [run.test_error for run in done if run.test_error is not None]
        seeds = f"{len(done)}" + (f" + {len(group) - len(done)} not done" if len(done) < len(group) else "")
        ends = percent(min(best, default=None)), percent(max(best, default=None))
        rows.append([*label, seeds, *_mean_and_spread(best), *ends, *_mean_and_spread(test)])
    columns = ["seeds", "best error: mean", "spread", "lowest", "highest", "test error: mean", "spread"]
    return text_table([*(names or ["run"]), *columns], rows, left=len(names) or 1)


def _mean_and_spread(errors: Sequence[float]) -> list[str]:
    mean = percent(statistics.fmean(errors) if errors else None)
    return [mean, f"± {statistics.stdev(errors):.2%}" if len(errors) > 1 else ""]


def duration(seconds: float) -> str:
    """Returns a time as 12 s, 3 min 04 s or 5 h 06 min."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _shown(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 28 else f"...{text[-25:]}"


def percent(value: float | None, digits: int = 2) -> str:
    """Returns a fraction in %, or nothing."""
    return "" if value is None else f"{value:.{digits}%}"


def text_table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Returns a table whose first `left` columns are aligned to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    columns = ["<"] * left + [">"] * (len(widths) - left)
    form = "  ".join(f"{{:{side}{width}}}" for side, width in zip(columns, widths, strict=True))
    return "\n".join(form.format(*row).rstrip() for row in [headings, *rows])
