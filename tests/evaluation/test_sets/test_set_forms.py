"""The validation images of every form are a test set, with and without the training images beside them."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.data.sources.test_all_forms import FORMS
from tests.support.commands import read_metrics, run_cli, run_train
from tests.support.folders import make_images
from tests.support.image_sets import small_set, write_image_folder, write_kaggle, write_official, write_zip
from tests.support.test_sets import evaluate_json, imagenet_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return imagenet_run(tmp_path_factory.mktemp("imagenet") / "run")


@pytest.fixture(scope="module")
def expected(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = write_image_folder(tmp_path_factory.mktemp("folder") / "images", small_set())
    return evaluate_json(run, "--data", root, "--cache", "none")["results"]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_scores(form: str, run: Path, expected: Any, tmp_path: Path) -> None:
    root = FORMS[form](tmp_path / "set", small_set())
    document = evaluate_json(run, "--data", root)
    assert document["results"] == expected
    assert document["matched_by"] == "WordNet ID"


ALONE = ["official tars", "Hugging Face's val tar", "shards with cls", "parquet", "a flat val"]


@pytest.mark.parametrize("form", ALONE)
def test_the_training_images_need_not_be_there(form: str, run: Path, expected: Any, tmp_path: Path) -> None:
    root = FORMS[form](tmp_path / "set", small_set())
    for path in list(root.rglob("*train*")):
        if path.is_file():
            path.unlink()
        else:
            shutil.rmtree(path)
    assert evaluate_json(run, "--data", root)["results"] == expected


def test_a_tar_and_a_flat_folder_alone_are_test_sets(run: Path, expected: Any, tmp_path: Path) -> None:
    tar = write_official(tmp_path / "tars", small_set()) / "ILSVRC2012_img_val.tar"
    assert evaluate_json(run, "--data", tar)["results"] == expected
    kaggle = write_kaggle(tmp_path / "kaggle", small_set())
    assert evaluate_json(run, "--data", kaggle / "ILSVRC/Data/CLS-LOC/val")["results"] == expected


def test_class_folders_in_a_zip_are_a_test_set(run: Path, expected: Any, tmp_path: Path) -> None:
    files = [(each.key.removeprefix("val/"), each.content) for each in small_set() if each.split == "val"]
    assert evaluate_json(run, "--data", write_zip(tmp_path, files))["results"] == expected


@pytest.mark.usefixtures("narrow_demo_recipe")
def test_a_run_is_tested_on_the_part_of_its_images_that_it_was_not_trained_on(tmp_path: Path) -> None:
    photos, runs = make_images(tmp_path / "images", train=10) / "train", [tmp_path / "a", tmp_path / "b"]
    options = ["--val-split", "0.2", "--recipe", "demo", "--batch-size", "8", "--max-steps", "2"]
    for seed, trained in enumerate(runs):
        done = run_train("--data", photos, *options, "--output", trained, "--seed", str(seed))
        assert done.returncode == 0, done.stderr
    document = evaluate_json(runs[0], "--data", photos)
    assert document["images"] == 6
    assert document["form"] == "class folders, divided by --val-split 0.2"
    recorded = [report for report in read_metrics(runs[0]) if report["split"] == "val"]
    for result, report in zip(document["results"], recorded, strict=True):
        assert (result["top1_error"], result["crops"]) == (report["top1_error"], report["crops"])
        assert result["loss"] == pytest.approx(report["loss"], rel=1e-5)
    other = tmp_path / "other"
    photos.parent.rename(other)
    assert evaluate_json(runs[0], "--data", other / "train")["images"] == 30  # another set, as far as it can be known
    other.rename(photos.parent)
    together = run_cli("evaluate", *runs, "--data", photos)
    assert together.returncode == 2
    assert "were trained on different parts of it" in together.stderr
