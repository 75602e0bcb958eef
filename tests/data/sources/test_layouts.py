"""Data sets in folders and zip files: what is told about a damaged one, and the traps of ImageNet's layouts."""

import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from alexnet_torch.data import decode
from alexnet_torch.data.decode import UnreadableImage
from alexnet_torch.data.sources.listing import Listing
from alexnet_torch.data.sources.recognise import open_source
from alexnet_torch.data.sources.val_split import with_validation
from alexnet_torch.errors import UserError
from tests.data.sources.test_all_forms import FORMS
from tests.support.folders import make_images
from tests.support.image_sets import (
    Sample,
    kaggle_files,
    small_set,
    tiny_files,
    write_files,
    write_flat_val,
    write_image_folder,
    write_kaggle,
    write_official,
    write_tiny,
    write_zip,
)

TINY = "tiny-imagenet-200"
Spoil = Callable[[Path], object]
Write = Callable[[Path, list[Sample]], Path]


def edit(path: str, before: str, after: str) -> Spoil:
    def spoil(root: Path) -> None:
        text = (root / path).read_text()
        assert before in text
        (root / path).write_text(text.replace(before, after))

    return spoil


def remove(*patterns: str) -> Spoil:
    def spoil(root: Path) -> None:
        for path in [path for pattern in patterns for path in root.glob(pattern)]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return spoil


def flatten(split: str) -> Spoil:
    def spoil(root: Path) -> None:
        for image in list((root / split).glob("*/*")):
            image.rename(root / split / f"{image.parent.name}-{image.name}")
        remove(f"{split}/class?")(root)

    return spoil


def a_file(root: Path) -> None:
    shutil.rmtree(root)
    root.touch()


FOLDERS: dict[str, tuple[Spoil, str]] = {
    "a file": (a_file, "is a file; name the folder"),
    "missing": (shutil.rmtree, "there is no such file or folder"),
    "no train": (remove("train"), "has no folder train/; put the training images into"),
    "no val": (remove("val"), "has no folder val/; move some images .* into val/<class>/, or let --val-split"),
    "flat val": (flatten("val"), "val/ has no images of any class; put some into val/<class>/"),
    "flat train": (flatten("train"), "train/ has no images of any class"),
    "empty class": (remove("train/class1/*"), "train/ has no images of class class1; put some into train/<class>/"),
    "fewer in val": (remove("val/class2"), "only in train: class2; only in val: none"),
    "another in val": (lambda r: (r / "val/class2").rename(r / "val/x"), "only in train: class2; only in val: x"),
    "no images": (remove("*/*/*"), "train/ has no images of any class; put"),
    "nothing in val": (remove("val/*"), "val/ has no images of any class; put"),
    "one class": (remove("*/class[12]"), "has only one class, class0;"),
}
VAL = "ILSVRC/Data/CLS-LOC/val"
KAGGLE: dict[str, tuple[Spoil, str]] = {
    "no labels": (remove("LOC_val_solution.csv"), "has no LOC_val_solution.csv; unpack the archive again, or download"),
    "no names": (remove("LOC_synset_mapping.txt"), "has no LOC_synset_mapping.txt"),
    "no val": (remove(VAL), f"{VAL}: No such file"),
    "an empty val": (remove(f"{VAL}/*"), "val/ and LOC_val_solution.csv have different images: ILSVRC"),
    "an image is missing": (remove(f"{VAL}/*_00000*"), "have different images: ILSVRC"),
    "other columns": (edit("LOC_val_solution.csv", "ImageId", "id"), "of LOC_val_solution.csv: '' has the class"),
    "an unknown class": (
        edit("LOC_val_solution.csv", "n01484850", "n99999999"),
        "has the class 'n99999999', of which train/ has no images",
    ),
    "an empty row": (edit("LOC_val_solution.csv", "String\n", "String\nx,\n"), "csv: 'x' has the class ''"),
    "an image of two classes": (
        edit("LOC_val_solution.csv", "String\n", "String\nx,n03126707 1 2 3 4\nx,n01484850 1 2 3 4\n"),
        "row 2 of LOC_val_solution.csv: 'x' has the class 'n01484850', and 'n03126707' before",
    ),
    "an image without a row": (
        lambda root: shutil.copy(next((root / VAL).iterdir()), root / VAL / "extra.JPEG"),
        "LOC_val_solution.csv have different images: extra;",
    ),
    "a class without images": (remove("ILSVRC/Data/CLS-LOC/train/n01484850/*"), "no images of class n01484850"),
}
LABELS = f"{TINY}/val/val_annotations.txt"
TINY_FAULTS: dict[str, tuple[Spoil, str]] = {
    "no labels": (remove(LABELS), "has no val/val_annotations.txt"),
    "no classes": (remove(f"{TINY}/wnids.txt"), "has no wnids.txt"),
    "a class is missing": (remove(f"{TINY}/train/n01484850"), "train/n01484850/images: No such file"),
    "a class more": (edit(f"{TINY}/wnids.txt", "n01484850", ""), "train/ and wnids.txt differ: n01484850"),
    "an unknown class": (edit(LABELS, "n01484850", "n99999999"), "has the class 'n99999999', of which"),
    "no tab": (edit(LABELS, "\t", " "), "row 1 of val/val_annotations.txt: .* has the class ''"),
    "not text": (lambda root: (root / LABELS).write_bytes(b"\xff\xfe"), "val_annotations.txt: is damaged .'utf-8'"),
}
FAULTS: list[tuple[Write, Spoil, str]] = [
    *((lambda root, _: make_images(root, train=1, val=1), *fault) for fault in FOLDERS.values()),
    *((write_kaggle, *fault) for fault in KAGGLE.values()),
    *((write_tiny, *fault) for fault in TINY_FAULTS.values()),
]


