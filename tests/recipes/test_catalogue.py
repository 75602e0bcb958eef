"""Each recipe has its source's settings and trains; a run with Adam resumes exactly."""

import inspect
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from alexnet_torch.data.pca_noise import PCANoise
from alexnet_torch.recipes import catalogue as recipes
from alexnet_torch.recipes.catalogue import RECIPES
from tests.support.commands import one_line, resume, run_train
from tests.support.folders import make_images
from tests.support.nets import narrow_recipe
from tests.support.placement_runs import require_same_run
from tests.support.steps import before_step, send_sigterm


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


def test_source_2012_follows_the_rates_of_net_145() -> None:
    """The notes count epochs from 1: changes at 25, 51, 67, 72 and 79, the end at 91. The change at 79 does not concern
    conv1: in the last state of layer file 145 its rate is 0, that of all other weights 0.00001."""
    recipe = recipes.source_2012()
    assert recipe.epochs == 91
    for epoch in range(1, 92):
        rates = recipe.rates(0.01, epoch - 1, [])
        expected = 0.01 if epoch < 25 else 0.001 if epoch < 51 else 0.0001 if epoch < 79 else 0.00001
        assert rates.weights == pytest.approx(expected)
        conv1 = rates.weights if epoch < 67 else 1e-5 if epoch < 72 else 0.0
        assert rates.stages.get("conv1", rates.weights) == pytest.approx(conv1)
        assert set(rates.stages) <= {"conv1"}
        assert rates.biases == pytest.approx(0.02)
        assert recipe.colour is not None
        assert recipe.colour.is_active(epoch - 1) == (epoch < 67)
    assert recipe.colour == PCANoise("source", 0.1, 66)
    assert (recipe.bias_decay, recipe.weight_decay, recipe.batch_size) == (0.0, 5e-4, 128)


def test_caffe_follows_the_rates_of_bvlc_alexnet() -> None:
    """100,000 iterations of 256 images are 20 epochs of 1,281,167."""
    recipe = recipes.caffe()
    assert recipe.epochs == round(360_000 * 256 / 1_281_167)
    for epoch in range(recipe.epochs):
        rates = recipe.rates(0.01, epoch, [])
        drops = round(epoch * 1_281_167 / 256) // 100_000  # the 20th epoch starts at iteration 100,091
        assert rates.weights == pytest.approx(0.01 * 0.1**drops)
        assert rates.biases == pytest.approx(2 * rates.weights)
        assert not rates.stages
    assert (recipe.colour, recipe.bias_decay, recipe.image_size) == (None, 0.0, 227)


def test_the_posts_and_torchvisions_settings() -> None:
    post, vision = recipes.tensorflow_post(), recipes.torchvision()
    assert (post.optimizer, post.lr, post.batch_size, post.weight_decay, post.bias_decay) == ("adam", 0.01, 10, 0, 0)
    assert (post.colour, post.mirror, post.architecture.dropout_rate) == (None, False, 0.5)
    assert (vision.lr, vision.batch_size, vision.weight_decay, vision.epochs) == (0.01, 256, 1e-4, 90)


@pytest.mark.parametrize("name", list(RECIPES))
@pytest.mark.usefixtures("_narrow_recipes")
def test_every_recipe_trains(name: str, tmp_path: Path) -> None:
    images, run = make_images(tmp_path / "images", train=4, val=2), tmp_path / "run"
    done = run_train("--data", images, "--recipe", name, "--image-size", "96", "--output", run, "--max-steps", "2")
    assert done.returncode == 0, done.stderr
    assert torch.load(run / "model.pt", weights_only=True)


@pytest.mark.usefixtures("_narrow_recipes")
def test_a_run_with_adam_resumes_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, run = make_images(tmp_path / "images"), tmp_path / "resumed"
    given = ["--data", str(images), "--recipe", "tensorflow-post", "--image-size", "64", "--epochs", "2"]
    assert run_train(*given, "--output", tmp_path / "uninterrupted").returncode == 0
    with before_step(4, send_sigterm):
        assert run_train(*given, "--output", run).returncode == 143
    resumed = resume(run)
    assert resumed.returncode == 0
    assert "step-00000004" in resumed.stdout
    require_same_run(run, tmp_path / "uninterrupted")
    with_sgd = replace(narrow_recipe(recipes.tensorflow_post()), optimizer="paper")
    monkeypatch.setitem(RECIPES, "tensorflow-post", lambda: with_sgd)
    one_line(resume(run), "the run has optimizer")
