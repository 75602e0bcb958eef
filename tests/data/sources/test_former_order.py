"""Runs that ordered folders named by numbers as text keep their order; what was looked at is remembered."""

import hashlib
from pathlib import Path

import pytest

from alexnet_torch.data.prepare import prepare
from alexnet_torch.data.sources import looked_files
from alexnet_torch.data.sources.former_order import in_former_order
from alexnet_torch.data.sources.image_check import is_image_content
from alexnet_torch.data.sources.recognise import open_source
from tests.support.folders import make_images

TEXT_ORDER = sorted(map(str, range(12)))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = make_images(tmp_path / "images", classes=12, train=2, val=1)
    for folder in list(made.glob("*/*")):
        folder.rename(folder.with_name(folder.name.removeprefix("class")))
    return made


def test_an_older_runs_order_of_numbers_is_kept(root: Path) -> None:
    source = in_former_order(open_source(root), TEXT_ORDER)
    assert list(source.identities) == TEXT_ORDER
    for split in source.splits:
        assert [key.split("/")[1] for key in split.keys] == [TEXT_ORDER[label] for label in split.labels]
        assert split.labels.tolist() == sorted(split.labels.tolist())
        assert [split.read(row) for row in range(len(split))] == [(root / key).read_bytes() for key in split.keys]


def test_its_data_set_is_the_same_as_before(root: Path, tmp_path: Path) -> None:
    cache, quiet = str(tmp_path / "cache"), {"announce": lambda _: None}
    prepared = prepare(root, 24, cache, former_classes=TEXT_ORDER, **quiet)  # type: ignore[arg-type]
    digest = hashlib.sha256(f"24 {tuple(TEXT_ORDER)}".encode())  # as commit 3608740 computed it
    for split in ("train", "val"):
        for path in sorted((root / split).rglob("*.png")):
            digest.update(f"{path.stat().st_size} {path.relative_to(root)}\n".encode())
    assert prepared.fingerprint.files == digest.hexdigest()
    assert not prepare(root, 24, cache, **quiet).fingerprint.same_as(prepared.fingerprint)  # type: ignore[arg-type]


@pytest.mark.parametrize("classes", [(), ("a", "b"), [*TEXT_ORDER, "12"], TEXT_ORDER[::-1]])
def test_any_other_classes_change_nothing(classes: tuple[str, ...], root: Path) -> None:
    source = open_source(root)
    assert in_former_order(source, classes) is source


def test_files_are_looked_at_once_until_they_change(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        (root / f"train/0/{number}.txt").write_text("no image")
    (root / "train/0/picture").write_bytes((root / "train/0/000.png").read_bytes())
    looked: list[str] = []

    def look(file: Path) -> bool:
        looked.append(file.name)
        return is_image_content(file)

    monkeypatch.setattr(looked_files, "KEPT", 1)
    monkeypatch.setattr(looked_files, "is_image_content", look)
    first = open_source(root)
    assert sorted(looked) == ["0.txt", "1.txt", "2.txt", "picture"]
    assert list(open_source(root).splits[0].keys) == list(first.splits[0].keys)
    assert len(looked) == 4
    (root / "train/0/1.txt").write_bytes((root / "train/0/000.png").read_bytes())
    assert len(open_source(root).splits[0]) == len(first.splits[0]) + 1
    assert looked[4:] == ["1.txt"]
