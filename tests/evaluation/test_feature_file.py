"""Feature files, .npy, .safetensors and .h5, contain what was written, are complete or absent, and are continued."""

import json
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from safetensors import safe_open

from alexnet_torch.errors import UserError
from alexnet_torch.evaluation import feature_file
from alexnet_torch.evaluation.feature_file import (
    FeatureArray,
    FeatureMetadata,
    array_paths,
    folder_classes,
    header_lengths,
    write_feature_file,
)
from alexnet_torch.evaluation.partial_features import PartialFeatures, partial_folder

ONE = [FeatureArray("features", (6, 2, 2))]
TWO = [FeatureArray("conv5", (6, 2, 2)), FeatureArray("fc7.tower0", (5,))]
FORMATS = ["f.npy", "f.safetensors", "f.h5"]


def make_metadata(n: int) -> FeatureMetadata:
    files = tuple(f"{'ants' if i % 2 else 'bees'}/naïve {i}.png" for i in range(n))
    return FeatureMetadata({"stages": ["conv5"], "architecture": "paper"}, files, *folder_classes(files))


def make_features(n: int, arrays: Sequence[FeatureArray]) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.normal(size=(n, *array.shape)).astype(np.float32) for array in arrays]


def open_partial(path: Path, n: int, arrays: Sequence[FeatureArray], command: str = "same") -> PartialFeatures:
    lengths = header_lengths(path, make_metadata(n), arrays)
    return PartialFeatures(path, arrays, lengths, {"command": command})


def append_from(partial: PartialFeatures, features: list[np.ndarray], skipped: Sequence[int], stop: int | None) -> None:
    """Appends the rows in batches of 4, from where the partial file is up to `stop`."""
    n = len(features[0])
    for first in range(partial.done, n if stop is None else stop, 4):
        rows = [i for i in range(first, min(first + 4, n)) if i not in skipped]
        bad = [(i, "no image") for i in range(first, min(first + 4, n)) if i in skipped]
        partial.append(min(first + 4, n), [array[rows] for array in features], bad)


def write(path: Path, n: int, arrays: Sequence[FeatureArray], skipped: Sequence[int] = ()) -> list[np.ndarray]:
    features = make_features(n, arrays)
    with open_partial(path, n, arrays) as partial:
        append_from(partial, features, skipped, None)
        partial.save()
        metadata = make_metadata(n).without(index for index, _ in partial.bad)
        write_feature_file(path, metadata, arrays, partial.parts)
    partial.remove()
    return features


def interrupt_at(stop: int, path: Path, skipped: Sequence[int] = ()) -> None:
    with open_partial(path, 11, TWO) as partial:
        append_from(partial, make_features(11, TWO), skipped, stop)
        raise KeyboardInterrupt


def read(path: Path, arrays: Sequence[FeatureArray]) -> tuple[dict[str, np.ndarray], np.ndarray, dict[str, Any]]:
    """Reads a file with the library of its format: arrays by name, labels, and the rest."""
    if path.suffix == ".npy":
        described = json.loads(path.with_suffix(".json").read_text())
        paths = array_paths(path, arrays)
        values = {array.name: np.load(p, mmap_mode="r") for array, p in zip(arrays, paths, strict=True)}
        return values, np.array(described["labels"]), described
    if path.suffix == ".safetensors":
        with safe_open(path, "np") as file:
            tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    else:
        with h5py.File(path) as h5:
            tensors = {name: h5[name][()] for name in h5 if name not in ("files", "classes")}
            metadata = dict(h5.attrs)
            metadata |= {name: json.dumps(h5[name].asstr()[()].tolist()) for name in ("files", "classes")}
    labels = tensors.pop("labels")
    return tensors, labels, {name: v if name == "architecture" else json.loads(v) for name, v in metadata.items()}


