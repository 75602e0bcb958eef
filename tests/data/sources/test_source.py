"""The order of samples, what is skipped by its name, and what a line says of it."""

from array import array
from pathlib import Path

import pytest

from alexnet_torch.data.sources.listing import FileReader, junk_path_reason, junk_reason
from alexnet_torch.data.sources.source import LISTED, ClassSamples, Skipped, make_source
from alexnet_torch.errors import UserError

ROOT = Path("set")


def of_names(*names: str) -> ClassSamples:
    return ClassSamples(list(names), [f"in/{name}" for name in names], array("q", range(2 * len(names))))


def test_samples_have_imagefolders_order() -> None:
    samples = {"b": of_names("1.png"), "a": of_names("sub/0.png", "z.png", "B.png", "b.png", "10.png", "9.png")}
    source = make_source("form", ROOT, {"train": samples}, lambda members, _: FileReader(ROOT, members), Skipped())
    expected = ["a/10.png", "a/9.png", "a/B.png", "a/b.png", "a/z.png", "a/sub/0.png", "b/1.png"]
    assert source.splits[0].keys == [f"train/{name}" for name in expected]
    assert source.splits[0].labels.tolist() == [0] * 6 + [1]
    assert source.splits[0].reader.location(5) == "set/in/sub/0.png"
    assert source.files.sizes.tolist() == [8, 10, 4, 6, 2, 0, 0]
    assert source.files.times.tolist() == [9, 11, 5, 7, 3, 1, 1]


def test_names_that_repeat_are_numbered_or_refused() -> None:
    def make(names_repeat: bool) -> list[str]:
        samples = {"a": of_names("x", "y", "x", "x")}
        reader = FileReader(ROOT, [])
        return (
            make_source("form", ROOT, {"val": samples}, lambda *_: reader, Skipped(), names_repeat=names_repeat)
            .splits[0]
            .keys
        )

    assert make(names_repeat=True) == ["val/a/x", "val/a/x#2", "val/a/x#3", "val/a/y"]
    with pytest.raises(UserError, match="in/x and in/x are the same sample, val/a/x; leave one of them out"):
        make(names_repeat=False)


def test_classes_that_differ_only_in_case_or_space_give_a_line() -> None:
    samples = {"ant ": of_names("1"), "Ant": of_names("2"), "bee": of_names("3")}
    source = make_source("form", ROOT, {"train": samples}, lambda members, _: FileReader(ROOT, members), Skipped())
    assert source.notes == (
        "--data set: the classes 'Ant' and 'ant ' differ only in case or space; "
        "if they are one, move their images into one folder",
    )


JUNK = [".DS_Store", "._x.jpg", ".ipynb_checkpoints", ".x.jpg", "Thumbs.db", "THUMBS.DB", "desktop.ini", "@eaDir"]


@pytest.mark.parametrize("name", [*JUNK, "__MACOSX"])
def test_system_names_are_skipped(name: str) -> None:
    assert junk_reason(name)
    assert junk_path_reason(f"train/{name}/x.jpg")
    assert junk_path_reason(f"./train/{name}")


@pytest.mark.parametrize("name", ["x.jpg", "ant", "DS_Store.jpg", "thumbs", "a.b", "_x.jpg"])
def test_ordinary_names_are_not(name: str) -> None:
    assert junk_reason(name) is None
    assert not junk_path_reason(f"./train/{name}")


def test_what_is_skipped_is_counted_and_named() -> None:
    passed = Skipped()
    assert str(passed) == ""
    for i in range(LISTED + 5):
        passed.add("macOS", f"train/._{i}.jpg")
    passed.add("hidden", ".x")
    assert str(passed) == "; 1,006 skipped: 1 hidden (.x), 1,005 macOS (train/._0.jpg)"
    assert len(passed.paths["macOS"]) == LISTED
