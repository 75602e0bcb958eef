"""The images of a test set are read from what training has stored, if that is still of the same files."""

from pathlib import Path

import pytest

from alexnet_torch.data import loader
from alexnet_torch.data.cache_build import prepare
from alexnet_torch.evaluation.test_sets import find_test_set, stored_images
from tests.support.folders import make_run
from tests.support.test_sets import evaluate_json


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A run's folder, beside its images, which training has decoded into a cache."""
    run = make_run(tmp_path)
    prepare(tmp_path / "images", 73, str(tmp_path / "cache"))
    return run


def test_what_training_has_stored_is_not_decoded_again(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data: list[str | Path] = [trained, "--data", trained.parent / "images"]
    decoded = evaluate_json(*data, "--cache", "none")
    monkeypatch.setattr(loader, "decode_bytes", lambda *_: pytest.fail("decoded again"))
    assert evaluate_json(*data, "--cache", trained.parent / "cache") == decoded


def test_a_map_without_the_unreadable_images_is_not_taken(trained: Path) -> None:
    images, cache = trained.parent / "images", str(trained.parent / "cache")
    (images / "val/class1/001.png").write_bytes(b"no image")
    prepare(images, 73, cache, skip_bad=True)
    assert stored_images(find_test_set(images), [73], cache) is None
    document = evaluate_json(trained, "--data", images, "--cache", cache, "--skip-bad", "--crops", "1")
    assert (document["images"], len(document["left_out"])) == (11, 1)


def test_a_map_of_other_files_is_not_taken(trained: Path) -> None:
    images, cache = trained.parent / "images", str(trained.parent / "cache")
    assert stored_images(find_test_set(images), [73, 80], cache) is None
    assert stored_images(find_test_set(images), [73], cache) is not None
    (images / "val/class1/001.png").unlink()
    assert stored_images(find_test_set(images), [73], cache) is None
