"""Checkpoints: complete or absent, checksummed; the newest two and the best stay. Damaged files are made from them."""

import hashlib
import logging
import re
import time
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from alexnet_torch.data.cache import PreparedImages
from alexnet_torch.data.sources.classes import same_names
from alexnet_torch.distributed.ranks import (
    ParameterStates,
    Ranks,
    gather_full_state,
    load_full_state,
    optimizer_tensors_of,
    weights_of,
)
from alexnet_torch.errors import UserError
from alexnet_torch.files import atomic_file, atomic_write, reading, remove_leftovers, sync_folder
from alexnet_torch.model.alexnet import AlexNet
from alexnet_torch.recipes.recipe import Recipe
from alexnet_torch.recipes.settings import Settings
from alexnet_torch.run_folder import CHECKPOINT_PARTS, CHECKPOINTS, METRICS
from alexnet_torch.weights.model_file import TrainedModel, read_model_files, save_model

logger = logging.getLogger(__name__)

_DIGITS = 16  # of SHA-256 in a file's name, as in torch.hub's file names
_NAME = re.compile(rf"step-(\d+)-([0-9a-f]{{{_DIGITS}}})\.pt")


@dataclass
class RunState:
    """How far a run is: with the weights and velocities, all that resuming needs."""

    step: int = 0  # steps done
    validated: int = 0  # the step of the last validation
    errors: list[float] = field(default_factory=list)  # top-1 errors of all validations, oldest first
    best_step: int | None = None  # the step of the lowest error; None before the first validation
    at_chance: int = 0  # successive steps whose reported loss was that of guessing
    metrics_size: int = 0  # bytes of metrics.jsonl at the last checkpoint
    # since the last report:
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0])  # of losses, and of top-1 errors
    images: int = 0
    steps: int = 0


def run_key(settings: Settings, recipe: Recipe, prepared: PreparedImages) -> dict[str, Any]:
    return {
        **settings.run_key(),  # first: another --image-size is another data set
        "architecture": repr(recipe.architecture),
        "optimizer": recipe.optimizer,
        "data set": prepared.fingerprint,
        "classes": list(prepared.classes),
    }


def require_same_run(saved: dict[str, Any], current: dict[str, Any]) -> None:
    """Refuses a checkpoint of another run, naming the first difference."""
    options = {"data set": "--data", "classes": "--data", "architecture": "--recipe and --ablation"}
    for name, value in current.items():
        if not (same_names(saved[name], value) if name == "classes" else saved.get(name) == value):
            difference = f"has {name} {saved.get(name)}, not {value}"
            if name in options:
                difference = f"does not have the {name} of {options[name]}"
            raise UserError(f"--resume: the run {difference}; use its own settings, or start a run in another folder")


