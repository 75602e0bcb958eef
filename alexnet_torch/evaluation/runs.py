"""Runs that were trained: what a run's folder records, the images it was trained on, and tables of runs."""

import json
import logging
import math
import os
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_torch.console import text_table
from alexnet_torch.errors import UserError
from alexnet_torch.files import reading
from alexnet_torch.recipes.settings import deciding
from alexnet_torch.run_folder import CHECKPOINTS, CONFIG, END, METRICS, TENSORBOARD, fix_of_damage, is_claimed

if TYPE_CHECKING:  # they import torch, which the list of runs does not need
    from alexnet_torch.data.cache import PreparedImages
    from alexnet_torch.data.sources.val_split import ValSplit
    from alexnet_torch.weights.model_file import TrainedModel

logger = logging.getLogger(__name__)

Record = dict[str, Any]  # a line of metrics.jsonl


@dataclass(frozen=True)
class Run:
    """What a run's folder records; nothing, if it has imported weights."""

    config: dict[str, Any]
    train: list[Record]  # reports, oldest first
    val: list[Record]  # validations
    test: Record | None  # of the best weights with several crops, at the end

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.config.get("settings", {}))

    @property
    def best(self) -> Record:
        """The validation with the lowest error, whose weights are in model.pt; empty before the first."""
        return min(self.val, key=lambda record: record["top1_error"], default={})

    @property
    def seconds(self) -> float:
        """How long training took: each report's images over its images/s."""
        steps, size = [0.0, *(record["step"] for record in self.train)], self.settings.get("batch_size", 1)
        speeds = [record.get("images_per_second", math.inf) for record in self.train]
        return float(sum((steps[i + 1] - steps[i]) * size / speed for i, speed in enumerate(speeds)))


def read_config(run: Path) -> dict[str, Any]:
    """Returns the content of config.json; nothing without it, as for imported weights."""
    if not (path := run / CONFIG).exists():
        return {}
    with reading(path, "restore it"):
        config = dict(json.loads(path.read_text()))
        return config | {"settings": dict(config["settings"])}


def read_run(run: Path) -> Run:
    path, train, val, tests = run / METRICS, list[Record](), list[Record](), list[Record]()
    *lines, _ = path.read_bytes().split(b"\n") if path.exists() else [b""]  # one without a newline is being written
    for number, line in enumerate(lines, 1):
        with reading(f"{path}: line {number}", fix_of_damage(run, "restore the file")):
            record = json.loads(line)
            record |= {name: float(record[name]) for name in ("epoch", "step", "loss", "top1_error")}
            {"train": train, "val": tests if record.get("crops", 1) != 1 else val}[record["split"]].append(record)
    return Run(read_config(run), train, val, tests[-1] if tests else None)


def recorded_split(run: Path, data: str | Path) -> "ValSplit | None":
    from alexnet_torch.data.sources.recognise import data_folder
    from alexnet_torch.data.sources.val_split import ValSplit

    settings = read_config(run).get("settings", {})
    fraction, own = settings.get("val_split"), settings.get("data")
    if fraction is None or own is None or data_folder(own).resolve() != data_folder(str(data)).resolve():
        return None
    return ValSplit(float(fraction), int(settings["seed"]))


def images_of_run(run: Path, model: "TrainedModel", data: str | None) -> "PreparedImages | None":
    """Returns the images of --data, by default the run's; None if unknown or "none"."""
    from alexnet_torch.data.cache_build import prepare
    from alexnet_torch.data.sources.classes import require_same_classes
    from alexnet_torch.data.sources.recognise import data_folder

    settings = read_config(run).get("settings", {})
    data = data or settings.get("data")
    if data in (None, "none"):
        return None
    cache, skip_bad = settings.get("cache", "auto"), settings.get("skip_bad", False)
    prepared = prepare(data_folder(data), len(model.mean), cache, skip_bad, val_split=recorded_split(run, data))
    fix = "name the images it was trained on"
    require_same_classes(f"--data {data}", prepared.classes, str(run), model.classes, fix)
    return prepared


def differing_settings(runs: Mapping[str, Run]) -> list[str]:
    names = dict.fromkeys(name for run in runs.values() for name in deciding(run.settings))
    return [name for name in names if len({json.dumps(run.settings.get(name)) for run in runs.values()}) > 1]


