"""Nothing that is not finite is the best, saved as good, or printed as JSON."""

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_torch import load_model
from alexnet_torch.evaluation.metrics import EvalResult
from alexnet_torch.training import trainer
from alexnet_torch.training.checkpoints import list_checkpoints
from alexnet_torch.training.step import train_step
from alexnet_torch.weights.model_file import save_model
from tests.support.commands import run_cli, run_train
from tests.support.folders import make_images, make_run

pytestmark = pytest.mark.usefixtures("narrow_demo_recipe")


def given(folder: Path) -> list[str]:
    if not (folder / "images").exists():
        make_images(folder / "images")
    options = ["--data", str(folder / "images"), "--output", str(folder / "run"), "--recipe", "demo"]
    return [*options, "--batch-size", "8"]


def require_no_run(run: Path) -> None:
    assert not (run / "model.pt").exists()
    assert not list_checkpoints(run / "checkpoints")
    for line in (run / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_a_validation_loss_that_is_not_a_number_is_never_the_best(tmp_path: Path) -> None:
    """With this rate the training loss and all weights are finite after the epoch, and all outputs NaN."""
    done = run_train(*given(tmp_path), "--lr", "50", "--max-steps", "3")
    assert done.returncode == 1
    cause = r"train.py: the validation loss after step 3 is (nan|inf): training diverged; there was no checkpoint yet"
    assert re.match(cause, done.stderr.splitlines()[-1]), done.stderr
    assert "best" not in done.stdout
    require_no_run(tmp_path / "run")


def test_the_last_good_checkpoint_is_from_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_train(*given(tmp_path), "--max-steps", "3").returncode == 0
    before = (tmp_path / "run/model.pt").read_bytes()
    monkeypatch.setattr(trainer, "evaluate", lambda *_: EvalResult(math.nan, 0.0, 0.0))
    done = run_train("--output", tmp_path / "run", "--resume", "--max-steps", "6")
    assert done.returncode == 1
    assert re.search(r"validation loss after step 6 is nan.*the last good checkpoint is .*step-00000003", done.stderr)
    assert (tmp_path / "run/model.pt").read_bytes() == before


@pytest.mark.parametrize("what", ["loss", "velocity"])
def test_a_checkpoint_within_an_epoch_has_a_finite_loss_and_finite_velocities(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = train_step

    def step(net: Any, optimizer: torch.optim.Optimizer, *rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
        loss, wrong = inner(net, optimizer, *rest)
        if what == "loss":
            return loss * math.inf, wrong
        next(iter(optimizer.state.values()))["negative_velocity"][0] = math.inf
        return loss, wrong

    monkeypatch.setattr(trainer, "train_step", step)
    done = run_train(*given(tmp_path), "--max-steps", "2", "--save-every", "1e-9")
    assert done.returncode == 1
    assert ("the 1 step(s) up to step 1 is inf" if what == "loss" else "not finite after step 1") in done.stderr
    require_no_run(tmp_path / "run")


@pytest.fixture
def diverged(tmp_path: Path) -> Path:
    """A run whose weights are finite and whose outputs are not: fc8 overflows."""
    run = make_run(tmp_path)
    model = load_model(run)
    with torch.no_grad():
        for name, parameter in model.net.named_parameters():
            if name.endswith("fc7.bias"):
                parameter.fill_(100)
            elif name.endswith("fc8.weight"):
                parameter[0::2], parameter[1::2] = 3e36, -3e36
    save_model(run, model)
    return run


@pytest.mark.parametrize("command", ["predict", "predict --json", "evaluate", "features"])
def test_commands_refuse_outputs_that_are_not_finite(command: str, diverged: Path, tmp_path: Path) -> None:
    images, image = tmp_path / "images", tmp_path / "images/val/class0/000.png"
    options: dict[str, list[str | Path]] = {
        "predict": [diverged, image],
        "predict --json": [diverged, image, "--json"],
        "evaluate": [diverged, "--data", images, "--crops", "1"],
        "features": [diverged, images / "val", "--stage", "fc8", "--output", tmp_path / "fc8.npy"],
    }
    done = run_cli(command.split()[0], *options[command])
    assert done.returncode == 2
    (line,) = (line for line in done.stderr.splitlines() if not line.startswith("--data "))
    assert re.search("outputs .*are infinite or not numbers: its training has diverged; ", line)
    assert done.stdout == ""
    assert not (tmp_path / "fc8.npy").exists()


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_weights_that_are_not_finite_are_not_used(value: float, run_folder: Path, tmp_path: Path) -> None:
    weights = torch.load(run_folder / "model.pt", weights_only=True)
    weights["towers.1.conv2.weight"][3, 2, 1, 0] = value
    torch.save(weights, run_folder / "model.pt")
    file = shutil.copy(run_folder / "model.pt", tmp_path / "weights.pt")
    pattern = r"{}: (towers\.1\.)?conv2\.weight has values that are infinite or not numbers; use weights that did not"
    for done in (
        run_cli("predict", run_folder, tmp_path / "images/val/class0/000.png"),
        run_cli("import", file, "--output", tmp_path / "imported", "--mean", "1,2,3"),
        run_train(*given(tmp_path)[:3], tmp_path / "new", *given(tmp_path)[4:], "--init", file),
    ):
        assert done.returncode == 2, done.stderr
        assert re.search(pattern.format(".*"), done.stderr), done.stderr
    assert not (tmp_path / "imported").exists()
