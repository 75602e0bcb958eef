"""Recipes are what their sources say, each trains, and Adam's runs resume exactly."""

import inspect
import math
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_torch import AlexNet
from alexnet_torch.data.colour import ColourNoise
from alexnet_torch.model.alexnet import DropoutKey
from alexnet_torch.recipes import catalogue as recipes
from alexnet_torch.recipes.catalogue import RECIPES
from alexnet_torch.training import trainer
from alexnet_torch.training.checkpoints import list_checkpoints
from alexnet_torch.training.optimizers import build_optimizer, parameter_groups
from alexnet_torch.training.precision import Precision
from alexnet_torch.training.trainer import train_step
from tests.support.commands import run_train
from tests.support.nets import narrow_recipe

Make = Callable[..., Path]


@pytest.fixture
def _narrow_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, make in list(RECIPES.items()):
        monkeypatch.setitem(RECIPES, name, partial(narrow_recipe, make()))


def test_every_recipe_is_documented() -> None:
    for name, make in RECIPES.items():
        text = inspect.getdoc(make) or ""
        for part in ("Source", "Command", "Cost", "Expected"):
            assert re.search(rf"^{part}: ", text, re.M), f"{name}: {part}"
        assert f"--recipe {name}" in text or name == "paper"
        recipe = make()
        assert recipe.architecture.fits(recipe.image_size)


def test_net_145s_history() -> None:
    """The notes count epochs from 1: 25, 51, 67, 72, 79, stopped at 91. What they set at 79 is not conv1's rate,
    which layer file 145 was left with at 0, where it has 0.00001 for all other weights."""
    recipe = recipes.source_2012()
    assert recipe.epochs == 91
    for epoch in range(1, 92):
        at = recipe.rates(0.01, epoch - 1, [])
        expected = 0.01 if epoch < 25 else 0.001 if epoch < 51 else 0.0001 if epoch < 79 else 0.00001
        assert at.weights == pytest.approx(expected)
        conv1 = at.weights if epoch < 67 else 1e-5 if epoch < 72 else 0.0
        assert at.stages.get("conv1", at.weights) == pytest.approx(conv1)
        assert set(at.stages) <= {"conv1"}
        assert at.biases == pytest.approx(0.02)
        assert recipe.colour is not None
        assert recipe.colour.is_active(epoch - 1) == (epoch < 67)
    assert recipe.colour == ColourNoise("source", 0.1, 66)
    assert (recipe.bias_decay, recipe.weight_decay, recipe.batch_size) == (0.0, 5e-4, 128)


def test_caffes_history() -> None:
    """100,000 iterations of 256 images are 20 epochs of 1,281,167."""
    recipe = recipes.caffe()
    assert recipe.epochs == round(360_000 * 256 / 1_281_167)
    for epoch in range(recipe.epochs):
        at = recipe.rates(0.01, epoch, [])
        drops = round(epoch * 1_281_167 / 256) // 100_000  # the 20th epoch starts at iteration 100,091
        assert at.weights == pytest.approx(0.01 * 0.1**drops)
        assert at.biases == pytest.approx(2 * at.weights)
        assert not at.stages
    assert (recipe.colour, recipe.bias_decay, recipe.image_size) == (None, 0.0, 227)


def test_the_posts_and_torchvisions_settings() -> None:
    post = recipes.tensorflow_post()
    assert (post.optimizer, post.lr, post.batch_size, post.weight_decay, post.bias_decay) == ("adam", 0.01, 10, 0, 0)
    assert (post.colour, post.mirror, post.architecture.dropout_rate) == (None, False, 0.5)
    theirs = recipes.torchvision()
    assert (theirs.lr, theirs.batch_size, theirs.weight_decay, theirs.epochs) == (0.01, 256, 1e-4, 90)