def same_but_seed(runs: Mapping[str, Run]) -> list[list[str]]:
    """Returns names of runs in groups that differ only in their seed."""
    groups: dict[str, list[str]] = {}
    for name, run in runs.items():
        key, seed = json.dumps(deciding(run.settings) | {"seed": None}, sort_keys=True), run.settings.get("seed")
        if seed is None or seed in {runs[other].settings["seed"] for other in groups.get(key, [])}:
            key += name
        groups.setdefault(key, []).append(name)
    return list(groups.values())


def find_runs(folder: Path) -> dict[str, tuple[Run, str]]:
    """Returns the runs in a folder, or itself, and their states by name; damaged ones give a line."""
    if not folder.is_dir():
        raise UserError(f"runs {folder}: no such folder; name the folder of your runs")
    runs = {}
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in (CHECKPOINTS, TENSORBOARD) and name[0] != ".")
        path = Path(parent)
        try:
            if CONFIG in files and "recipe" in read_config(path)["settings"]:  # else it is another program's
                name = str(path.relative_to(folder)) if path != folder else path.name or str(path)
                run = read_run(path)
                runs[name] = run, _state(path, run)
        except UserError as error:
            logger.warning("left out: %s", error)
    return runs


def _state(path: Path, run: Run) -> str:
    if is_claimed(path):
        return "running"
    if (end := path / END).exists():
        with reading(end, "mend it or move it elsewhere"):
            return str(json.loads(end.read_text())["state"])
    return "done" if run.test else "stopped"  # by kill -9


def run_table(found: Mapping[str, tuple[Run, str]]) -> str:
    names, rows = differing_settings({name: run for name, (run, _) in found.items()}), []
    for name, (run, state) in found.items():
        epoch, best = max((record["epoch"] for record in run.train + run.val), default=0.0), run.best
        errors = percent(best.get("top1_error")), f"{best['epoch']:g}" if best else ""
        test = percent(run.test["top1_error"] if run.test else None)
        cells = [state, f"{epoch:.4g}/{run.settings.get('epochs', '?')}", *errors, test, duration(run.seconds)]
        rows.append(([_shown(name)], run, cells))
    return _settings_table(["run"], names, ["state", "epochs", "best", "at", "test", "time"], rows)


def comparison_table(found: Mapping[str, tuple[Run, str]]) -> str:
    """Returns a line for each combination of settings: mean and spread over seeds."""
    runs = {name: run for name, (run, _) in found.items()}
    names, rows = [name for name in differing_settings(runs) if name != "seed"], []
    for group in same_but_seed(runs):
        done = [run for run, state in map(found.__getitem__, group) if state == "done"]
        best = [run.best["top1_error"] for run in done if run.best]
        test = [run.test["top1_error"] for run in done if run.test]
        seeds = f"{len(done)}" + (f" + {len(group) - len(done)} not done" if len(done) < len(group) else "")
        ends = percent(min(best, default=None)), percent(max(best, default=None))
        first = [] if names else [_shown(group[0])]
        rows.append((first, runs[group[0]], [seeds, *_mean_and_spread(best), *ends, *_mean_and_spread(test)]))
    columns = ["seeds", "best", "spread", "lowest", "highest", "test", "spread"]
    return _settings_table([] if names else ["run"], names, columns, rows)


def _settings_table(
    first: list[str], names: list[str], columns: list[str], rows: Sequence[tuple[list[str], Run, list[str]]]
) -> str:
    """Returns a table of 80 columns at most: else the settings are in lines of their own, below each row."""
    settings = [[_shown(run.settings.get(name)) for name in names] for _, run, _ in rows]
    cells = [[*own, *shown, *last] for (own, _, last), shown in zip(rows, settings, strict=True)]
    table = text_table([*first, *names, *columns], cells, left=len(first) + len(names) + 1)
    if len(max(table.splitlines(), key=len)) <= 80:
        return table
    lines = text_table([*first, *columns], [own + last for own, _, last in rows], left=len(first) + 1).splitlines()
    for i, shown in enumerate(settings, 1):
        text = ", ".join(f"{name} {value}" for name, value in zip(names, shown, strict=True))
        lines[i] = "\n".join([lines[i], *textwrap.wrap(text, 80, initial_indent="    ", subsequent_indent="    ")])
    return "\n".join(lines)


def _mean_and_spread(errors: Sequence[float]) -> list[str]:
    mean = percent(statistics.fmean(errors) if errors else None)
    return [mean, f"± {statistics.stdev(errors):.2%}" if len(errors) > 1 else ""]


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _shown(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 28 else f"...{text[-25:]}"


def percent(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}%}"
