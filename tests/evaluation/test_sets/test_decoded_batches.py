"""The images of a test set: decoded by several processes, or read from what training has stored."""

from pathlib import Path

import numpy as np
import pytest

from alexnet_torch.data import worker_processes
from alexnet_torch.data.decode import decode_file
from alexnet_torch.data.prepare import prepare
from alexnet_torch.evaluation.test_sets import decoded_batches as batches
from alexnet_torch.evaluation.test_sets.find_test_set import find_test_set
from alexnet_torch.evaluation.test_sets.stored_squares import stored_squares
from tests.support.folders import make_images, make_run
from tests.support.test_sets import evaluate_json


def test_several_processes_decode_all_images_in_order_to_all_sides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_images(tmp_path / "images", val=3) / "val"
    (root / "class1/001.png").write_bytes(b"no image")
    split = find_test_set(root).split
    monkeypatch.setattr(worker_processes, "SERIAL_TASKS", 0)
    found = list(batches.decoded_batches(split, (24, 30), {}, batch_size=2, workers=2))
    assert [batch.indices.tolist() for batch in found] == [[0, 1], [2, 3], [5], [6, 7], [8]]
    assert [index for batch in found for index, _ in batch.bad] == [4]
    assert "class1/001.png: not an image" in found[2].bad[0][1]
    files = sorted(root.rglob("*.png"))
    for batch in found:
        assert batch.labels.tolist() == [index // 3 for index in batch.indices]
        for side, squares in batch.squares.items():
            expected = np.stack([decode_file(files[index], side) for index in batch.indices])
            assert np.array_equal(squares, expected)
        assert list(batch.keys) == [f"val/{files[index].relative_to(root)}" for index in batch.indices]


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A run's folder, beside its images, which training has decoded into a cache."""
    run = make_run(tmp_path)
    prepare(tmp_path / "images", 73, str(tmp_path / "cache"))
    return run


def test_what_training_has_stored_is_not_decoded_again(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data: list[str | Path] = [trained, "--data", trained.parent / "images"]
    decoded = evaluate_json(*data, "--cache", "none")
    monkeypatch.setattr(batches, "decode_bytes", lambda *_: pytest.fail("decoded again"))
    assert evaluate_json(*data, "--cache", trained.parent / "cache") == decoded


def test_a_map_without_the_unreadable_images_is_not_taken(trained: Path) -> None:
    images, cache = trained.parent / "images", str(trained.parent / "cache")
    (images / "val/class1/001.png").write_bytes(b"no image")
    prepare(images, 73, cache, skip_bad=True)
    assert stored_squares(find_test_set(images), [73], cache) == {}
    document = evaluate_json(trained, "--data", images, "--cache", cache, "--skip-bad", "--crops", "1")
    assert (document["images"], len(document["left_out"])) == (11, 1)


def test_a_map_of_other_files_is_not_taken(trained: Path) -> None:
    images, cache = trained.parent / "images", str(trained.parent / "cache")
    assert list(stored_squares(find_test_set(images), [73, 80], cache)) == [73]
    (images / "val/class1/001.png").unlink()
    assert stored_squares(find_test_set(images), [73], cache) == {}