def test_the_input_scale_is_applied_to_the_images() -> None:
    net = narrow_recipe(recipes.torchvision()).architecture
    nets = [AlexNet(replace(net, input_scale=scale), 5, 64, seed=0).eval() for scale in (1.0, 0.25)]
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(nets[1](images), nets[0](images / 4))
        torch.testing.assert_close(nets[1].features(images, "conv1"), nets[0].features(images / 4, "conv1"))


def test_the_posts_defect_and_our_loss() -> None:
    """Softmax twice cannot learn 1,000 classes, and a sum grows with the batch; the step's loss does neither."""
    right = torch.full((3, 1000), -50.0).index_fill(1, torch.tensor(7), 50.0)
    labels = torch.full((3,), 7)
    one_hot = torch.nn.functional.one_hot(labels, 1000)
    post = -(one_hot * right.softmax(1).softmax(1).log()).sum()
    assert post.item() == pytest.approx(3 * -math.log(math.e / (math.e + 999)))
    assert post.item() / 3 > 5.9
    net = AlexNet(narrow_recipe(recipes.tensorflow_post()).architecture, 10, 64, seed=0).eval()
    images, labels = torch.randn(4, 3, 64, 64), torch.tensor([1, 2, 3, 4])
    losses, full = [], Precision(None, torch.device("cpu"))
    for copies in (1, 3):
        optimizer = build_optimizer("adam", parameter_groups(net, 0.0, 0.0), 0.9)
        given = images.repeat(copies, 1, 1, 1), labels.repeat(copies)
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        losses.append(train_step(net, optimizer, *given, DropoutKey(0, 0), full, 4 * copies)[0].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    with torch.no_grad():
        p = net(images).double().softmax(1)
    assert losses[0] == pytest.approx(-p[range(4), labels].log().mean().item(), rel=1e-5)


@pytest.mark.parametrize("name", list(RECIPES))
@pytest.mark.usefixtures("_narrow_recipes")
def test_every_recipe_trains(name: str, tmp_path: Path, image_folder: Make) -> None:
    images, run = image_folder(tmp_path / "images", train=4, val=2), tmp_path / "run"
    given = ["--data", str(images), "--recipe", name, "--image-size", "96", "--output", str(run), "--max-steps", "2"]
    done = run_train(*given)
    assert done.returncode == 0, done.stderr
    assert torch.load(run / "model.pt", weights_only=True)


@pytest.mark.usefixtures("_narrow_recipes")
def test_adams_runs_resume_bit_for_bit(tmp_path: Path, image_folder: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    images, steps = image_folder(tmp_path / "images"), 0
    given = ["--data", str(images), "--recipe", "tensorflow-post", "--image-size", "64", "--epochs", "2"]
    assert run_train(*given, "--output", tmp_path / "whole").returncode == 0
    inner = trainer.train_step

    def step(*arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 4:
            signal.raise_signal(signal.SIGTERM)
        return inner(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "train_step", step)
        assert run_train(*given, "--output", tmp_path / "cut").returncode == 143
    resumed = run_train("--output", tmp_path / "cut", "--resume")
    assert resumed.returncode == 0
    assert "step-00000004" in resumed.stdout
    ours, theirs = (
        torch.load(list_checkpoints(tmp_path / run / "checkpoints")[0], weights_only=True) for run in ("cut", "whole")
    )
    assert ours["state"]["step"] == theirs["state"]["step"] == 6
    for name in ours["weights"]:
        assert torch.equal(ours["weights"][name], theirs["weights"][name])
    for index, kept in ours["optimizer"].items():
        for name in ("step", "exp_avg", "exp_avg_sq"):
            assert torch.equal(kept[name], theirs["optimizer"][index][name])
    other = replace(narrow_recipe(recipes.tensorflow_post()), optimizer="paper")
    monkeypatch.setitem(RECIPES, "tensorflow-post", lambda: other)
    refused = run_train("--output", tmp_path / "cut", "--resume")
    assert refused.returncode == 2
    assert "of another optimizer than --recipe names" in refused.stderr