@dataclass
class Checkpoints:
    """The checkpoints of a run, in any placement. All ranks call its methods together."""

    output: Path  # the run's folder
    key: dict[str, Any]  # from `run_key`
    net: AlexNet  # this rank's towers
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ranks: Ranks
    saved_step: int | None = None  # of the newest checkpoint; None before there is one
    saves: int = 0  # by this process
    last_save: float = field(default_factory=time.monotonic)  # seconds on its clock

    def gather(self, stage: str | None = None) -> ParameterStates:
        """Returns all towers' weights and velocities, or a stage's, on the main rank; nothing on the others."""
        return gather_full_state(self.net, self.optimizer, self.ranks, stage)

    def save(self, state: RunState, gathered: ParameterStates) -> None:
        """Saves all that resuming needs, with the parameters from `gather`."""
        with self.ranks.control.main_only() as is_main:
            if is_main:
                metrics = (self.output / METRICS).read_bytes()[: state.metrics_size]
                content = {
                    "key": self.key,
                    "state": asdict(state),
                    "weights": weights_of(gathered),
                    "optimizer": optimizer_tensors_of(gathered),
                    "scaler": self.scaler.state_dict(),
                    "metrics": torch.frombuffer(bytearray(zlib.compress(metrics, 1)), dtype=torch.uint8),
                }
                started = time.monotonic()
                path = save_checkpoint(self.output / CHECKPOINTS, state.step, content, state.best_step)
                logger.debug("checkpoint %s, in %.1f s", path, time.monotonic() - started)
        self.saved_step, self.saves, self.last_save = state.step, self.saves + 1, time.monotonic()

    def load(self, model: TrainedModel) -> tuple[RunState, str] | None:
        """Loads the newest intact checkpoint, if any, and mends the run's files; returns the state and its path."""
        loaded = self.ranks.read_on_main(lambda: self._read(model))
        if loaded is None:
            return None
        path, content = loaded
        load_full_state(self.net, self.optimizer, content["weights"], content["optimizer"])
        self.scaler.load_state_dict(content["scaler"])
        state = RunState(**content["state"])
        self.saved_step = state.step
        return state, path

    def _read(self, model: TrainedModel) -> tuple[str, dict[str, Any]] | None:
        folder = self.output / CHECKPOINTS
        if not list_checkpoints(folder):
            return None
        if (newest := load_newest_intact(folder)) is None:
            raise UserError(f"--resume: no checkpoint in {folder} is intact; start a new run in another --output")
        path, content = newest
        require_same_run(content["key"], self.key)
        metrics, copy = self.output / METRICS, zlib.decompress(content["metrics"].numpy().tobytes())
        if not metrics.exists() or not metrics.read_bytes().startswith(copy):
            atomic_write(metrics, copy)
            logger.warning("%s was damaged: written anew from the checkpoint", metrics)
        _restore_model(self.output, content["state"]["best_step"], model)
        return str(path), content


def save_checkpoint(folder: Path, step: int, content: dict[str, Any], best_step: int | None) -> Path:
    """Saves a checkpoint; one rename makes it and its checksum appear. Keeps the newest two and the best."""
    folder.mkdir(exist_ok=True)  # not its parent, which may have been removed
    unnamed = folder / f"step-{step:08d}.unchecked"
    with atomic_file(unnamed) as file:
        torch.save(content, file)
    path = folder / f"step-{step:08d}-{_digest(unnamed)}.pt"
    unnamed.replace(path)
    sync_folder(folder)
    others = [other for other in list_checkpoints(folder) if _step(other) != step]
    kept = {path, *others[:1], *(other for other in others if _step(other) == best_step)}
    for other in list_checkpoints(folder):
        if other not in kept:  # also one of this step, before its validation
            other.unlink()
    for pattern in (".*.tmp", "*.unchecked"):  # of steps that were not reached again
        remove_leftovers(folder, pattern)
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted((path for path in found if _NAME.fullmatch(path.name)), key=_step, reverse=True)


def load_newest_intact(folder: Path, step: int | None = None) -> tuple[Path, dict[str, Any]] | None:
    """Returns the newest checkpoint whose checksum is right, or that of a step, on the CPU."""
    for path in list_checkpoints(folder):
        if step not in (None, _step(path)):
            continue
        if _digest(path) == path.stem.rpartition("-")[2]:
            with reading(f"--resume: {path}", "no code of it was run; move it elsewhere"):  # another program's
                content = torch.load(path, map_location="cpu", weights_only=True)
                if set(content) != CHECKPOINT_PARTS:
                    raise ValueError("it is no checkpoint of this version")
                return path, content
        logger.warning("%s is damaged (wrong checksum): skipped", path)
    return None


def _restore_model(output: Path, best_step: int | None, model: TrainedModel) -> None:
    """Writes a missing or damaged model.pt or model.json anew, from the checkpoint of the best step."""
    if best_step is None:
        return
    try:
        read_model_files(output)
    except UserError as error:
        found = load_newest_intact(output / CHECKPOINTS, best_step)
        if found is None:
            logger.warning("%s; so is the checkpoint of its step %d: better weights will replace it", error, best_step)
            return
        save_model(output, model, {name: value.contiguous() for name, value in found[1]["weights"].items()})
        logger.warning("model.pt or model.json in %s was damaged: written anew from %s", output, found[0])


def _step(path: Path) -> int:
    return int(path.name.split("-")[1])


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:_DIGITS]
