"""--track: sends a run's metrics to Trackio, Weights & Biases or MLflow, if the package is installed.

The package decides where the metrics go and under which account, from its own environment variables and login.
"""

import importlib.util
import json
import secrets
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from alexnet_torch.errors import UserError
from alexnet_torch.files import atomic_write
from alexnet_torch.run_folder import TRACKING

PROJECT = "alexnet_torch"  # the name of the project, or MLflow's experiment, that has the runs
_TEST = "test"  # the split of the final test's metrics

Log = Callable[[dict[str, float], int], object]  # takes metrics by name, and the step
Finish = Callable[[], object]


def require_tracker(name: str | None) -> None:
    """Checks that the package of --track is installed, before images are prepared.

    Raises:
        UserError: it is not; the message says what to install.
    """
    if name is not None and importlib.util.find_spec(name) is None:
        raise UserError(f"--track {name}: needs the package {name}; run pip install {name}, or leave out --track")


class Tracking:
    """Sends the records of a run to the tracker that --track names, in one tracked run however often it is resumed.

    A tracker that fails during training, for example without a network, is told in a line and left; training goes on.

    Args:
        name: "trackio", "wandb" or "mlflow"; None sends nothing.
        folder: the run's, with the identifier of the tracked run, which is created at the first start.
        settings: the run's settings, by option.

    Raises:
        UserError: the tracker does not start.
    """

    def __init__(self, name: str | None, folder: Path, settings: Mapping[str, Any]) -> None:
        self._name = name
        self._log: Log | None = None
        self._finish: Finish = lambda: None
        if name is None:
            return
        try:
            identifier, is_new = _identifier(folder / TRACKING, name)
            self._log, self._finish, identifier = _STARTS[name](folder, dict(settings), identifier, is_new)
            _save_identifier(folder / TRACKING, name, identifier)
        except UserError:
            raise
        except Exception as error:  # each package has errors of its own
            reason = " ".join(str(error).split()) or repr(error)
            raise UserError(f"--track {name}: does not start ({reason}); fix it, or leave out --track") from error

    def log(self, record: Mapping[str, Any]) -> None:
        """Sends all floats of a metrics record, as <split>/<name>; as test/<name> for the final test."""
        if self._log is None:
            return
        split = record["split"] if record.get("crops", 1) == 1 else _TEST
        metrics = {f"{split}/{name}": value for name, value in record.items() if isinstance(value, float)}
        try:
            self._log(metrics, int(record["step"]))
        except Exception as error:  # each package has errors of its own; none is worth a training
            self._give_up(error)

    def close(self) -> None:
        """Waits until all metrics are sent."""
        if self._log is None:
            return
        try:
            self._finish()
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._log = None
        reason = " ".join(str(error).split()) or repr(error)
        print(f"--track {self._name}: failed ({reason}); training goes on without it", file=sys.stderr)


def _start_trackio(folder: Path, settings: dict[str, Any], identifier: str, is_new: bool) -> tuple[Log, Finish, str]:
    import trackio

    name = f"{folder.resolve().name}-{identifier}"  # Trackio continues a run by its name
    trackio.init(PROJECT, name=name, config=settings, resume="never" if is_new else "allow")
    return lambda metrics, step: trackio.log(metrics, step=step), trackio.finish, identifier


def _start_wandb(folder: Path, settings: dict[str, Any], identifier: str, is_new: bool) -> tuple[Log, Finish, str]:
    import wandb

    del is_new
    name = folder.resolve().name
    run = wandb.init(project=PROJECT, name=name, id=identifier, resume="allow", config=settings, dir=str(folder))

    def log(metrics: dict[str, float], step: int) -> None:
        if any(metric.startswith(f"{_TEST}/") for metric in metrics):
            run.summary.update(metrics)  # as a step, that of the best weights, it would be dropped: see below
        else:
            # W&B drops steps before those that it has: those that a killed run sends again, which are the same
            run.log(metrics, step=step)

    return log, run.finish, identifier


def _start_mlflow(folder: Path, settings: dict[str, Any], identifier: str, is_new: bool) -> tuple[Log, Finish, str]:
    import mlflow

    if is_new:
        mlflow.set_experiment(PROJECT)
        run = mlflow.start_run(run_name=folder.resolve().name)
        mlflow.log_params(settings)  # MLflow refuses another value later
    else:
        run = mlflow.start_run(run_id=identifier)
    return lambda metrics, step: mlflow.log_metrics(metrics, step=step), mlflow.end_run, run.info.run_id


_STARTS = {"trackio": _start_trackio, "wandb": _start_wandb, "mlflow": _start_mlflow}


def _identifier(path: Path, name: str) -> tuple[str, bool]:
    """Returns the identifier of a run in a tracker, and whether it is a new one."""
    saved = _read_identifiers(path).get(name)
    return (saved, False) if saved else (secrets.token_hex(4), True)


def _save_identifier(path: Path, name: str, identifier: str) -> None:
    text = json.dumps(_read_identifiers(path) | {name: identifier}).encode()
    atomic_write(path, lambda file: file.write(text))


def _read_identifiers(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); move it elsewhere, and a new one is tracked") from error