@pytest.mark.parametrize(("write", "spoil", "message"), FAULTS, ids=[*FOLDERS, *KAGGLE, *TINY_FAULTS])
def test_each_wrong_layout_is_refused_in_one_line(write: Write, spoil: Spoil, message: str, tmp_path: Path) -> None:
    root = write(tmp_path / "set", small_set())
    spoil(root)
    with pytest.raises(UserError, match=message) as error:
        with_validation(open_source(root), None)
    assert str(error.value).startswith(f"--data {root}")
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
    remove("val/class[0-7]")(root)
    with pytest.raises(UserError, match=r"class0, class1, class2, class3, class4 and 3 more;"):
        open_source(root)


def test_what_was_found_is_told_in_one_line(tmp_path: Path) -> None:
    tiny = open_source(write_tiny(tmp_path / "tiny", small_set()))
    assert tiny.root == tmp_path / "tiny" / TINY
    assert tiny.describe().endswith("Tiny ImageNet, 3 classes, 9 training and 6 validation images")
    kaggle = open_source(write_zip(tmp_path / "kaggle", kaggle_files(small_set())))
    assert "ILSVRC-2012 from Kaggle in a zip file, 3 classes, 9 training and 6 validation images" in kaggle.describe()


def test_readable_names_are_the_data_sets_own(tmp_path: Path) -> None:
    root = write_tiny(tmp_path, small_set())
    edit(f"{TINY}/words.txt", "n02012849\tcrane", "n02012849\tcrane, the bird")(root)
    assert [each.name for each in open_source(root).classes][1:] == ["crane, the bird", "crane"]


def test_classes_with_numbers_for_names_are_ordered_as_numbers(tmp_path: Path) -> None:
    make_images(tmp_path, classes=12, train=1, val=1)
    for split in ("train", "val"):
        for k in range(12):
            (tmp_path / split / f"class{k}").rename(tmp_path / split / f"{k}")
    source = open_source(tmp_path)
    assert source.identities == tuple(map(str, range(12)))
    assert source.split("val").labels.tolist() == list(range(12))
    assert source.split("val").keys[11] == "val/11/000.png"


