"""Damage to a run's files is noticed wherever they are read, and --resume writes them anew from the checkpoints."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alexnet_torch.errors import UserError
from alexnet_torch.training.checkpoints import list_checkpoints, save_checkpoint
from alexnet_torch.weights.model_file import read_model_files
from tests.support.commands import read_metrics, run_cli, run_train
from tests.support.folders import make_images, make_run

pytestmark = pytest.mark.usefixtures("narrow_demo_recipe")
STEPS_PER_EPOCH = 3


@pytest.fixture(scope="module")
def one_epoch(tmp_path_factory: pytest.TempPathFactory, narrow_demo_recipe: None) -> Path:
    """A run of one epoch, to be copied."""
    del narrow_demo_recipe
    folder = tmp_path_factory.mktemp("restore")
    make_images(folder / "images")
    given = ("--data", folder / "images", "--output", folder / "run", "--recipe", "demo", "--batch-size", "8")
    done = run_train(*given, "--log-every", "1", "--epochs", "1")
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture
def run(one_epoch: Path, tmp_path: Path) -> Path:
    return shutil.copytree(one_epoch, tmp_path / "run")


def flip_byte(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0x04
    path.write_bytes(content)


def spoil(path: Path, how: str) -> None:
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:100])
    else:
        flip_byte(path, path.stat().st_size // 2)


def without_times(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if k not in ("images_per_second", "data_wait")} for r in records]


@pytest.mark.parametrize("how", ["flipped", "truncated", "missing"])
@pytest.mark.parametrize("name", ["metrics.jsonl", "model.pt", "model.json"])
def test_resume_writes_a_damaged_file_anew(name: str, how: str, one_epoch: Path, run: Path) -> None:
    spoil(run / name, how)
    done = run_train("--output", run, "--resume")  # nothing is left to train
    assert done.returncode == 0, done.stderr
    assert "was damaged: written anew from" in done.stderr
    for file in ("model.pt", "model.json"):
        assert (run / file).read_bytes() == (one_epoch / file).read_bytes()
    before = (one_epoch / "metrics.jsonl").read_bytes()
    assert without_times(read_metrics(run)) == without_times(read_metrics(one_epoch))
    assert (run / "metrics.jsonl").read_bytes()[:400] == before[:400]


def test_a_damaged_run_continues_to_the_same_weights(one_epoch: Path, run: Path, tmp_path: Path) -> None:
    intact = shutil.copytree(one_epoch, tmp_path / "intact")
    for name in ("metrics.jsonl", "model.pt", "model.json"):
        spoil(run / name, "flipped")
    for folder in (intact, run):
        assert run_train("--output", folder, "--resume", "--epochs", "2").returncode == 0
    for name in ("model.pt", "model.json"):
        assert (run / name).read_bytes() == (intact / name).read_bytes()
    assert without_times(read_metrics(run)) == without_times(read_metrics(intact))


def test_intact_files_are_left_as_they_are(run: Path) -> None:
    times = [(run / name).stat().st_mtime_ns for name in ("model.pt", "model.json")]
    done = run_train("--output", run, "--resume")
    assert "damaged" not in done.stderr
    assert [(run / name).stat().st_mtime_ns for name in ("model.pt", "model.json")] == times


def test_a_model_that_cannot_be_written_anew_ends_the_test_in_one_line(run: Path) -> None:
    spoil(run / "model.pt", "flipped")
    (best,) = list_checkpoints(run / "checkpoints")
    content = torch.load(best, weights_only=True)
    content["state"]["best_step"] = 2  # whose checkpoint is gone
    save_checkpoint(run / "checkpoints", STEPS_PER_EPOCH, content, 2)
    done = run_train("--output", run, "--resume")
    assert done.returncode == 2
    assert "so is the checkpoint of its step 2: better weights will replace it" in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"train.py: {run}/model.pt: is damaged (the checksum of archive/data/")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["predict", "evaluate", "features", "export"])
def test_a_flipped_byte_in_a_model_is_one_line(command: str, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    options: dict[str, list[Path | str]] = {
        "predict": [run, tmp_path / "images/val/class0/000.png"],
        "evaluate": [run, "--data", tmp_path / "images", "--cache", tmp_path / "cache"],
        "features": [run, tmp_path / "images", "--stage", "fc7", "--output", tmp_path / "x.npz"],
        "export": [run, tmp_path / "x.pt"],
    }
    for name, reason in (("model.pt", "the checksum of archive/data/"), ("model.json", "its checksum is wrong")):
        intact = (run / name).read_bytes()
        spoil(run / name, "flipped")
        done = run_cli(command, *options[command])
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1, done.stderr
        assert f"{run / name}: is damaged ({reason}" in done.stderr
        assert done.stderr.rstrip().endswith("restore it from a backup")
        (run / name).write_bytes(intact)


@pytest.mark.parametrize("name", ["model.pt", "model.json"])
def test_a_flipped_byte_anywhere_is_an_error_or_changes_nothing(name: str, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    intact, (description, weights) = (run / name).read_bytes(), read_model_files(run)
    random, refused = np.random.default_rng(0), 0
    # the directory is at the end of a zip archive
    near_end = random.integers(len(intact) - 3000, len(intact), 40)
    for position in (*random.integers(0, len(intact), 40), *near_end):
        content = bytearray(intact)
        content[position] ^= 1 << int(random.integers(0, 8))
        (run / name).write_bytes(content)
        try:
            read_description, read_weights = read_model_files(run)
        except UserError:
            refused += 1
            continue
        assert read_description == description
        assert list(read_weights) == list(weights)
        assert all(read_weights[key].equal(value) for key, value in weights.items())
    assert refused > 40
