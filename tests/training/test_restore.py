"""Damage to a run's files is noticed wherever they are read; --resume writes them anew from whole checkpoints."""

import shutil
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch

from alexnet_torch.errors import UserError
from alexnet_torch.files import atomic_file, atomic_write
from alexnet_torch.training.checkpoints import list_checkpoints, load_newest_intact, save_checkpoint
from alexnet_torch.weights.model_file import read_model_files
from tests.support.commands import one_line, read_metrics, resume, run_cli, train_demo
from tests.support.placement_runs import require_same_run

pytestmark = pytest.mark.usefixtures("narrow_demo_recipe")
FILES = ("metrics.jsonl", "model.pt", "model.json")


@pytest.fixture(scope="module")
def one_epoch(tmp_path_factory: pytest.TempPathFactory, narrow_demo_recipe: None) -> Path:  # noqa: ARG001
    """A run of one epoch of three steps, to be copied."""
    folder = tmp_path_factory.mktemp("restore")
    done = train_demo(folder, "--log-every", "1", "--epochs", "1")
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture
def run(one_epoch: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(one_epoch, tmp_path / "run"))


def spoil(path: Path, how: str = "flipped") -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x04
    path.write_bytes(content[:100] if how == "truncated" else content)
    if how == "missing":
        path.unlink()


@pytest.mark.parametrize("how", ["flipped", "truncated", "missing"])
@pytest.mark.parametrize("name", FILES)
def test_resume_writes_a_damaged_file_anew(name: str, how: str, one_epoch: Path, run: Path) -> None:
    spoil(run / name, how)
    done = resume(run)  # nothing is left to train
    assert done.returncode == 0, done.stderr
    assert "was damaged: written anew from" in done.stderr
    for file in ("model.pt", "model.json"):
        assert (run / file).read_bytes() == (one_epoch / file).read_bytes()
    assert read_metrics(run) == read_metrics(one_epoch)
    assert (run / "metrics.jsonl").read_bytes()[:400] == (one_epoch / "metrics.jsonl").read_bytes()[:400]


def test_a_damaged_run_continues_to_the_same_weights(one_epoch: Path, run: Path, tmp_path: Path) -> None:
    intact = Path(shutil.copytree(one_epoch, tmp_path / "intact"))
    for name in FILES:
        spoil(run / name)
    for folder in (intact, run):
        assert resume(folder, "--epochs", "2").returncode == 0
    require_same_run(run, intact)
    assert (run / "model.json").read_bytes() == (intact / "model.json").read_bytes()


def test_intact_files_are_left_as_they_are(run: Path) -> None:
    times = [(run / name).stat().st_mtime_ns for name in ("model.pt", "model.json")]
    assert "damaged" not in resume(run).stderr
    assert [(run / name).stat().st_mtime_ns for name in ("model.pt", "model.json")] == times


def test_a_model_that_cannot_be_written_anew_ends_the_test_in_one_line(run: Path) -> None:
    spoil(run / "model.pt")
    (best,) = list_checkpoints(run / "checkpoints")
    content = torch.load(best, weights_only=True)
    content["state"]["best_step"] = 2  # whose checkpoint is gone
    save_checkpoint(run / "checkpoints", 3, content, 2)
    done = resume(run)
    assert done.returncode == 2
    assert "so is the checkpoint of its step 2: better weights will replace it" in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"train.py: {run}/model.pt: is damaged (the checksum of archive/data/")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "predict RUN IMAGES/val/class0/000.png",
        "evaluate RUN --data IMAGES --cache IMAGES/cache",
        "features RUN IMAGES --stage fc7 --output IMAGES/x.npz",
        "export RUN IMAGES/x.pt",
    ],
)
def test_a_flipped_byte_in_a_model_is_one_line(command: str, run_folder: Path, tmp_path: Path) -> None:
    line = command.replace("RUN", str(run_folder)).replace("IMAGES", str(tmp_path / "images")).split()
    for name, reason in (("model.pt", r"the checksum of archive/data/.*"), ("model.json", r"its checksum is wrong.*")):
        intact = (run_folder / name).read_bytes()
        spoil(run_folder / name)
        one_line(run_cli(*line), rf"{run_folder / name}: is damaged \({reason}restore it from a backup$")
        (run_folder / name).write_bytes(intact)


@pytest.mark.parametrize("name", ["model.pt", "model.json"])
def test_a_flipped_byte_anywhere_is_an_error_or_changes_nothing(name: str, run_folder: Path) -> None:
    intact, (description, weights) = (run_folder / name).read_bytes(), read_model_files(run_folder)
    random, refused = np.random.default_rng(0), 0
    # the directory is at the end of a zip archive
    near_end = random.integers(len(intact) - 3000, len(intact), 40)
    for position in (*random.integers(0, len(intact), 40), *near_end):
        content = bytearray(intact)
        content[position] ^= 1 << int(random.integers(0, 8))
        (run_folder / name).write_bytes(content)
        try:
            read_description, read_weights = read_model_files(run_folder)
        except UserError:
            refused += 1
            continue
        assert read_description == description
        assert list(read_weights) == list(weights)
        assert all(read_weights[key].equal(value) for key, value in weights.items())
    assert refused > 40


# checkpoints, and files that are written atomically


def checkpoint_of(value: float) -> dict[str, Any]:
    rest: dict[str, Any] = dict.fromkeys(("key", "optimizer", "scaler", "metrics"))
    return rest | {"weights": {"w": torch.full((1000,), value)}, "state": {"step": int(value)}}


def steps(folder: Path) -> list[int]:
    return [int(path.name[5:13]) for path in list_checkpoints(folder)]


def test_the_newest_two_and_the_best_stay_and_a_step_that_is_saved_again_is_replaced(tmp_path: Path) -> None:
    for step in range(1, 7):
        save_checkpoint(tmp_path, step, checkpoint_of(step), best_step=2 if step >= 2 else 1)
    assert steps(tmp_path) == [6, 5, 2]
    assert len(list(tmp_path.iterdir())) == 3
    save_checkpoint(tmp_path, 6, checkpoint_of(7), best_step=2)
    assert steps(tmp_path) == [6, 5, 2]
    loaded = load_newest_intact(tmp_path)
    assert loaded is not None
    assert loaded[1]["state"]["step"] == 7


def test_files_of_a_killed_save_are_ignored_and_removed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / "step-00000009.unchecked").write_bytes(b"half")
    (tmp_path / ".step-00000009.unchecked.77.tmp").write_bytes(b"half")
    assert load_newest_intact(tmp_path) is None
    saved = save_checkpoint(tmp_path, 10, checkpoint_of(10), None)
    assert list(tmp_path.iterdir()) == [saved]


def save_to_full_disk(file: BinaryIO) -> None:
    """As torch does it, which raises another error than OSError."""
    file.write(b"new")
    with Path("/dev/full").open("wb", buffering=0) as full:
        torch.save(checkpoint_of(1), full)


def test_a_failed_write_leaves_only_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match=r"No space|unexpected pos|write"), atomic_file(path) as file:
        save_to_full_disk(file)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_temporary_files_of_another_writer_stay_and_those_of_killed_ones_go(tmp_path: Path) -> None:
    target, left = tmp_path / "model[1].pt", tmp_path / ".model[1].pt.77.tmp"
    left.write_bytes(b"half")
    with atomic_file(target) as first:
        first.write(b"first")
        assert not left.exists()
        atomic_write(target, b"second")
        assert target.read_bytes() == b"second"
    assert target.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [target]
