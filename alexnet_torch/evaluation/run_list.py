"""The runs in a folder: what each was, how far it is, and how good its best weights are."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from alexnet_torch.errors import UserError
from alexnet_torch.evaluation.run_images import read_config
from alexnet_torch.evaluation.run_records import read_records, training_seconds
from alexnet_torch.run_folder import CHECKPOINTS, CONFIG, END, TENSORBOARD, is_claimed

State = Literal["running", "stopped", "diverged", "failed", "done"]
_PARTS_OF_A_RUN = {CHECKPOINTS, TENSORBOARD}


@dataclass(frozen=True)
class RunSummary:
    """A run in a line."""

    folder: Path
    settings: dict[str, Any]
    state: State
    epoch: float  # epochs done at the last report
    best_error: float | None  # the lowest top-1 error of a validation, as a fraction; None before the first one
    best_epoch: float | None
    test_error: float | None  # of the best weights with several crops; None before the end
    seconds: float  # of training, without validation


def find_runs(folder: Path, on_damaged: Callable[[str], None]) -> list[RunSummary]:
    """Returns the runs in a folder and the folders in it, by name; the folder may be a run itself.

    Args:
        folder: the folder of the runs.
        on_damaged: called with a message about each run that cannot be read, which is left out.

    Raises:
        UserError: the folder does not exist.
    """
    if not folder.is_dir():
        raise UserError(f"runs {folder}: no such folder; name the folder of your runs")
    runs = []
    for run in sorted(_run_folders(folder)):
        try:
            config = read_config(run)
            if "recipe" in config["settings"]:  # otherwise another program's config.json
                runs.append(summarise_run(run, config["settings"]))
        except UserError as error:
            on_damaged(str(error))
    return runs


def _run_folders(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in _PARTS_OF_A_RUN and not name.startswith(".")]
        if CONFIG in files:
            yield Path(parent)


def summarise_run(run: Path, settings: dict[str, Any]) -> RunSummary:
    """Returns the summary of a run with these settings; raises a UserError if a file of it is damaged."""
    records = read_records(run) or []
    validations = [r for r in records if r["split"] == "val" and r.get("crops", 1) == 1]
    tests = [r for r in records if r.get("crops", 1) != 1]
    best = min(validations, key=lambda record: float(record["top1_error"]), default=None)
    last = (validations if tests else records)[-1:]  # the test is of the best weights, which may be older
    return RunSummary(
        run,
        settings,
        _state(run, bool(tests)),
        last[0]["epoch"] if last else 0.0,
        best["top1_error"] if best else None,
        best["epoch"] if best else None,
        tests[-1]["top1_error"] if tests else None,
        training_seconds(records, settings.get("batch_size", 1)),
    )


def _state(run: Path, is_tested: bool) -> State:
    if is_claimed(run):
        return "running"
    path = run / END
    if not path.exists():  # killed, or of a version that wrote no such file
        return "done" if is_tested else "stopped"
    try:
        state: State = json.loads(path.read_text())["state"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error!r}); mend it or move it elsewhere") from error
    return state
