"""The validation images of every form are a test set, with and without the training images beside them."""

from pathlib import Path
from typing import Any

import pytest

from tests.data.sources.test_all_forms import FORMS
from tests.support.image_sets import small_set, write_image_folder
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
    for file in [path for path in root.rglob("*train*") if path.is_file()]:
        file.unlink()
    assert evaluate_json(run, "--data", root)["results"] == expected
