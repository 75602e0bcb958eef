"""The index of large archives is kept, and made again when an archive or the index changes."""

import tarfile
from pathlib import Path

import numpy as np
import pytest

from alexnet_torch.data.sources import archives, parquet, tar_sets
from alexnet_torch.data.sources.parquet import open_parquet_set
from alexnet_torch.data.sources.source import Source
from alexnet_torch.data.sources.tar_sets import open_tar_set
from tests.support.image_sets import add_member, small_set, write_official, write_parquet


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(archives, "KEPT_SAMPLES", 1)
    return tmp_path / "cache" / "alexnet_torch" / "indexes"


def assert_same(ours: Source, theirs: Source) -> None:
    assert (ours.form, ours.classes, ours.notes) == (theirs.form, theirs.classes, theirs.notes)
    assert ours.skipped == theirs.skipped
    for a, b in zip(ours.splits, theirs.splits, strict=True):
        assert (a.name, a.keys) == (b.name, b.keys)
        np.testing.assert_array_equal(a.labels, b.labels)
        assert type(a.reader) is type(b.reader)
        np.testing.assert_array_equal(a.reader.places, b.reader.places)
        assert [a.read(i) for i in range(len(a))] == [b.read(i) for i in range(len(b))]
        assert [a.reader.location(i) for i in range(len(a))] == [b.reader.location(i) for i in range(len(b))]


def test_a_kept_index_gives_the_same_source(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, table = write_official(tmp_path / "set", small_set()), write_parquet(tmp_path / "parquet", small_set())
    with tarfile.open(root / "ILSVRC2012_img_val.tar", "a") as archive:
        add_member(archive, "._ILSVRC2012_val_00000001.JPEG", b"x")
    listed, rows = open_tar_set(root), open_parquet_set(table)
    assert listed.skipped.counts == {"hidden": 1}
    assert len(list(cache.iterdir())) == 2
    monkeypatch.setattr(tar_sets, "list_tar", None)  # fails if it is called
    monkeypatch.setattr(tar_sets, "READ", {})
    monkeypatch.setattr(parquet, "_add_rows", None)
    assert_same(open_tar_set(root), listed)
    assert_same(open_parquet_set(table), rows)


def test_an_archive_that_changed_is_listed_again(tmp_path: Path) -> None:
    root = write_official(tmp_path / "set", small_set(train=3))
    assert len(open_tar_set(root).split("train")) == 9
    write_official(root, small_set(train=4))
    assert len(open_tar_set(root).split("train")) == 12


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", None])
def test_a_damaged_index_is_made_again(content: bytes | None, cache: Path, tmp_path: Path) -> None:
    root = write_official(tmp_path / "set", small_set())
    listed = open_tar_set(root)
    (file,) = cache.iterdir()
    intact = file.read_bytes()
    file.write_bytes(intact[:-200] if content is None else content)
    assert_same(open_tar_set(root), listed)
    assert file.read_bytes()[:4] == intact[:4]


def test_a_disk_that_cannot_be_written_keeps_no_index(cache: Path, tmp_path: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("a file where the folder would be")
    assert len(open_tar_set(write_official(tmp_path / "set", small_set())).split("val")) == 6
