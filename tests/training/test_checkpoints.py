from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

from alexnet_torch.files import atomic_write
from alexnet_torch.training.checkpoints import list_checkpoints, load_newest_intact, save_checkpoint
from tests.support.logged import logged


def content(value: float) -> dict[str, Any]:
    rest: dict[str, Any] = dict.fromkeys(("key", "optimizer", "scaler", "metrics"))
    return rest | {"weights": {"w": torch.full((1000,), value)}, "state": {"step": int(value)}}


def load(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    with logged() as lines:
        newest = load_newest_intact(folder)
    return (newest[1] if newest else None), lines


def test_the_newest_two_and_the_best_stay(tmp_path: Path) -> None:
    for step in range(1, 7):
        save_checkpoint(tmp_path, step, content(step), best_step=2 if step >= 2 else 1)
    assert [int(p.name[5:13]) for p in list_checkpoints(tmp_path)] == [6, 5, 2]
    assert len(list(tmp_path.iterdir())) == 3


def test_saving_a_step_again_replaces_its_checkpoint(tmp_path: Path) -> None:
    for step, value in ((1, 1), (2, 2), (2, 7)):
        save_checkpoint(tmp_path, step, content(value), best_step=2)
    assert [int(p.name[5:13]) for p in list_checkpoints(tmp_path)] == [2, 1]
    loaded, _ = load(tmp_path)
    assert loaded is not None
    assert loaded["state"]["step"] == 7


def test_files_of_a_killed_save_are_ignored_and_removed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / "step-00000009.unchecked").write_bytes(b"half")
    (tmp_path / ".step-00000009.unchecked.77.tmp").write_bytes(b"half")
    assert load(tmp_path) == (None, [])
    saved = save_checkpoint(tmp_path, 10, content(10), None)
    assert list(tmp_path.iterdir()) == [saved]


def test_a_failed_write_leaves_only_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"old")

    def fail(file: BinaryIO) -> None:
        file.write(b"new")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        atomic_write(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_raises_os_error_although_torch_raises_another(tmp_path: Path) -> None:
    def save_to_full_disk(_: BinaryIO) -> None:
        with Path("/dev/full").open("wb", buffering=0) as full:
            torch.save(content(1), full)

    with pytest.raises(OSError, match=r"No space|unexpected pos|write"):
        atomic_write(tmp_path / "model.pt", save_to_full_disk)
    assert not list(tmp_path.iterdir())