def test_flat_validation_images_of_other_classes_are_skipped(tmp_path: Path) -> None:
    root = write_flat_val(tmp_path, small_set())
    shutil.rmtree(root / "train/n01484850")
    source = open_source(root)
    assert source.identities == ("n02012849", "n03126707")
    assert [len(split) for split in source.splits] == [6, 4]
    assert source.skipped.counts == {"of other classes": 2}


def test_flat_validation_images_alone_are_a_test_set(tmp_path: Path) -> None:
    root = write_flat_val(tmp_path, small_set())
    source = open_source(root / "val")
    assert [split.name for split in source.splits] == ["val"]
    expected = [each for each in small_set() if each.split == "val"]
    assert list(source.splits[0].keys) == [each.key for each in expected]
    assert [source.splits[0].read(row) for row in range(6)] == [each.content for each in expected]
    with pytest.raises(UserError, match="ILSVRC-2012's validation images: has no training images; name a set that has"):
        with_validation(source, None)


def test_tiny_imagenet_with_sorted_validation_images_is_an_image_folder(tmp_path: Path) -> None:
    files = [file for file in tiny_files(small_set()) if not file[0].startswith("val/images/")]
    sorted_val = [(each.key, each.content) for each in small_set() if each.split == "val"]
    source = open_source(write_files(tmp_path, [*files, *sorted_val]))
    assert source.form == "ImageFolder"
    assert [len(split) for split in source.splits] == [9, 6]


def test_two_forms_in_one_folder_are_refused(tmp_path: Path) -> None:
    write_official(tmp_path, small_set())
    write_tiny(tmp_path, small_set())
    for path in (tmp_path / TINY).iterdir():
        path.rename(tmp_path / path.name)
    shutil.rmtree(tmp_path / "val")
    with pytest.raises(UserError, match="holds two data sets, folders of images and tars; move one elsewhere"):
        open_source(tmp_path)


def zip_of_folder(tmp_path: Path, method: int = zipfile.ZIP_STORED) -> Path:
    return write_zip(tmp_path, ((each.key, each.content) for each in small_set()), method)


def test_a_damaged_image_in_a_zip_is_reported(tmp_path: Path) -> None:
    file = zip_of_folder(tmp_path)
    content, sample = bytearray(file.read_bytes()), small_set()[0]
    content[content.index(sample.content) + 300] ^= 1
    file.write_bytes(content)
    source = open_source(file)
    with pytest.raises(Exception, match=rf"set.zip: {sample.key}: the archive is damaged \(wrong checksum\)"):
        source.splits[0].read(list(source.splits[0].keys).index(sample.key))


def test_a_member_of_gigabytes_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = open_source(zip_of_folder(tmp_path)).splits[0]
    monkeypatch.setattr(decode, "MAX_BYTES", 100)
    with pytest.raises(UnreadableImage, match=r"set.zip: train/.*: it has 0.0 GB, more than 0.0; make it smaller"):
        split.read(0)


def encrypted(content: bytes) -> bytes:
    place = content.index(b"PK\1\2") + 8  # a flag of the first member, in the list at the end
    return content[:place] + bytes([content[place] | 1]) + content[place + 1 :]


def test_a_zip_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    file = zip_of_folder(tmp_path)
    content = file.read_bytes()
    for spoiled, message in (
        (content[:-100], "is damaged .*; download"),
        (encrypted(content), "is encrypted.*; unpack"),
    ):
        file.write_bytes(spoiled)
        with pytest.raises(UserError, match=f"set.zip: {message} it"):
            open_source(file)
    file = write_zip(tmp_path, [("a/notes.txt", b"x"), ("b/notes.txt", b"x")])
    with pytest.raises(UserError, match="contains neither train/ and val/ nor class folders"):
        open_source(file)


