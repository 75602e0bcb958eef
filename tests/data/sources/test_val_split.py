"""Validation images that are chosen among training images."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from alexnet_torch.data.cache_build import prepare
from alexnet_torch.data.sources import val_split as module
from alexnet_torch.data.sources.recognise import open_source
from alexnet_torch.data.sources.source import Source
from alexnet_torch.data.sources.val_split import ValSplit, with_validation
from alexnet_torch.errors import UserError
from tests.support.folders import make_images
from tests.support.logged import logged

TENTH = ValSplit(0.1, 0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Class folders without train/ and val/: 3 classes of 20 images."""
    make_images(tmp_path / "made", train=20, val=1)
    return (tmp_path / "made/train").rename(tmp_path / "photos")


def opened(root: Path, val_split: ValSplit | None = TENTH) -> Source:
    return with_validation(open_source(root), val_split)


def contents(source: Source, name: str) -> list[bytes]:
    split = next(split for split in source.splits if split.name == name)
    return [split.read(row) for row in range(len(split))]


def test_it_is_stratified_and_complete(root: Path) -> None:
    source = opened(root)
    assert source.form == "class folders, divided by --val-split 0.1"
    assert source.describe().endswith("3 classes, 54 training and 6 validation images")
    train, val = source.splits
    assert np.bincount(train.labels).tolist() == [18, 18, 18]
    assert np.bincount(val.labels).tolist() == [2, 2, 2]
    assert all(key.startswith("val/class") for key in val.keys)
    every = [path.read_bytes() for path in sorted(root.rglob("*.png"))]
    assert sorted(contents(source, "train") + contents(source, "val")) == sorted(every)


def test_it_depends_on_seed_and_content_alone(root: Path) -> None:
    before = sorted(contents(opened(root), "val"))
    for number, path in enumerate(sorted(root.rglob("*.png"), reverse=True)):
        path.rename(path.with_name(f"renamed-{number}.png"))
    assert sorted(contents(opened(root), "val")) == before
    assert sorted(contents(opened(root, ValSplit(0.1, 1)), "val")) != before
    more = sorted(contents(opened(root, ValSplit(0.2, 0)), "val"))
    assert set(before) < set(more)


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_identical_files_are_on_one_side(fraction: float, root: Path) -> None:
    for k in range(3):
        for i in range(10):
            for copy in range(3):
                shutil.copy(root / f"class{k}/{i:03}.png", root / f"class{k}/{i:03} ({copy}).png")
    shutil.copy(root / "class0/015.png", root / "class1/other.png")
    source = opened(root, ValSplit(fraction, 0))
    train, val = (set(contents(source, name)) for name in ("train", "val"))
    assert not train & val
    assert (root / "class0/015.png").read_bytes() in train
    assert all(count > 0 for split in source.splits for count in np.bincount(split.labels, minlength=3))


def test_a_folder_with_train_alone_is_divided_too(root: Path) -> None:
    (root.parent / "set").mkdir()
    root.rename(root.parent / "set/train")
    assert [len(split) for split in opened(root.parent / "set").splits] == [54, 6]


def test_what_is_missing_is_told(root: Path) -> None:
    with pytest.raises(UserError, match=r"has class folders, but no train/ and val/; let --val-split 0.1 choose"):
        opened(root, None)
    make_images(root.parent / "whole", train=1, val=1)
    with pytest.raises(UserError, match=r"--val-split: .*whole has validation images of its own; leave the option out"):
        opened(root.parent / "whole")
    for path in list((root / "class1").iterdir())[1:]:
        path.unlink()
    with pytest.raises(UserError, match=r"class class1 of .* has fewer than two different images; add some"):
        opened(root)


def test_it_is_kept_in_the_manifest(root: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    with logged(lines):
        first = prepare(root, 24, str(tmp_path / "cache"), val_split=TENTH)
    assert "class folders, divided by --val-split 0.1, 3 classes, 54 training and 6 validation images" in lines[0]
    (folder,) = (tmp_path / "cache").glob("photos-*")
    assert "-val0.1-seed0-24" in folder.name
    assert json.loads((folder / "manifest.json").read_text())["images"] == {"train": 54, "val": 6}
    again = prepare(root, 24, str(tmp_path / "cache"), val_split=TENTH)
    assert again.fingerprint == first.fingerprint
    assert list(again.val.keys) == list(first.val.keys)
    other = prepare(root, 24, str(tmp_path / "cache"), val_split=ValSplit(0.1, 1))
    assert other.fingerprint != first.fingerprint


def test_a_large_set_is_read_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SMALL", 10)
    monkeypatch.setenv("XDG_CACHE_HOME", str(root.parent / "home"))
    first = opened(root)
    with monkeypatch.context() as patch:
        patch.setattr(module, "digest_files", lambda _: pytest.fail("read again"))
        assert list(opened(root).splits[1].keys) == list(first.splits[1].keys)
    shutil.copy(root / "class0/000.png", root / "class0/new.png")
    assert len(opened(root).splits[0]) + len(opened(root).splits[1]) == 61
