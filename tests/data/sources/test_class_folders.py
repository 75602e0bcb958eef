import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from alexnet_torch.data.sources.recognise import open_source
from alexnet_torch.data.sources.val_split import with_validation
from alexnet_torch.errors import UserError
from tests.support.folders import make_images


def a_file(root: Path) -> None:
    shutil.rmtree(root)
    root.touch()


def flatten(split: Path) -> None:
    for image in list(split.rglob("*.png")):
        image.rename(split / f"{image.parent.name}-{image.name}")
    for folder in list(split.iterdir()):
        if folder.is_dir():
            folder.rmdir()


def remove(*paths: str) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        for path in paths:
            shutil.rmtree(root / path)

    return spoil


def unlink(images: str) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        for image in root.glob(images):
            image.unlink()

    return spoil


WRONG_LAYOUTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file": (a_file, "is a file; name the folder"),
    "missing": (remove("."), "there is no such file or folder"),
    "no train": (remove("train"), "has no folder train/; put the training images into"),
    "no val": (
        remove("val"),
        "has no folder val/; move some images of each class into val/<class>/, or let --val-split",
    ),
    "flat val": (lambda r: flatten(r / "val"), "val/ is flat: .* move each image into val/<class>/"),
    "flat train": (lambda r: flatten(r / "train"), "train/ is flat"),
    "empty class": (unlink("train/class1/*"), "no images in train/ of class class1; put some into train/<class>/"),
    "fewer in val": (remove("val/class2"), "only in train: class2; only in val: none"),
    "another in val": (lambda r: (r / "val/class2").rename(r / "val/x"), "only in train: class2; only in val: x"),
    "no images": (unlink("*/*/*"), "no images in train/ of any class; put"),
    "nothing in val": (remove("val/class0", "val/class1", "val/class2"), "val/ contains no images; put them"),
    "one class": (remove("train/class1", "train/class2", "val/class1", "val/class2"), "has only one class, class0;"),
}


@pytest.mark.parametrize("name", WRONG_LAYOUTS)
def test_each_wrong_layout_has_its_own_message(name: str, tmp_path: Path) -> None:
    root = make_images(tmp_path / "images", train=1, val=1)
    spoil, message = WRONG_LAYOUTS[name]
    spoil(root)
    with pytest.raises(UserError, match=message) as error:
        with_validation(open_source(root), None)
    assert str(error.value).startswith(f"--data {root}: ")
    assert "\n" not in str(error.value)


def test_a_folder_without_read_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    root = make_images(tmp_path, train=1, val=1)
    monkeypatch.setattr(os, "open", refuse)  # a test run by root may read everything
    with pytest.raises(UserError, match=r"--data .*: Permission denied; change its permissions"):
        open_source(root)


def test_paths_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_images(tmp_path / "images", train=1, val=1)
    monkeypatch.chdir(tmp_path / "images")
    for root in (Path(), Path("../images")):
        assert list(open_source(root).split("val").keys) == [f"val/class{k}/000.png" for k in range(3)]


def test_at_most_five_classes_are_named(tmp_path: Path) -> None:
    root = make_images(tmp_path, classes=9, train=1, val=1)
    for k in range(8):
        shutil.rmtree(root / "val" / f"class{k}")
    with pytest.raises(UserError, match=r"class0, class1, class2, class3, class4 and 3 more;"):
        open_source(root)
