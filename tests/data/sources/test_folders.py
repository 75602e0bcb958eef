"""What is an image and what is a class in folders that people really have."""

import json
import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from alexnet_torch.data.cache_build import prepare
from alexnet_torch.data.sources.listing import find_images
from alexnet_torch.data.sources.recognise import open_source
from alexnet_torch.data.sources.source import Source
from alexnet_torch.data.sources.val_split import with_validation
from alexnet_torch.errors import UserError
from tests.support.folders import make_images
from tests.support.logged import logged


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_images(tmp_path / "images", train=2, val=1)


def keys(source: Source) -> list[str]:
    return [key for split in source.splits for key in split.keys]


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


JUNK: dict[str, Callable[[Path], object]] = {
    "checkpoints of notebooks": lambda r: copy(r / "val/class0/000.png", r / "train/.ipynb_checkpoints/000.png"),
    "in a class": lambda r: copy(r / "val/class0/000.png", r / "train/class0/.ipynb_checkpoints/000.png"),
    "thumbnails": lambda r: copy(r / "val/class0/000.png", r / "train/class1/@eaDir/000.png/SYNOPHOTO_M.png"),
    "AppleDouble": lambda r: (r / "train/class1/._000.png").write_bytes(b"\0\5\26\7\0\2\0\0Mac OS X"),
    "Finder": lambda r: (r / "train/.DS_Store").write_bytes(b"\0\0\0\1Bud1"),
    "Windows": lambda r: (r / "val/class2/Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0"),
    "settings": lambda r: (r / "val/class2/desktop.ini").write_text("[.ShellClassInfo]"),
    "a zip from macOS": lambda r: copy(r / "val/class0/000.png", r / "train/__MACOSX/class0/000.png"),
    "hidden copy": lambda r: copy(r / "val/class0/000.png", r / "train/class0/.000.png"),
    "notes": lambda r: (r / "train/class0/licence.txt").write_text("CC0"),
    "boxes": lambda r: (r / "train/class0/000.xml").write_text("<box/>"),
    "beside the classes": lambda r: copy(r / "val/class0/000.png", r / "train/000.png"),
    "a link to itself": lambda r: (r / "train/class0/self").symlink_to("."),
    "a link upwards": lambda r: (r / "train/class0/up").symlink_to(".."),
    "a pipe": lambda r: os.mkfifo(r / "train/class0/pipe.png"),
}


@pytest.mark.parametrize("name", JUNK)
def test_what_is_no_image_is_skipped_and_told(name: str, root: Path) -> None:
    before = keys(open_source(root))
    JUNK[name](root)
    source = open_source(root)
    assert keys(source) == before
    assert sum(source.skipped.counts.values()) == 1
    expected = f"--data {root}: ImageFolder, 3 classes, 6 training and 3 validation images; 1 skipped: 1 "
    assert source.describe().startswith(expected)


def test_all_of_it_together_is_listed_in_the_manifest(root: Path, tmp_path: Path) -> None:
    before = keys(open_source(root))
    for make in JUNK.values():
        make(root)
    lines: list[str] = []
    with logged(lines):
        assert [*prepare(root, 24, str(tmp_path / "cache")).train.keys] == before[:6]
    assert f"; {len(JUNK)} skipped: " in lines[0]
    (manifest,) = (tmp_path / "cache").glob("*/manifest.json")
    listed = json.loads(manifest.read_text())["skipped"]
    assert sum(listed["counts"].values()) == len(JUNK)
    assert "train/class1/._000.png" in listed["paths"]["hidden"]
    assert "train/class0/pipe.png" in listed["paths"]["no regular file"]


def test_class_folders_that_change_names_are_decoded_again(root: Path, tmp_path: Path) -> None:
    for path in root.glob("*/*/*.png"):  # equal sizes and times, as of files that were unpacked together
        path.write_bytes(path.read_bytes().ljust(3000, b"\0"))
        os.utime(path, (0, 0))
    before = prepare(root, 24, str(tmp_path / "cache"))
    for first, second in (("class0", "x"), ("class1", "class0"), ("x", "class1")):
        for split in ("train", "val"):
            (root / split / first).rename(root / split / second)
    after = prepare(root, 24, str(tmp_path / "cache"))
    assert before.train.keys == after.train.keys
    assert after.fingerprint != before.fingerprint


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "gif", "avif", "jp2", "JPG", "pcx", "ico", ""])
def test_images_have_an_images_suffix_or_none(suffix: str, root: Path) -> None:
    kinds = {"gif": "GIF", "avif": "AVIF", "jp2": "JPEG2000", "pcx": "PCX", "ico": "ICO"}
    with Image.open(root / "val/class0/000.png") as image:
        image.save(root / f"train/class1/picture.{suffix}".rstrip("."), kinds.get(suffix, "JPEG"))
    source = open_source(root)
    assert len(source.split("train")) == 7
    assert not source.skipped.counts


def test_a_broken_image_is_reported_and_not_skipped(root: Path) -> None:
    (root / "train/class0/cut.gif").write_bytes(b"")
    assert len(open_source(root).split("train")) == 7
    with pytest.raises(UserError, match=r"1 file\(s\) cannot be read(.|\n)*cut.gif: empty file"):
        prepare(root, 24, "none")


def test_ordinary_folders_keep_imagefolders_order(root: Path) -> None:
    for path in ("train/class0/b/x.png", "train/class0/a-b/x.png", "train/class0/a/x.png", "train/class0/a/b/x.png"):
        copy(root / "val/class0/000.png", root / path)
    source = open_source(root)
    for split in source.splits:
        usual = ImageFolder(str(root / split.name))
        assert [str(root / key) for key in split.keys] == [path for path, _ in usual.samples]
        assert split.labels.tolist() == usual.targets


