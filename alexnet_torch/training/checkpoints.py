"""Checkpoints: saved whole or not at all, checksummed, the newest two and the best kept."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from alexnet_torch.files import atomic_write, sync_folder

_DIGITS = 16  # of SHA-256 in a file's name, as torch.hub has them
_NAME = re.compile(rf"step-(\d+)-([0-9a-f]{{{_DIGITS}}})\.pt")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:_DIGITS]


def save(folder: Path, step: int, state: dict[str, Any], best_step: int | None) -> Path:
    """Saves a checkpoint and removes those that are neither among the newest two nor the best.

    Args:
        folder: made if need be, in a run's folder that is there: one that has vanished is not made again.
        step: steps done.
        state: tensors and plain Python values only, so that `weights_only` loads it.
        best_step: the step of the best checkpoint, kept whatever its age.

    Returns:
        the file, named by step and checksum, which one rename makes appear together.
    """
    folder.mkdir(exist_ok=True)
    unnamed = folder / f"step-{step:08d}.unchecked"
    atomic_write(unnamed, lambda file: torch.save(state, file))
    path = folder / f"step-{step:08d}-{_digest(unnamed)}.pt"
    unnamed.replace(path)
    sync_folder(folder)
    for same in found(folder):  # saved again after its validation: the earlier one takes no other's place
        if _step(same) == step and same != path:
            same.unlink()
    for old in found(folder)[2:]:
        if _step(old) != best_step:
            old.unlink()
    for left in (*folder.glob(".*.tmp"), *folder.glob("*.unchecked")):  # of a process that was killed
        left.unlink()
    return path


def _step(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def found(folder: Path) -> list[Path]:
    """The checkpoints in a folder by name, newest first; not verified."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if _NAME.fullmatch(p.name)), key=_step, reverse=True)


def newest_intact(folder: Path, damaged: Callable[[Path], None]) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint whose checksum holds, and its state on the CPU; None if there is none.

    Args:
        folder: of checkpoints.
        damaged: told of each newer one that is passed over because its checksum does not hold.
    """
    for path in found(folder):
        if _digest(path) != path.stem.rpartition("-")[2]:
            damaged(path)
            continue
        return path, torch.load(path, map_location="cpu", weights_only=True)
    return None
