"""train.py on data sets that are not folders with train/ and val/."""

import json
import shutil
from pathlib import Path

import pytest

from alexnet_torch import cli
from alexnet_torch.weights.model_file import load_model
from tests.support.commands import run_train
from tests.support.folders import make_images
from tests.support.image_sets import kaggle_files, small_set, write_zip

pytestmark = pytest.mark.usefixtures("narrow_demo_recipe")

OPTIONS = ("--recipe", "demo", "--batch-size", "6", "--val-split", "0.2", "--seed", "3")


def test_a_run_with_chosen_validation_images_resumes_exactly(tmp_path: Path) -> None:
    make_images(tmp_path / "made", train=10, val=1)
    root = (tmp_path / "made/train").rename(tmp_path / "photos")
    given = ("--data", root, "--cache", tmp_path / "cache", *OPTIONS)
    refused = run_train("--data", root, "--output", tmp_path / "none", "--recipe", "demo")
    assert refused.returncode == 2
    assert "has class folders, but no train/ and val/; let --val-split 0.1 choose" in refused.stderr
    whole = run_train(*given, "--output", tmp_path / "whole", "--epochs", "2")
    assert whole.returncode == 0, whole.stderr
    assert "divided by --val-split 0.2, 3 classes, 24 training and 6 validation images" in whole.stderr
    assert run_train(*given, "--output", tmp_path / "run", "--epochs", "2", "--max-steps", "4").returncode == 0
    shutil.rmtree(tmp_path / "cache")
    for path in sorted(root.rglob("*.png")):  # the choice and the run depend on the content alone
        path.rename(path.with_name(f"renamed-{path.name}"))
    done = run_train("--output", tmp_path / "run", "--resume", "--max-steps", "8")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/model.pt").read_bytes() == (tmp_path / "whole/model.pt").read_bytes()


def test_images_in_an_archive_are_trained_on_and_drawn(tmp_path: Path) -> None:
    root = write_zip(tmp_path / "kaggle", kaggle_files(small_set(train=6)))
    run = tmp_path / "run"
    options = ("--cache", tmp_path / "cache", "--recipe", "demo", "--batch-size", "6", "--epochs", "1")
    assert run_train("--data", root, "--output", run, *options).returncode == 0
    model = load_model(run, ["cpu"])
    assert model.classes == ("n01484850", "n02012849", "n03126707")
    assert model.labels[1:] == ("crane (n02012849)", "crane (n03126707)")
    assert cli.main(["figures", str(run), "--output", str(tmp_path / "figures")]) == 0
    numbers = json.loads((tmp_path / "figures/figures.json").read_text())
    example = numbers["examples"][0]
    assert example["file"].startswith("val/n0")
    assert example["label"] in model.labels
    assert {neighbour["label"] for neighbour in example["neighbours"]} <= set(model.labels)
