"""--track: sends a run's metrics to Trackio, Weights & Biases or MLflow, if the package is installed.

The package decides where the metrics go and under which account, from its own environment variables and login.
"""

import importlib
import importlib.util
import json
import logging
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alexnet_torch.errors import UserError
from alexnet_torch.files import atomic_write, reading
from alexnet_torch.run_folder import TRACKING

logger = logging.getLogger(__name__)

PROJECT = "alexnet_torch"  # the name of the project, or MLflow's experiment, that has the runs


def require_tracker(name: str | None) -> None:
    """Raises a UserError if the package of --track is not installed."""
    if name is not None and importlib.util.find_spec(name) is None:
        raise UserError(f"--track {name}: needs the package {name}; run pip install {name}, or leave out --track")


class Tracker:
    """Sends the records of a run to the tracker that --track names, in one tracked run however often it is resumed.

    A tracker that fails during training, for example without a network, is told in a line and left; training goes on.

    Args:
        name: "trackio", "wandb" or "mlflow".
        folder: the run's, with the identifier of the tracked run, which is created at the first start.
        settings: the run's settings, by option.

    Raises:
        UserError: the tracker does not start.
    """

    def __init__(self, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
        self._name, path, identifiers = name, folder / TRACKING, dict[str, str]()
        if path.exists():
            with reading(path, "move it elsewhere, and a new run is tracked"):
                identifiers = dict(json.loads(path.read_text()))
        try:
            start = _MLflowRun if name == "mlflow" else _start_run
            self._run: Any = start(name, folder.resolve(), dict(settings), identifiers)
        except Exception as error:  # each package has errors of its own
            reason = " ".join(str(error).split()) or repr(error)
            raise UserError(f"--track {name}: does not start ({reason}); fix it, or leave out --track") from error
        atomic_write(path, lambda file: file.write(json.dumps(identifiers).encode()))

    def log(self, record: Mapping[str, Any]) -> None:
        """Sends all floats of a metrics record, as <split>/<name>; as test/<name> for the final test."""
        is_test = record.get("crops", 1) != 1
        split = "test" if is_test else record["split"]
        metrics = {f"{split}/{name}": value for name, value in record.items() if isinstance(value, float)}
        if is_test and self._name == "wandb":  # which drops steps before those that it has, as that of the best weights
            self._call("summary.update", metrics)
        else:
            self._call("log", metrics, step=int(record["step"]))

    def close(self) -> None:
        """Waits until all metrics are sent."""
        self._call("finish")

    def _call(self, method: str, *given: Any, **named: Any) -> None:
        if self._run is None:
            return
        try:
            owner, _, function = method.rpartition(".")
            getattr(getattr(self._run, owner) if owner else self._run, function)(*given, **named)
        except Exception as error:  # none is worth a training
            self._run = None
            reason = " ".join(str(error).split()) or repr(error)
            logger.warning("--track %s: failed (%s); training goes on without it", self._name, reason)


def _start_run(name: str, folder: Path, settings: dict[str, Any], identifiers: dict[str, str]) -> Any:
    """Starts or continues a run of Trackio, by its name, or of Weights & Biases, by its id."""
    identifier = identifiers.setdefault(name, secrets.token_hex(4))
    own = {"name": f"{folder.name}-{identifier}"}
    if name == "wandb":
        own = {"name": folder.name, "id": identifier, "dir": str(folder)}
    return importlib.import_module(name).init(project=PROJECT, config=settings, resume="allow", **own)


class _MLflowRun:
    """A run of MLflow, with the methods of Weights & Biases' runs."""

    def __init__(self, name: str, folder: Path, settings: dict[str, Any], identifiers: dict[str, str]) -> None:
        self._mlflow = mlflow = importlib.import_module(name)
        if name in identifiers:
            mlflow.start_run(run_id=identifiers[name])
            return
        mlflow.set_experiment(PROJECT)
        identifiers[name] = mlflow.start_run(run_name=folder.name).info.run_id
        mlflow.log_params(settings)  # MLflow refuses another value later

    def log(self, metrics: dict[str, float], step: int) -> None:
        self._mlflow.log_metrics(metrics, step=step)

    def finish(self) -> None:
        self._mlflow.end_run()
