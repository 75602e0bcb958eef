"""Checkpoints: complete or absent, checksummed; the newest two and the best stay."""

import hashlib
import logging
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from alexnet_torch.distributed.ranks import Ranks
from alexnet_torch.distributed.sharded_state import (
    ParameterStates,
    gather_full_state,
    load_full_state,
    optimizer_tensors_of,
    weights_of,
)
from alexnet_torch.errors import UserError
from alexnet_torch.files import atomic_write, remove_leftovers, sync_folder
from alexnet_torch.model.alexnet import AlexNet
from alexnet_torch.training.run_state import RunState, require_same_run

logger = logging.getLogger(__name__)

_DIGITS = 16  # of SHA-256 in a file's name, as in torch.hub's file names
_NAME = re.compile(rf"step-(\d+)-([0-9a-f]{{{_DIGITS}}})\.pt")


@dataclass
class RunCheckpoints:
    """Saves and loads the checkpoints of one run, in any placement. All ranks call its methods together."""

    folder: Path
    identity: dict[str, Any]  # from `run_state.identity`
    net: AlexNet  # this rank's towers
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ranks: Ranks
    saved_step: int | None = None  # of the newest checkpoint; None before there is one
    saves: int = 0  # by this process
    last_save: float = field(default_factory=time.monotonic)  # seconds on its clock
    metrics: Tensor | None = None  # of the run until the loaded checkpoint; see restore.py

    def minutes_since_save(self) -> float:
        """Returns the minutes since this process last saved a checkpoint, or started."""
        return (time.monotonic() - self.last_save) / 60

    def gather(self) -> ParameterStates:
        """Returns all towers' weights and velocities on the main rank, nothing on the others."""
        return gather_full_state(self.net, self.optimizer, self.ranks)

    def save(self, state: RunState, gathered: ParameterStates, metrics: Callable[[], Tensor]) -> None:
        """Saves a checkpoint of all that resuming needs, with the parameters from `gather`.

        `metrics` is called on the main rank, and returns the run's metrics.
        """
        with self.ranks.control.main_only() as is_main:
            if is_main:
                content = {
                    "identity": self.identity,
                    "state": asdict(state),
                    "weights": weights_of(gathered),
                    "optimizer": optimizer_tensors_of(gathered),
                    "scaler": self.scaler.state_dict(),
                    "metrics": metrics(),
                }
                started = time.monotonic()
                path = save_checkpoint(self.folder, state.step, content, state.best_step)
                logger.debug(f"checkpoint {path}, in {time.monotonic() - started:.1f} s")
        self.saved_step, self.saves, self.last_save = state.step, self.saves + 1, time.monotonic()

    def load(self) -> tuple[RunState, str] | None:
        """Loads the newest intact checkpoint, which only the main rank reads.

        Returns the run's state and the checkpoint's path; None if there is no checkpoint yet.

        Raises:
            UserError: no checkpoint is intact, or they are another run's; OtherRankFailed on the other ranks.
        """
        loaded = self.ranks.read_on_main(self._read)
        if loaded is None:
            return None
        path, content = loaded
        load_full_state(self.net, self.optimizer, content["weights"], content["optimizer"])
        self.scaler.load_state_dict(content["scaler"])
        self.metrics = content.get("metrics")
        state = RunState.from_dict(content["state"])
        self.saved_step = state.step
        return state, path

    def _read(self) -> tuple[str, dict[str, Any]] | None:
        newest = load_newest_intact(self.folder, lambda path: print(f"{path} is damaged (wrong checksum): skipped"))
        if newest is None and list_checkpoints(self.folder):
            raise UserError(f"--resume: no checkpoint in {self.folder} is intact; start a new run in another --output")
        if newest is None:
            return None
        path, content = newest
        if not isinstance(content, dict) or not set(content) >= _CONTENT:
            raise UserError(f"--resume: {path} is no checkpoint of a run; move it elsewhere")
        require_same_run(content["identity"], self.identity)
        if not set(content["optimizer"]) <= set(content["weights"]):
            raise UserError(f"--resume: {path} was saved by another version of this project; resume with that version")
        return str(path), content


def save_checkpoint(folder: Path, step: int, content: dict[str, Any], best_step: int | None) -> Path:
    """Saves a checkpoint and removes those that are neither among the newest two nor the best.

    Args:
        folder: created if missing, in the run's folder, which is never created here: it may have been removed.
        content: tensors and plain Python values only, so that `weights_only` loads it.
        best_step: the step of the best checkpoint, which stays whatever its age.

    Returns:
        the file, named by step and checksum; one rename makes both appear together.
    """
    folder.mkdir(exist_ok=True)
    unnamed = folder / f"step-{step:08d}.unchecked"
    atomic_write(unnamed, lambda file: torch.save(content, file))
    path = folder / f"step-{step:08d}-{_digest(unnamed)}.pt"
    unnamed.replace(path)
    sync_folder(folder)
    for same_step in list_checkpoints(folder):  # saved again after its validation: replace the earlier file
        if _step(same_step) == step and same_step != path:
            same_step.unlink()
    for old in list_checkpoints(folder)[2:]:
        if _step(old) != best_step:
            old.unlink()
    for pattern in (".*.tmp", "*.unchecked"):  # of steps that were not reached again
        remove_leftovers(folder, pattern)
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """Returns the checkpoints in a folder, newest first; does not verify them."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), key=_step, reverse=True)


def load_newest_intact(folder: Path, on_damaged: Callable[[Path], None]) -> tuple[Path, dict[str, Any]] | None:
    """Returns the newest checkpoint whose checksum is right, and its content on the CPU; None if there is none.

    Calls `on_damaged` with each newer checkpoint, skipped because its checksum is wrong.
    """
    for path in list_checkpoints(folder):
        if _digest(path) == path.stem.rpartition("-")[2]:
            try:
                return path, torch.load(path, map_location="cpu", weights_only=True)
            except (UnpicklingError, EOFError, RuntimeError, ValueError, KeyError) as error:
                # its checksum is right, so it was written as it is: by another program
                raise UserError(
                    f"--resume: {path} is no checkpoint of a run, and no code of it was run; move it elsewhere"
                ) from error
        on_damaged(path)
    return None


def load_intact_step(folder: Path, step: int) -> dict[str, Any] | None:
    """Returns the content of a step's checkpoint, on the CPU; None if there is none or its checksum is wrong."""
    for path in list_checkpoints(folder):
        if _step(path) == step and _digest(path) == path.stem.rpartition("-")[2]:
            content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            return content
    return None


_CONTENT = {"identity", "state", "weights", "optimizer", "scaler"}


def _step(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:_DIGITS]
