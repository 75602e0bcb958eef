"""A flipped byte anywhere in a prepared folder is noticed, and the next start builds the folder again."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_torch.data import decode_pass
from alexnet_torch.data.checksums import checksum_factors, image_checksum
from alexnet_torch.data.decode import UnreadableImage
from alexnet_torch.data.image_map import ImageMap
from alexnet_torch.data.loader import Loader
from alexnet_torch.data.manifest import MANIFEST
from alexnet_torch.data.prepare import prepare
from alexnet_torch.data.prepare_ahead import prepare_ahead
from alexnet_torch.data.prepared_images import PreparedImages
from alexnet_torch.data.sources.recognise import open_source
from alexnet_torch.errors import UserError
from tests.support.commands import run_cli, run_train
from tests.support.folders import make_images
from tests.support.logged import logged


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_images(tmp_path / "images")


def build(root: Path, lines: list[str] | None = None) -> PreparedImages:
    with logged(lines):
        return prepare(root, 24, str(root.parent / "cache"))


def folder_of(root: Path) -> Path:
    (manifest,) = (root.parent / "cache").glob(f"*/{MANIFEST}")
    return manifest.parent


def flip_byte(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(content)


def batches(prepared: PreparedImages, split: str) -> list[np.ndarray]:
    return [batch.images.numpy() for batch in Loader(prepared, split, 20, 8, seed=3).epoch(0)]


@pytest.mark.parametrize("name", ["mean.npy", "covariance.npy", "samples.npz", "train.sums", "val.sums"])
def test_a_flipped_byte_in_a_small_file_builds_the_folder_again(name: str, root: Path) -> None:
    first, expected = build(root), (folder_of(root) / name).read_bytes()
    flip_byte(folder_of(root) / name, len(expected) - 5)
    lines: list[str] = []
    again = build(root, lines)
    assert any(f"again: it is damaged ({name} has a wrong checksum)" in line for line in lines), lines
    assert (folder_of(root) / name).read_bytes() == expected
    assert np.array_equal(again.mean, first.mean)


def test_a_changed_manifest_builds_the_folder_again(root: Path) -> None:
    build(root)
    manifest = folder_of(root) / MANIFEST
    content = json.loads(manifest.read_text())
    content["skipped"] = [["train/class0/000.png", "empty file"]]
    manifest.write_text(json.dumps(content))
    lines: list[str] = []
    build(root, lines)
    assert any("again: it is damaged (its manifest has a wrong checksum)" in line for line in lines), lines
    flip_byte(manifest, 0)
    lines.clear()
    build(root, lines)
    assert any("again: it is damaged" in line for line in lines), lines


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_flipped_byte_in_a_map_ends_the_epoch_and_the_next_start_builds_again(split: str, root: Path) -> None:
    expected = batches(build(root), split)
    map_file = folder_of(root) / f"{split}.u8"
    flip_byte(map_file, map_file.stat().st_size // 2)
    lines: list[str] = []
    damaged = build(root, lines)  # it is noticed when it is read: reading all at the start would take minutes
    assert not any("again" in line for line in lines)
    with pytest.raises(UserError, match=rf"{split}\.u8: image \d+ is damaged.*the next start decodes") as error:
        batches(damaged, split)
    assert "\n" not in str(error.value)
    again = build(root, lines)
    assert any(f"again: it is damaged ({split}.u8: image" in line for line in lines), lines
    assert all(np.array_equal(a, b) for a, b in zip(batches(again, split), expected, strict=True))


def test_a_folder_that_cannot_be_marked_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = build(root)
    flip_byte(folder_of(root) / "train.u8", 0)

    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(UserError, match=rf"remove {folder_of(root)}, which cannot be marked as damaged \(Permission"):
        batches(prepared, "train")


def test_a_folder_made_without_checksums_is_taken_and_says_so(root: Path) -> None:
    expected = batches(build(root), "train")
    manifest, content = folder_of(root) / MANIFEST, json.loads((folder_of(root) / MANIFEST).read_text())
    del content["sha256"], content["manifest_sha256"]
    manifest.write_text(json.dumps(content))
    for path in folder_of(root).glob("*.sums"):
        path.unlink()
    lines: list[str] = []
    prepared = build(root, lines)
    assert not any("building" in line for line in lines)
    assert sum("has no checksums" in line for line in lines) == 2
    assert all(np.array_equal(a, b) for a, b in zip(batches(prepared, "train"), expected, strict=True))


def interrupt(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begins to build, and is interrupted after three chunks."""
    decode_chunk, calls = decode_pass.decode_chunk, list[decode_pass.Chunk]()

    def decode_some(chunk: decode_pass.Chunk) -> object:
        calls.append(chunk)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return decode_chunk(chunk)

    monkeypatch.setattr(decode_pass, "CHUNK", 3)
    monkeypatch.setattr("alexnet_torch.data.journal.JOURNAL_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(decode_pass, "decode_chunk", decode_some)
        with pytest.raises(KeyboardInterrupt):
            build(root)


def test_checksums_are_right_after_an_interruption_and_of_files_left_out(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "train/class1/003.png").write_bytes(b"no image")
    interrupt(root, monkeypatch)
    prepare(root, 24, str(root.parent / "cache"), skip_bad=True)
    for split in ("train", "val"):
        images = np.fromfile(folder_of(root) / f"{split}.u8", np.uint8).reshape(-1, 24, 24, 3)
        sums = np.fromfile(folder_of(root) / f"{split}.sums", "<u8")
        assert sums.tolist() == [image_checksum(image, checksum_factors(24)) for image in images]


def test_a_damaged_journal_is_not_continued(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    interrupt(root, monkeypatch)
    (journal,) = (root.parent / "cache").glob("*.partial/journal.npz")
    flip_byte(journal, journal.read_bytes().index(b"pixels.npy") + 2000)  # in the sums over pixels
    lines: list[str] = []
    prepared = build(root, lines)
    assert any("journal.npz is damaged (Bad CRC-32" in line for line in lines), lines
    expected = prepare(root, 24, str(tmp_path / "other"))
    assert np.array_equal(prepared.mean, expected.mean)


@pytest.mark.parametrize("name", ["train.u8", "val.u8", "mean.npy", "samples.npz", "manifest.json"])
def test_a_prepared_map_without_its_images_is_to_be_copied_again(name: str, root: Path, tmp_path: Path) -> None:
    prepare_ahead(root, tmp_path / "map", 24)
    path = tmp_path / "map" / name
    flip_byte(path, path.stat().st_size // 2)
    with pytest.raises(UserError, match=r"(is|are) damaged.*; copy the (folder|prepared map) again") as error:
        batches(prepare(tmp_path / "map", 24), "val" if name == "val.u8" else "train")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "map/damaged.txt").exists()  # it would outlive the copy of a single file
    for split in open_source(tmp_path / "map").splits if name.endswith(".u8") else ():
        if split.name == name.removesuffix(".u8"):
            with pytest.raises(UnreadableImage, match="the checksum of the image is wrong"):
                split.read(len(split) // 2)  # the middle of the file is in it


@pytest.mark.usefixtures("narrow_demo_recipe")
@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_map_truncated_during_a_command_is_one_line_and_the_next_start_decodes_again(
    command: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: list[str | Path] = ["--data", root, "--cache", tmp_path / "cache"]
    train = [*options, "--output", tmp_path / "run", "--recipe", "demo", "--batch-size", "4", "--max-steps", "1"]
    assert run_train(*train).returncode == 0
    resume = ["--output", tmp_path / "run", "--resume", "--max-steps", "6", *options[2:]]
    start, truncated = ImageMap.read, list[Path]()

    def read(images: ImageMap, *arguments: Any) -> None:
        if images.path.stem == ("train" if command == "train" else "val") and not truncated:
            truncated.append(images.path)
            os.truncate(images.path, 1000)
        start(images, *arguments)

    def run() -> "subprocess.CompletedProcess[str]":
        return run_train(*resume) if command == "train" else run_cli("evaluate", tmp_path / "run", *options)

    monkeypatch.setattr(ImageMap, "read", read)
    done = run()
    assert truncated
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert f"{truncated[0]}: cannot be read any more: it was truncated, or its disk fails; the next start" in last
    assert "Traceback" not in done.stderr
    again = run()
    assert again.returncode == 0, again.stderr
    if command == "train":
        assert "again: it is damaged (train.u8: cannot be read any more" in again.stderr
