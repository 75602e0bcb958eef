from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

from alexnet_torch.files import atomic_write
from alexnet_torch.training.checkpoints import list_checkpoints, load_newest_intact, save_checkpoint


def state(value: float) -> dict[str, Any]:
    return {"weights": {"w": torch.full((1000,), value)}, "state": {"step": int(value)}}


def load(folder: Path) -> tuple[dict[str, Any] | None, list[Path]]:
    damaged: list[Path] = []
    newest = load_newest_intact(folder, damaged.append)
    return (newest[1] if newest else None), damaged


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "new", 3, state(3), None)
    loaded, damaged = load(tmp_path / "new")
    assert loaded is not None
    assert torch.equal(loaded["weights"]["w"], torch.full((1000,), 3.0))
    assert loaded["state"] == {"step": 3}
    assert not damaged


def test_the_newest_two_and_the_best_are_kept(tmp_path: Path) -> None:
    for step in range(1, 7):
        save_checkpoint(tmp_path, step, state(step), best_step=2 if step >= 2 else 1)
    assert [int(p.name[5:13]) for p in list_checkpoints(tmp_path)] == [6, 5, 2]
    assert len(list(tmp_path.iterdir())) == 3


def test_a_step_saved_again_is_kept_once(tmp_path: Path) -> None:
    for step, value in ((1, 1), (2, 2), (2, 7)):
        save_checkpoint(tmp_path, step, state(value), best_step=2)
    assert [int(p.name[5:13]) for p in list_checkpoints(tmp_path)] == [2, 1]
    loaded, _ = load(tmp_path)
    assert loaded is not None
    assert loaded["state"]["step"] == 7


def test_damage_is_found_and_the_one_before_is_taken(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, state(1), None)
    newer = save_checkpoint(tmp_path, 2, state(2), None)
    content = bytearray(newer.read_bytes())
    content[len(content) // 2] ^= 1
    newer.write_bytes(content)
    loaded, damaged = load(tmp_path)
    assert loaded is not None
    assert loaded["state"]["step"] == 1
    assert damaged == [newer]


def test_a_truncated_file_is_damage_too(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, state(1), None)
    path.write_bytes(path.read_bytes()[:100])
    assert load(tmp_path) == (None, [path])


def test_an_empty_or_missing_folder_holds_none(tmp_path: Path) -> None:
    assert load(tmp_path) == (None, [])
    assert load(tmp_path / "missing") == (None, [])


def test_what_a_killed_save_left_is_not_taken_and_goes_with_the_next(tmp_path: Path) -> None:
    (tmp_path / "step-00000009.unchecked").write_bytes(b"half")
    (tmp_path / ".step-00000009.unchecked.77.tmp").write_bytes(b"half")
    assert load(tmp_path) == (None, [])
    kept = save_checkpoint(tmp_path, 10, state(10), None)
    assert list(tmp_path.iterdir()) == [kept]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"old")

    def fail(file: BinaryIO) -> None:
        file.write(b"new")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        atomic_write(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_an_os_error_though_torch_makes_it_another(tmp_path: Path) -> None:
    def save_to_full_disk(_: BinaryIO) -> None:
        with Path("/dev/full").open("wb", buffering=0) as full:
            torch.save(state(1), full)

    with pytest.raises(OSError, match=r"No space|unexpected pos|write"):
        atomic_write(tmp_path / "model.pt", save_to_full_disk)
    assert not list(tmp_path.iterdir())
