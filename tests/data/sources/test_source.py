import pickle

import numpy as np
import pytest

from alexnet_torch.data.sources.junk import LISTED, PassedOver, junk_path_reason, junk_reason
from alexnet_torch.data.sources.names import Names
from alexnet_torch.data.sources.source import sample_order

STRINGS = ["train/ant/0.png", "", "caf\udce9", "日本", "train/bee/1.png"]


def test_names_are_a_sequence_of_any_file_names() -> None:
    names = Names.of(STRINGS)
    assert list(names) == STRINGS
    assert [names[i] for i in range(-5, 5)] == STRINGS * 2
    assert list(names[1:4]) == STRINGS[1:4]
    assert list(names.take(np.array([4, 0, 0]))) == [STRINGS[4], STRINGS[0], STRINGS[0]]
    assert list(Names.joined([names, Names.of([]), names])) == STRINGS * 2
    assert pickle.loads(pickle.dumps(names)) == names
    assert names != Names.of(STRINGS[:-1])
    with pytest.raises(IndexError):
        names[5]
    assert len(Names.joined([])) == len(Names.of([])) == 0


def test_samples_have_imagefolders_order() -> None:
    keys = ["t/b/1.png", "t/a/sub/0.png", "t/a/z.png", "t/a/B.png", "t/a/b.png", "t/a/10.png", "t/a/9.png"]
    labels = np.array([1, 0, 0, 0, 0, 0, 0])
    order = sample_order(labels, Names.of(keys))
    expected = ["t/a/10.png", "t/a/9.png", "t/a/B.png", "t/a/b.png", "t/a/z.png", "t/a/sub/0.png", "t/b/1.png"]
    assert [keys[i] for i in order] == expected


JUNK = [".DS_Store", "._x.jpg", ".ipynb_checkpoints", ".x.jpg", "Thumbs.db", "THUMBS.DB", "desktop.ini", "@eaDir"]


@pytest.mark.parametrize("name", [*JUNK, "__MACOSX"])
def test_system_names_are_passed_over(name: str) -> None:
    assert junk_reason(name)
    assert junk_path_reason(f"train/{name}/x.jpg")
    assert junk_path_reason(f"./train/{name}")


@pytest.mark.parametrize("name", ["x.jpg", "ant", "DS_Store.jpg", "thumbs", "a.b", "_x.jpg"])
def test_ordinary_names_are_not(name: str) -> None:
    assert junk_reason(name) is None
    assert not junk_path_reason(f"./train/{name}")


def test_what_is_passed_over_is_counted_and_named() -> None:
    passed = PassedOver()
    assert str(passed) == ""
    for i in range(LISTED + 5):
        passed.add("macOS", f"train/._{i}.jpg")
    passed.add("hidden", ".x")
    assert str(passed) == "; 1,006 passed over: 1 hidden (.x), 1,005 macOS (train/._0.jpg)"
    assert len(passed.paths["macOS"]) == LISTED
