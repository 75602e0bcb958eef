"""What a line says of classes, of names that repeat, and of what is skipped."""

from array import array
from pathlib import Path

import pytest

from alexnet_torch.data.sources.listing import FileReader
from alexnet_torch.data.sources.source import LISTED, ClassSamples, Skipped, make_source
from alexnet_torch.errors import UserError

ROOT = Path("set")


def of_names(*names: str) -> ClassSamples:
    return ClassSamples(list(names), [f"in/{name}" for name in names], array("q", range(2 * len(names))))


def test_names_that_repeat_are_numbered_or_refused() -> None:
    def make(names_repeat: bool) -> list[str]:
        samples = {"a": of_names("x", "y", "x", "x")}
        reader = FileReader(ROOT, [])
        source = make_source("form", ROOT, {"val": samples}, lambda *_: reader, Skipped(), names_repeat=names_repeat)
        return source.splits[0].keys

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


def test_what_is_skipped_is_counted_and_named() -> None:
    passed = Skipped()
    assert str(passed) == ""
    for i in range(LISTED + 5):
        passed.add("macOS", f"train/._{i}.jpg")
    passed.add("hidden", ".x")
    assert str(passed) == "; 1,006 skipped: 1 hidden (.x), 1,005 macOS (train/._0.jpg)"
    assert len(passed.paths["macOS"]) == LISTED
