"""Settings, their options, defaults and identity come from one list; their names and values are a contract."""

import math
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from alexnet_torch.errors import UserError
from alexnet_torch.recipes.catalogue import RECIPES
from alexnet_torch.recipes.command_line import parse
from alexnet_torch.recipes.recipe import ABLATIONS, ARCHITECTURE_CHANGES
from alexnet_torch.recipes.settings import GROUPS, Settings, flag, options_of, resolve

# of `--output run`, as config.json stores them
DEFAULTS: dict[str, Any] = {"data": "digits", "val_split": None, "cache": "auto", "skip_bad": False, "workers": None}
DEFAULTS |= {"image_size": 224, "no_mirror": False, "colour": "paper", "recipe": "paper", "ablation": None}
DEFAULTS |= {"epochs": 90, "max_steps": None, "batch_size": 128, "lr": 0.01, "schedule": None, "warmup_epochs": 0.0}
DEFAULTS |= {"momentum": 0.9, "weight_decay": 5e-4, "label_smoothing": 0.0, "grad_accumulation": 1, "seed": 0}
DEFAULTS |= {"init": None, "init_stages": None, "freeze": None, "devices": None, "split": "auto", "timeout": 600.0}
DEFAULTS |= {"precision": "tf32", "compile": False, "output": "run", "resume": False, "log_every": 20, "val_every": 1}
DEFAULTS |= {"val_batch_size": None, "save_every": 10.0, "track": None}


def test_recipes_and_settings_need_no_torch() -> None:
    modules = "alexnet_torch.recipes.catalogue, alexnet_torch.cli"
    code = f"import sys, {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_default_settings_keep_their_stored_form() -> None:
    stored = asdict(resolve(parse(["--output", "run"]))[0])
    assert list(stored.items()) == list(DEFAULTS.items())
    assert all(type(value) is type(DEFAULTS[name]) for name, value in stored.items())


def test_each_recipe_gives_its_own_defaults() -> None:
    for name, make in RECIPES.items():
        (settings, resolved), recipe = resolve({"recipe": name}), make()
        assert resolved == recipe
        for field in ("image_size", "epochs", "batch_size", "lr"):
            assert getattr(settings, field) == getattr(recipe, field)
        assert settings.no_mirror is not recipe.mirror
        assert recipe.pca_noise(settings.colour) == recipe.colour
        assert re.fullmatch(rf"runs/{name}-\d{{8}}-\d{{6}}", settings.output)


def test_every_setting_is_an_option_and_parsed_to_it_and_three_options_are_no_settings() -> None:
    offered = [name for group in GROUPS.values() for name in options_of(group)]
    assert sorted(offered) == sorted([*options_of(Settings), "config", "quiet", "verbose"])
    values: dict[str, Any] = dict.fromkeys(("skip_bad", "no_mirror", "compile", "resume", "quiet", "verbose"), True)
    values |= {"image_size": 96, "epochs": 3, "max_steps": 5, "batch_size": 7, "seed": 2, "log_every": 4}
    values |= {"val_every": 6, "grad_accumulation": 8, "val_batch_size": 9, "workers": 3}
    values |= {"save_every": 2.5, "timeout": 1.5, "lr": 0.5, "val_split": 0.25, "warmup_epochs": 0.75}
    values |= {"momentum": 0.8, "weight_decay": 0.05, "label_smoothing": 0.125}
    values |= {"colour": "source", "recipe": "demo", "ablation": "tanh", "split": "ranks", "precision": "bf16"}
    values = {**dict.fromkeys(offered, "text"), "track": "mlflow", "schedule": "cosine"} | values
    words = [flag(name) if value is True else f"{flag(name)}={value}" for name, value in values.items()]
    expected = {name: value for name, value in values.items() if name not in ("quiet", "verbose")}
    assert parse(words) == expected
    assert parse(["--amp", "fp16"]) == {"precision": "fp16"}
    assert parse([]) == {}


def test_the_choices_are_the_catalogues(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(ABLATIONS) == {*ARCHITECTURE_CHANGES, "no-colour"}
    monkeypatch.setitem(RECIPES, "mine", RECIPES["demo"])
    for name in RECIPES:
        assert parse(["--recipe", name]) == {"recipe": name}
    for name in ABLATIONS:
        assert parse(["--ablation", name]) == {"ablation": name}
    for option in ("--recipe", "--ablation", "--colour", "--split", "--precision"):
        with pytest.raises(UserError, match=f"{option}.*: invalid choice: 'other' .choose from "):
            parse([option, "other"])


def test_the_run_key_keeps_its_stored_form() -> None:
    """Checkpoints have these keys and values: with others, they could not be resumed."""
    given = {"image_size": 96, "batch_size": 8, "seed": 5, "no_mirror": True, "init": "net.pt", "precision": "bf16"}
    expected: dict[str, Any] = {"--val-split": None, "--image-size": 96, "--batch-size": 8, "--seed": 5}
    expected |= {
        "--no-mirror": True,
        "--colour": "paper",
        "--init": str(Path("net.pt").absolute()),
        "--init-stages": None,
    }
    assert resolve(given)[0].run_key() == {**expected, "--freeze": None, "--precision": "bf16"}


@pytest.mark.parametrize(
    ("words", "instead"),
    [
        ("--arch=alexnet", "--recipe"),
        ("--wd 0.1", "--weight-decay"),
        ("--evaluate", "python -m alexnet_torch evaluate"),
    ],
)
def test_options_of_other_scripts_are_told_what_serves_here(words: str, instead: str) -> None:
    with pytest.raises(UserError, match=rf"^unrecognized arguments: {words} \(perhaps {instead}"):
        parse(words.split())


def test_options_change_the_recipe() -> None:
    given = "--schedule cosine --epochs 10 --warmup-epochs 2 --weight-decay 0.1 --momentum 0.5"
    _, recipe = resolve(parse(given.split()))
    assert (recipe.momentum, recipe.weight_decay, recipe.bias_decay) == (0.5, 0.1, 0.1)
    _, cifar = resolve(parse(["--recipe", "cifar-26", "--weight-decay", "0.1"]))
    assert (cifar.stage_decay, cifar.bias_decay) == ({}, 0)
    rates = [recipe.rates(1.0, epoch, []).weights for epoch in (0, 1, 1.5, 5, 5.5, 9.9)]
    cosine = [(1 + math.cos(math.pi * epoch / 10)) / 2 for epoch in (0, 1, 1, 5, 5, 9)]
    warm_up = [0.01, 0.505, 0.7525, 1, 1, 1]
    assert rates == pytest.approx([rate * factor for rate, factor in zip(cosine, warm_up, strict=True)])
    steps = resolve(parse(["--schedule", "steps", "--epochs", "10"]))[1]
    assert [steps.rates(1.0, epoch, []).biases for epoch in (3.9, 4, 7)] == pytest.approx([1, 0.1, 0.01])