def test_a_change_of_a_zip_is_noticed(tmp_path: Path) -> None:
    file = zip_of_folder(tmp_path)
    before = open_source(file).files
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("train/n01484850/x.JPEG", small_set()[0].content)
    after = open_source(file).files
    assert list(before.paths) == list(after.paths) == ["."]
    assert before.digest() != after.digest()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_large_zip_is_listed(method: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [("a/b/c/x.jpg", b"1"), ("a/é.jpg", b"22"), ("日本/y.jpg", b""), ("z.jpg", b"4" * 1000)]
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 20)  # so that sizes and places are written as for 4 GB
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)
    root = write_zip(tmp_path, files, method)
    with zipfile.ZipFile(root, "a") as archive:
        archive.writestr("folder/", b"")
        archive.comment = b"a comment"
    assert b"PK\6\6" in root.read_bytes()  # the end of a large file
    listing = Listing(root)
    assert listing.subfolders() == ["a", "日本"]
    assert listing.subfolders("a/") == ["b"]
    assert listing.text("z.jpg") == "4" * 1000
    found = {path: listing.reader([path], np.array([place])).read(0) for path, *place in listing.images("")}
    assert found == dict(files)


def test_names_in_a_zip_are_utf8_or_refused(tmp_path: Path) -> None:
    def rewritten(name: bytes, extra: bytes = b"") -> Path:
        """Returns a zip whose names are written without the flag of UTF-8, as some programs do."""
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
            for folder in ("XXXXXXXX", "YYYYYYYY"):
                info = zipfile.ZipInfo(f"{folder}/1.jpg")
                info.extra = extra if folder[0] == "X" else b""
                archive.writestr(info, b"x")
        content = (tmp_path / "set.zip").read_bytes()
        (tmp_path / "set.zip").write_bytes(content.replace(b"XXXXXXXX", name))
        return tmp_path / "set.zip"

    assert Listing(rewritten("日本ab".encode())).subfolders() == ["YYYYYYYY", "日本ab"]
    unicode_path = b"\1" + bytes(4) + "猫/1.jpg".encode()
    extra = b"\x75\x70" + len(unicode_path).to_bytes(2, "little") + unicode_path
    assert Listing(rewritten("猫猫猫猫".encode("gbk"), extra)).subfolders() == ["YYYYYYYY", "猫"]
    with pytest.raises(UserError, match="has names in an old encoding; unpack it"):
        open_source(rewritten("日本日本".encode("gbk")))


@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1\n", b"\n<!DOCTYPE html><html>"])
@pytest.mark.parametrize("name", ["set.zip", "train.tar", "data/train-00000.parquet"])
def test_a_pointer_or_web_page_in_the_place_of_a_file_is_named(name: str, content: bytes, tmp_path: Path) -> None:
    write_files(tmp_path / "set", [(name, content)])
    what = "is a pointer of Git LFS; fetch the file itself" if b"git" in content else "is a web page; download"
    with pytest.raises(UserError, match=f"{name}: {what}"):
        open_source(tmp_path / "set" / name if name == "set.zip" else tmp_path / "set")


@pytest.mark.parametrize("form", [*FORMS, "folders"])
def test_readers_go_to_worker_processes_with_what_they_need(form: str, tmp_path: Path) -> None:
    split = open_source((FORMS | {"folders": write_image_folder})[form](tmp_path, small_set())).split("val")
    rows = np.array([4, 1])
    part = pickle.loads(pickle.dumps(split.take(rows)))
    assert [part.read(i) for i in range(2)] == [split.read(row) for row in rows.tolist()]
    assert [part.reader.location(i) for i in range(2)] == [split.reader.location(row) for row in rows.tolist()]
    assert list(part.keys) == [split.keys[row] for row in rows.tolist()]
    assert len(pickle.dumps(split.take(rows))) < len(pickle.dumps(split))