@pytest.mark.parametrize("skipped", [(), (0,), (3, 4, 5, 6, 7, 10)])
@pytest.mark.parametrize("arrays", [ONE, TWO], ids=["one", "two"])
@pytest.mark.parametrize("name", FORMATS)
def test_the_formats_own_library_reads_what_was_written(
    name: str, arrays: list[FeatureArray], skipped: tuple[int, ...], tmp_path: Path
) -> None:
    path = tmp_path / name
    features = write(path, 11, arrays, skipped)
    kept = [i for i in range(11) if i not in skipped]
    values, labels, metadata = read(path, arrays)
    assert sorted(values) == sorted(array.name for array in arrays)
    for array, expected in zip(arrays, features, strict=True):
        np.testing.assert_array_equal(values[array.name], expected[kept])
    names = make_metadata(11).files
    assert metadata["files"] == [names[i] for i in kept]
    assert metadata["skipped"] == [names[i] for i in skipped]
    assert [metadata["classes"][label] for label in labels] == [file.split("/")[0] for file in metadata["files"]]
    assert (metadata["stages"], metadata["architecture"]) == (["conv5"], "paper")
    json_file = {path.with_suffix(".json")} if path.suffix == ".npy" else set()
    files = set(array_paths(path, arrays)) if path.suffix == ".npy" else {path}
    assert set(tmp_path.iterdir()) == files | json_file


@pytest.mark.parametrize("skipped", [(), (2, 9)])
@pytest.mark.parametrize("name", FORMATS)
def test_an_interrupted_file_is_continued_to_the_same_bytes(
    name: str, skipped: tuple[int, ...], tmp_path: Path
) -> None:
    (tmp_path / "whole").mkdir()
    write(tmp_path / "whole" / name, 11, TWO, skipped)
    path = tmp_path / name
    for stop in (4, 8):
        with pytest.raises(KeyboardInterrupt):
            interrupt_at(stop, path, skipped)
        assert not path.exists()
    with (partial_folder(path) / "conv5.rows").open("ab") as file:
        file.write(b"written after the last save, before a kill")
    with open_partial(path, 11, TWO) as partial:
        assert partial.done == 8
    write(path, 11, TWO, skipped)
    files = [file for file in (tmp_path / "whole").iterdir() if file.suffix != ".h5"]
    assert all((tmp_path / file.name).read_bytes() == file.read_bytes() for file in files)
    for one, other in zip(read(path, TWO), read(tmp_path / "whole" / name, TWO), strict=True):
        np.testing.assert_equal(one, other)


def test_rows_of_another_command_are_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "f.npy"
    with pytest.raises(KeyboardInterrupt):
        interrupt_at(8, path)
    folder = partial_folder(path)
    before = {file: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(UserError, match="has the rows of another command, which differs in command; finish that"):
        open_partial(path, 11, TWO, "another")
    assert {file: file.read_bytes() for file in folder.iterdir()} == before
    with open_partial(path, 11, TWO), pytest.raises(UserError, match="another process is writing it"):
        open_partial(path, 11, TWO)
    (folder / "progress.json").write_text("{")
    with pytest.raises(UserError, match=r"progress\.json is damaged; move .* elsewhere to start again"):
        open_partial(path, 11, TWO)


@pytest.mark.parametrize("name", FORMATS)
def test_after_an_error_no_new_file_exists_and_an_old_one_is_unchanged(name: str, tmp_path: Path) -> None:
    for old_file in (False, True):
        if old_file:
            write(tmp_path / name, 3, ONE)
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        with pytest.raises(UserError), open_partial(tmp_path / name, 12, ONE):
            raise UserError("the first file cannot be read")
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", FORMATS)
def test_memory_does_not_grow_with_the_features(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """8 MB of features in batches of 0.1 MB; the file names need some memory, too."""
    arrays, n, path = [FeatureArray("features", (1000,))], 2000, tmp_path / name
    files = tuple(f"{i}.png" for i in range(n))
    metadata = FeatureMetadata({}, files, *folder_classes(files))
    monkeypatch.setattr(feature_file, "_COPIED", 100_000)
    tracemalloc.start()
    try:
        with PartialFeatures(path, arrays, header_lengths(path, metadata, arrays), {}) as partial:
            for i in range(0, n, 25):
                partial.append(i + 25, [np.zeros((25, 1000), np.float32)], [])
            partial.save()
            write_feature_file(path, metadata, arrays, partial.parts)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert path.stat().st_size > 8e6
    assert peak < 2e6


def test_files_in_no_subfolder_have_no_class() -> None:
    classes, labels = folder_classes(["a.png", "train/ants/b.png", "train/bees/c.png", "train/ants/d.png"])
    assert classes == ("train/ants", "train/bees")
    assert labels.tolist() == [-1, 0, 1, 0]


def test_a_header_that_safetensors_cannot_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_file, "MAX_SAFETENSORS_HEADER", 300)
    with pytest.raises(UserError, match=r"the names of 11 files need .* name a \.npy file"):
        write(tmp_path / "f.safetensors", 11, ONE)
    assert not list(tmp_path.iterdir())