def test_links_to_other_folders_are_followed_but_two_classes_that_are_one_are_refused(
    root: Path, tmp_path: Path
) -> None:
    shutil.move(root / "train/class1", tmp_path / "elsewhere")
    (root / "train/class1").symlink_to(tmp_path / "elsewhere")
    shutil.rmtree(root / "val")
    (root / "val").symlink_to("train")
    assert [len(split) for split in open_source(root).splits] == [6, 6]
    shutil.rmtree(root / "train/class2")
    (root / "train/class2").symlink_to("class0")
    with pytest.raises(UserError, match="train/class2/ and train/class0/ are one folder, by a link; move the"):
        open_source(root)


def test_a_run_in_the_data_folder_is_no_class(root: Path) -> None:
    for run in (root / "val", root / "train/my-run"):
        (run / "tensorboard").mkdir(parents=True)
        (run / "tensorboard/events.out.tfevents.1").write_bytes(b"\0")
        (run / "checkpoints").mkdir()
        (run / "config.json").write_text("{}")
        (run / "metrics.jsonl").touch()
    source = open_source(root)
    assert source.identities == ("class0", "class1", "class2")
    assert source.skipped.counts["of a run"] == 3


def test_runs_and_caches_beside_class_folders_are_no_classes(root: Path) -> None:
    photos = root / "train"
    for run, files in (
        ("runs/first", ("config.json", "model.json")),
        ("cache/photos-256", ("manifest.json", "samples.npz")),
    ):
        for file in (*files, "figures/filters.png"):
            copy(root / "val/class0/000.png", photos / run / file)
    source = open_source(photos)
    assert source.identities == ("class0", "class1", "class2")
    assert source.skipped.counts == {"of a run": 2}


def test_names_that_unicode_writes_in_two_ways_are_one_class(root: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    (root / "train/class1").rename(root / "train" / decomposed)
    (root / "val/class1").rename(root / "val" / composed)
    source = open_source(root)
    assert source.identities == (decomposed, "class0", "class2")
    assert source.split("val").labels.tolist() == [0, 1, 2]
    assert source.split("val").read(0) == (root / "val" / composed / "000.png").read_bytes()
    shutil.copytree(root / "train" / decomposed, root / "train" / composed)
    with pytest.raises(UserError, match="has two folders named café, in two ways that Unicode writes it"):
        open_source(root)


SPLIT_NAMES = [("training_set", "test_set"), ("train2017", "val2017"), ("seg_train", "seg_test"), ("Train", "Valid")]


@pytest.mark.parametrize(("train", "val"), [*SPLIT_NAMES, ("train", "test")])
def test_other_names_of_splits_are_taken_and_told(train: str, val: str, root: Path) -> None:
    before = open_source(root)
    (root / "train").rename(root / train)
    (root / "val").rename(root / val)
    source = with_validation(open_source(root), None)
    assert (keys(source), source.identities) == (keys(before), before.identities)
    assert f"ImageFolder of {train}/ and, to validate, {val}/, 3 classes, 6 training and 3" in source.describe()
    assert source.splits[0].read(0) == before.splits[0].read(0) if train == "train" else True


def test_one_folder_too_many_is_no_class(root: Path) -> None:
    before = keys(open_source(root))
    for split in ("train", "val"):
        (root / split).rename(root / "inner")
        (root / split).mkdir()
        (root / "inner").rename(root / split / split)
    root.rename(root.parent / "moved")
    (root / "photos").mkdir(parents=True)
    (root.parent / "moved").rename(root / "photos/photos")
    assert keys(open_source(root)) == before


def test_images_without_classes_are_not_two_classes(root: Path) -> None:
    for flat in ("train2017", "val2017"):
        shutil.copytree(root / "train/class0", root.parent / "coco" / flat)
    with pytest.raises(UserError, match="has no folder train/; if train2017/ is that, rename it to train/"):
        open_source(root.parent / "coco")
    for flat in ("images", "masks"):
        shutil.copytree(root / "train/class0", root.parent / "masks" / flat)
    with pytest.raises(UserError, match="has no folder train/; put the training images into"):
        open_source(root.parent / "masks")
    (root / "val").rename(root / "valid")
    for path in list((root / "valid").glob("*/*")):
        path.rename(root / "valid" / f"{path.parent.name}{path.name}")
    with pytest.raises(UserError, match="has no folder val/; if valid/ is that, rename it to val/"):
        with_validation(open_source(root), None)


def test_a_file_without_suffix_is_looked_at_and_copies_are_no_images(root: Path) -> None:
    for suffix in ("jpg_original", "bak", "orig", "1", "part", "png~", "tmp"):
        copy(root / "val/class0/000.png", root / f"train/class0/000.{suffix}")
    (root / "train/class0/README").write_text("a")
    (root / "train/class0/empty").touch()
    source = open_source(root)
    assert len(source.split("train")) == 6
    assert source.skipped.counts == {"no image": 9}


def test_features_read_the_same_files(root: Path) -> None:
    for make in JUNK.values():
        make(root)
    (root / "train/class0/self").unlink()
    with Image.open(root / "val/class0/000.png") as image:
        image.save(root / "train/class1/picture", "JPEG")
    lines: list[str] = []
    with logged(lines):
        found = find_images(root / "train")
    classes = [f"class{k}/00{i}.png" for k in range(3) for i in range(2)]
    assert found == tuple(sorted(["000.png", *classes, "class1/picture"]))
    assert lines == [lines[0]]
    assert "skipped: " in lines[0]
