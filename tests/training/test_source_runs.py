"""train.py on data sets that are no folders with train/ and val/: archives, and images without a validation set."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from alexnet_torch.weights.model_file import load_model
from tests.support import image_sets
from tests.support.commands import one_line, read_metrics, resume, run_cli, run_train
from tests.support.folders import make_images
from tests.support.image_sets import Sample, small_set

pytestmark = pytest.mark.usefixtures("narrow_demo_recipe")

Write = Callable[[Path, list[Sample]], Path]
OPTIONS = ("--recipe", "demo", "--epochs", "1", "--batch-size", "6", "--seed", "3")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The weights of a run on files."""
    folder = tmp_path_factory.mktemp("files")
    root = image_sets.write_image_folder(folder / "set", small_set(train=6))
    done = run_train("--data", root, "--output", folder / "run", "--cache", folder / "cache", *OPTIONS)
    assert done.returncode == 0, done.stderr
    return (folder / "run" / "model.pt").read_bytes()


@pytest.mark.parametrize("cache", ["cache", "none"])
@pytest.mark.parametrize("write", [image_sets.write_official, image_sets.write_parquet])
def test_a_run_on_archives_has_the_weights_of_one_on_files(
    write: Write, cache: str, weights: bytes, tmp_path: Path
) -> None:
    root, place = write(tmp_path / "set", small_set(train=6)), cache if cache == "none" else tmp_path / cache
    done = run_train("--data", root, "--output", tmp_path / "run", "--cache", place, *OPTIONS)
    assert done.returncode == 0, done.stderr
    assert "3 classes, 18 training and 6 validation images" in done.stderr
    assert (tmp_path / "run" / "model.pt").read_bytes() == weights
    assert len(read_metrics(tmp_path / "run")) >= 2


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (image_sets.write_official, "ILSVRC2012_img_train.tar"),
        (image_sets.write_shards, "imagenet1k-validation-0000.tar"),
        (image_sets.write_parquet, "validation-00000"),
    ],
)
def test_a_truncated_archive_is_one_line_and_leaves_nothing(write: Write, name: str, tmp_path: Path) -> None:
    (file,) = write(tmp_path / "set", small_set()).rglob(f"{name}*")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    given = ("--data", tmp_path / "set", "--output", tmp_path / "run", "--cache", tmp_path / "cache")
    assert str(file) in one_line(run_train(*given, *OPTIONS), "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]


def test_a_run_with_chosen_validation_images_resumes_exactly(tmp_path: Path) -> None:
    make_images(tmp_path / "made", train=10, val=1)
    root = (tmp_path / "made/train").rename(tmp_path / "photos")
    refused = run_train("--data", root, "--output", tmp_path / "none", "--recipe", "demo")
    one_line(refused, "has class folders, but no train/ and val/; let --val-split 0.1 choose")
    given = ("--data", root, "--cache", tmp_path / "cache", *OPTIONS, "--epochs", "2", "--val-split", "0.2")
    whole = run_train(*given, "--output", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    assert "divided by --val-split 0.2, 3 classes, 24 training and 6 validation images" in whole.stderr
    assert run_train(*given, "--output", tmp_path / "run", "--max-steps", "4").returncode == 0
    shutil.rmtree(tmp_path / "cache")
    for path in sorted(root.rglob("*.png")):  # the choice and the run depend on the content alone
        path.rename(path.with_name(f"renamed-{path.name}"))
    done = resume(tmp_path / "run", "--max-steps", "8")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/model.pt").read_bytes() == (tmp_path / "whole/model.pt").read_bytes()


def test_images_in_an_archive_are_trained_on_and_drawn(tmp_path: Path) -> None:
    root = image_sets.write_zip(tmp_path / "kaggle", image_sets.kaggle_files(small_set(train=6)))
    given = ("--data", root, "--output", tmp_path / "run", "--cache", tmp_path / "cache")
    assert run_train(*given, *OPTIONS).returncode == 0
    model = load_model(tmp_path / "run", ["cpu"])
    assert model.classes == ("n01484850", "n02012849", "n03126707")
    assert model.labels[1:] == ("crane (n02012849)", "crane (n03126707)")
    assert run_cli("figures", tmp_path / "run", "--output", tmp_path / "figures").returncode == 0
    example = json.loads((tmp_path / "figures/figures.json").read_text())["examples"][0]
    assert example["file"].startswith("val/n0")
    assert example["label"] in model.labels
    assert {neighbour["label"] for neighbour in example["neighbours"]} <= set(model.labels)
