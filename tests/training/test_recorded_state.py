"""What a run records stays true: from another folder, with fewer epochs, after a kill before the first checkpoint."""

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from alexnet_torch import load_model
from alexnet_torch.evaluation.runs import images_of_run
from alexnet_torch.training.checkpoints import list_checkpoints
from tests.support.commands import one_line, read_metrics, resume, run_train
from tests.support.folders import make_images
from tests.support.steps import before_step

pytestmark = pytest.mark.usefixtures("narrow_demo_recipe")
SMALL = ["--recipe", "demo", "--batch-size", "8"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with images; beside it is another."""
    (tmp_path / "elsewhere").mkdir()
    make_images(tmp_path / "home/images")
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


def test_a_run_with_relative_paths_is_used_from_another_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_train("--data", "images", "--output", "first", *SMALL, "--max-steps", "1").returncode == 0
    given = ["--data", "images", "--cache", "cache", "--init", "first", "--output", "runs/a"]
    assert run_train(*given, *SMALL, "--max-steps", "3").returncode == 0
    run = home / "runs/a"
    settings = json.loads((run / "config.json").read_text())["settings"]
    expected = {"data": home / "images", "cache": home / "cache", "init": home / "first", "output": run}
    assert {name: Path(settings[name]) for name in expected} == expected
    monkeypatch.chdir(home.parent / "elsewhere")
    for resumed in (
        resume(run, "--max-steps", "4"),
        resume(run, "--max-steps", "5", "--init", "../home/first"),
        run_train("--config", run / "config.json", "--output", "again", "--max-steps", "1"),
    ):
        assert resumed.returncode == 0, resumed.stderr
    assert images_of_run(run, load_model(run), None) is not None  # as figures reads them
    assert not Path("images").exists()
    one_line(resume(run, "--max-steps", "6", "--init", "first"), "--resume: the run has --init")


@pytest.mark.parametrize(("option", "shorter"), [("--epochs", "1"), ("--max-steps", "5")])
def test_a_run_is_not_resumed_to_an_end_that_it_has_passed(option: str, shorter: str, home: Path) -> None:
    assert run_train("--data", "images", "--output", "run", *SMALL, "--epochs", "2").returncode == 0
    before = {path: path.read_bytes() for path in (home / "run").rglob("*") if path.is_file()}
    message = "the run has done 6 steps, 2 epochs, already; give more, or resume without it"
    one_line(resume(home / "run", option, shorter), f"^train.py: {option} {shorter}: {message}$")
    assert {path: path.read_bytes() for path in before} == before


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_its_curves_again(home: Path) -> None:
    class Killed(BaseException):
        """As kill -9: nothing is saved."""

    def kill() -> None:
        raise Killed

    with before_step(3, kill), pytest.raises(Killed):
        run_train("--data", "images", "--output", "run", *SMALL, "--max-steps", "3", "--log-every", "1")
    assert len(read_metrics(home / "run")) == 2
    assert not list_checkpoints(home / "run/checkpoints")
    assert resume(home / "run").returncode == 0
    events = EventAccumulator(str(home / "run/tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3]
    assert [r["step"] for r in read_metrics(home / "run") if r["split"] == "train"] == [1, 2, 3]


@pytest.mark.parametrize("option", ["--data", "--output", "--init", "--cache", "--config"])
def test_the_home_folder_of_nobody_is_one_line(option: str, home: Path) -> None:
    done = run_train(f"{option}=~nosuchuser/x", *([] if option == "--output" else ["--output", "run"]))
    one_line(done, rf"train\.py: {option} '~nosuchuser/x': .*; write the folder's full path")
    assert not (home / "run").exists()


def test_the_home_folder_after_an_equals_sign_is_found(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where bash leaves ~ alone."""
    monkeypatch.setenv("HOME", str(home))
    done = run_train("--data=~/images", "--output=~/run", *SMALL, "--max-steps", "1")
    assert done.returncode == 0, done.stderr
    assert (home / "run/model.pt").exists()
    assert not Path("~").exists()
