"""--track: sends a run's metrics to Trackio, Weights & Biases or MLflow, which know where and for whom."""

import importlib.util
import json
import logging
import secrets
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from alexnet_torch.errors import UserError
from alexnet_torch.files import reading, write_json
from alexnet_torch.run_folder import TRACKING

logger = logging.getLogger(__name__)

PROJECT = "alexnet_torch"  # the name of the project, or MLflow's experiment, that has the runs


def require_tracker(name: str | None) -> None:
    if name is not None and importlib.util.find_spec(name) is None:
        raise UserError(f"--track {name}: needs the package {name}; run pip install {name}, or leave out --track")


class Tracker:
    """Sends a run's records to the tracker `name`, in one tracked run however often the run is resumed.

    One that fails during training, for example without a network, is told in a line and left.
    """

    def __init__(self, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
        self._name, path, ids = name, folder / TRACKING, dict[str, str]()  # of this run, by tracker
        if path.exists():
            with reading(path, "move it elsewhere, and a new run is tracked"):
                ids = dict(json.loads(path.read_text()))
        try:
            self._run: Any = _start(name, folder.resolve(), dict(settings), ids)
        except Exception as error:  # each package has errors of its own
            raise UserError(f"--track {name}: does not start ({_line(error)}); fix it, or leave out --track") from error
        write_json(path, ids)

    def log(self, split: str, record: Mapping[str, Any]) -> None:
        metrics = {f"{split}/{name}": value for name, value in record.items() if isinstance(value, float)}
        # W&B drops steps before those that it has, as that of the best weights
        if split == "test" and self._name == "wandb":
            self._call("summary.update", metrics)
        else:
            self._call("log", metrics, step=int(record["step"]))

    def close(self) -> None:
        self._call("finish")

    def _call(self, method: str, *given: Any, **named: Any) -> None:
        try:
            if self._run is not None:
                attrgetter(method)(self._run)(*given, **named)
        except Exception as error:  # none is worth a training
            self._run = None
            logger.warning("--track %s: failed (%s); training goes on without it", self._name, _line(error))


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or repr(error)


def _start(name: str, folder: Path, settings: dict[str, Any], ids: dict[str, str]) -> Any:
    """Starts or continues a tracked run, and adds its id to `ids`."""
    module, is_new = importlib.import_module(name), name not in ids
    if name == "mlflow":
        if is_new:
            module.set_experiment(PROJECT)
        run = module.start_run(run_name=folder.name) if is_new else module.start_run(run_id=ids[name])
        ids[name] = run.info.run_id
        if is_new:
            module.log_params(settings)  # MLflow refuses another value later
        return SimpleNamespace(log=module.log_metrics, finish=module.end_run)  # as W&B's runs
    run_id = ids.setdefault(name, secrets.token_hex(4))
    own = {"name": folder.name, "id": run_id, "dir": str(folder)}
    own = own if name == "wandb" else {"name": f"{folder.name}-{run_id}"}
    return module.init(project=PROJECT, config=settings, resume="allow", **own)
