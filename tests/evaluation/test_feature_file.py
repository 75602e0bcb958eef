"""Feature files, .npy and .safetensors, contain what was written, and are complete or absent."""

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from alexnet_torch.errors import UserError
from alexnet_torch.evaluation import feature_file
from alexnet_torch.evaluation.feature_file import FeatureMetadata, folder_classes, write_features

SHAPE = (6, 2, 2)
Blocks = Iterator[tuple[np.ndarray, np.ndarray]]


def make_metadata(n: int) -> FeatureMetadata:
    files = tuple(f"{'ants' if i % 2 else 'bees'}/naïve {i}.png" for i in range(n))
    return FeatureMetadata({"stage": "conv5", "towers": 2}, files, *folder_classes(files))


def make_features(n: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, *SHAPE)).astype(np.float32)


def make_blocks(features: np.ndarray, skipped: tuple[int, ...] = (), size: int = 4) -> Blocks:
    for first in range(0, len(features), size):
        rows = np.array([i for i in range(first, min(first + size, len(features))) if i not in skipped], np.int64)
        if len(rows):
            yield rows, features[rows]


@pytest.mark.parametrize("skipped", [(), (0,), (3, 4, 5, 6, 7, 10)])
def test_npy_reads_back_with_a_json_file_of_names(skipped: tuple[int, ...], tmp_path: Path) -> None:
    features, path = make_features(11), tmp_path / "f.npy"
    write_features(path, make_metadata(11), SHAPE, make_blocks(features, skipped))
    rows = [i for i in range(11) if i not in skipped]
    np.testing.assert_array_equal(np.load(path, mmap_mode="r"), features[rows])
    described = json.loads((tmp_path / "f.json").read_text())
    names = make_metadata(11).files
    assert described["files"] == [names[i] for i in rows]
    classes = [described["classes"][label] for label in described["labels"]]
    assert classes == [file.split("/")[0] for file in described["files"]]
    assert described["skipped"] == [names[i] for i in skipped]
    assert (described["stage"], described["towers"], described["shape"]) == ("conv5", 2, [len(rows), *SHAPE])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.json", "f.npy"]


@pytest.mark.parametrize("skipped", [(), (0,), (3, 4, 5, 6, 7, 10)])
def test_safetensors_reads_back_with_its_own_library(skipped: tuple[int, ...], tmp_path: Path) -> None:
    features, path = make_features(11), tmp_path / "f.safetensors"
    write_features(path, make_metadata(11), SHAPE, make_blocks(features, skipped))
    rows = [i for i in range(11) if i not in skipped]
    with safe_open(path, "np") as file:
        np.testing.assert_array_equal(file.get_tensor("features"), features[rows])
        labels, metadata = file.get_tensor("labels"), file.metadata()
    files, classes = json.loads(metadata["files"]), json.loads(metadata["classes"])
    names = make_metadata(11).files
    assert files == [names[i] for i in rows]
    assert [classes[label] for label in labels] == [file.split("/")[0] for file in files]
    assert json.loads(metadata["skipped"]) == [names[i] for i in skipped]
    assert (metadata["stage"], metadata["towers"]) == ("conv5", "2")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["f.npy", "f.safetensors"])
def test_after_an_error_no_new_file_exists_and_an_old_one_is_unchanged(name: str, tmp_path: Path) -> None:
    def failing_blocks() -> Blocks:
        yield from make_blocks(make_features(8))
        raise UserError("a file cannot be read")

    for old_file in (False, True):
        if old_file:
            write_features(tmp_path / name, make_metadata(3), SHAPE, make_blocks(make_features(3)))
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        with pytest.raises(UserError):
            write_features(tmp_path / name, make_metadata(12), SHAPE, failing_blocks())
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["f.npy", "f.safetensors"])
def test_memory_does_not_grow_with_the_features(name: str, tmp_path: Path) -> None:
    """8 MB of features in blocks of 0.1 MB; the file names need some memory, too."""
    shape, n = (1000,), 2000
    files = tuple(f"{i}.png" for i in range(n))
    metadata = FeatureMetadata({}, files, *folder_classes(files))
    tracemalloc.start()
    try:
        blocks = ((np.arange(i, i + 25), np.zeros((25, *shape), np.float32)) for i in range(0, n, 25))
        write_features(tmp_path / name, metadata, shape, blocks)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (tmp_path / name).stat().st_size > 8e6
    assert peak < 2e6


def test_files_in_no_subfolder_have_no_class() -> None:
    classes, labels = folder_classes(["a.png", "train/ants/b.png", "train/bees/c.png", "train/ants/d.png"])
    assert classes == ("train/ants", "train/bees")
    assert labels.tolist() == [-1, 0, 1, 0]


def test_a_header_that_safetensors_cannot_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_file, "MAX_SAFETENSORS_HEADER", 300)
    with pytest.raises(UserError, match=r"the names of 11 files need .* name a \.npy file"):
        write_features(tmp_path / "f.safetensors", make_metadata(11), SHAPE, make_blocks(make_features(11)))
    assert not list(tmp_path.iterdir())
