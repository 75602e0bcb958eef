"""Feature files hold what was given, in .npy and .safetensors, whole or not at all."""

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from alexnet_torch.errors import UserError
from alexnet_torch.evaluation import feature_file as feature_files
from alexnet_torch.evaluation.feature_file import Listing, folder_classes, write_features

ROW = (6, 2, 2)
Blocks = Iterator[tuple[np.ndarray, np.ndarray]]


def listing(n: int) -> Listing:
    files = tuple(f"{'ants' if i % 2 else 'bees'}/naïve {i}.png" for i in range(n))
    return Listing({"stage": "conv5", "towers": 2}, files, *folder_classes(files))


def values(n: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, *ROW)).astype(np.float32)


def blocks(features: np.ndarray, left_out: tuple[int, ...] = (), size: int = 4) -> Blocks:
    for first in range(0, len(features), size):
        rows = np.array([i for i in range(first, min(first + size, len(features))) if i not in left_out], np.int64)
        if len(rows):
            yield rows, features[rows]


@pytest.mark.parametrize("left_out", [(), (0,), (3, 4, 5, 6, 7, 10)])
def test_npy_reads_back_with_its_names_beside_it(left_out: tuple[int, ...], tmp_path: Path) -> None:
    features, path = values(11), tmp_path / "f.npy"
    write_features(path, listing(11), ROW, blocks(features, left_out))
    kept = [i for i in range(11) if i not in left_out]
    np.testing.assert_array_equal(np.load(path, mmap_mode="r"), features[kept])
    beside = json.loads((tmp_path / "f.json").read_text())
    assert beside["files"] == [listing(11).files[i] for i in kept]
    assert [beside["classes"][label] for label in beside["labels"]] == [f.split("/")[0] for f in beside["files"]]
    assert beside["skipped"] == [listing(11).files[i] for i in left_out]
    assert (beside["stage"], beside["towers"], beside["shape"]) == ("conv5", 2, [len(kept), *ROW])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.json", "f.npy"]


@pytest.mark.parametrize("left_out", [(), (0,), (3, 4, 5, 6, 7, 10)])
def test_safetensors_reads_back_by_its_own_library(left_out: tuple[int, ...], tmp_path: Path) -> None:
    features, path = values(11), tmp_path / "f.safetensors"
    write_features(path, listing(11), ROW, blocks(features, left_out))
    kept = [i for i in range(11) if i not in left_out]
    with safe_open(path, "np") as file:
        np.testing.assert_array_equal(file.get_tensor("features"), features[kept])
        labels, metadata = file.get_tensor("labels"), file.metadata()
    files, classes = json.loads(metadata["files"]), json.loads(metadata["classes"])
    assert files == [listing(11).files[i] for i in kept]
    assert [classes[label] for label in labels] == [f.split("/")[0] for f in files]
    assert json.loads(metadata["skipped"]) == [listing(11).files[i] for i in left_out]
    assert (metadata["stage"], metadata["towers"]) == ("conv5", "2")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["f.npy", "f.safetensors"])
def test_cut_short_nothing_is_left_and_an_earlier_file_stays(name: str, tmp_path: Path) -> None:
    def broken() -> Blocks:
        yield from blocks(values(8))
        raise UserError("a file cannot be read")

    for before in (False, True):
        if before:
            write_features(tmp_path / name, listing(3), ROW, blocks(values(3)))
        kept = {path: path.read_bytes() for path in tmp_path.iterdir()}
        with pytest.raises(UserError):
            write_features(tmp_path / name, listing(12), ROW, broken())
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == kept


@pytest.mark.parametrize("name", ["f.npy", "f.safetensors"])
def test_memory_does_not_grow_with_the_features(name: str, tmp_path: Path) -> None:
    """8 MB of features in blocks of 0.1 MB; the names of the files take some more."""
    row, n = (1000,), 2000
    files = tuple(f"{i}.png" for i in range(n))
    whole = Listing({}, files, *folder_classes(files))
    tracemalloc.start()
    try:
        made = ((np.arange(i, i + 25), np.zeros((25, *row), np.float32)) for i in range(0, n, 25))
        write_features(tmp_path / name, whole, row, made)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (tmp_path / name).stat().st_size > 8e6
    assert peak < 2e6


def test_files_in_no_folder_have_no_class() -> None:
    classes, labels = folder_classes(["a.png", "train/ants/b.png", "train/bees/c.png", "train/ants/d.png"])
    assert classes == ("train/ants", "train/bees")
    assert labels.tolist() == [-1, 0, 1, 0]


def test_names_beyond_what_safetensors_reads_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_files, "SAFETENSORS_HEADER_BYTES", 300)
    with pytest.raises(UserError, match=r"the names of 11 files take .* name a \.npy file"):
        write_features(tmp_path / "f.safetensors", listing(11), ROW, blocks(values(11)))
    assert not list(tmp_path.iterdir())
