"""A flipped byte anywhere in a prepared folder is noticed, and the next start builds the folder again."""

import os
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_torch.data import decode_pass
from alexnet_torch.data.cache import MANIFEST, SAMPLES, PreparedImages
from alexnet_torch.data.cache_build import prepare, prepare_ahead
from alexnet_torch.data.decode import UnreadableImage
from alexnet_torch.data.image_map import ImageMap, checksum
from alexnet_torch.data.loader import Loader
from alexnet_torch.data.sources.recognise import open_source
from alexnet_torch.errors import UserError
from tests.support.commands import run_cli, run_train
from tests.support.logged import logged


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


@pytest.mark.parametrize("array", ["manifest", "mean", "covariance", "train.u8_checksums", "val.u8_checksums"])
def test_a_flipped_byte_beside_the_maps_builds_the_folder_again(array: str, root: Path) -> None:
    first, file = build(root), folder_of(root) / SAMPLES
    expected = file.read_bytes()
    with zipfile.ZipFile(file) as members:
        member = members.getinfo(f"{array}.npy")
    flip_byte(file, member.header_offset + 30 + len(member.filename) + member.file_size - 5)
    lines: list[str] = []
    again = build(root, lines)
    assert any(f"again: it is damaged (Bad CRC-32 for file '{array}.npy')" in line for line in lines), lines
    assert file.read_bytes() == expected
    assert np.array_equal(again.mean, first.mean)


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


def interrupt(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begins to build, and is interrupted after three chunks."""
    decode_chunk, calls = decode_pass.decode_chunk, list[decode_pass.Chunk]()

    def decode_some(chunk: decode_pass.Chunk) -> object:
        calls.append(chunk)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return decode_chunk(chunk)

    monkeypatch.setattr(decode_pass, "CHUNK", 3)
    monkeypatch.setattr(decode_pass, "SAVE_SECONDS", 0.0)
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
    with np.load(folder_of(root) / SAMPLES) as samples:
        for split in ("train", "val"):
            images = np.fromfile(folder_of(root) / f"{split}.u8", np.uint8).reshape(-1, 24, 24, 3)
            assert samples[f"{split}.u8_checksums"].tolist() == list(map(checksum, images))


def test_a_damaged_progress_is_not_continued(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    interrupt(root, monkeypatch)
    (progress,) = (root.parent / "cache").glob("*.partial/progress.npz")
    flip_byte(progress, progress.read_bytes().index(b"pixels.npy") + 2000)  # in the sums over pixels
    lines: list[str] = []
    prepared = build(root, lines)
    assert any(f"starting {progress.parent} again: it is damaged (Bad CRC-32" in line for line in lines), lines
    expected = prepare(root, 24, str(tmp_path / "other"))
    assert np.array_equal(prepared.mean, expected.mean)


@pytest.mark.parametrize("name", ["train.u8", "val.u8", "samples.npz"])
def test_a_prepared_map_without_its_images_is_to_be_copied_again(name: str, root: Path, tmp_path: Path) -> None:
    prepare_ahead(root, tmp_path / "map", 24)
    path = tmp_path / "map" / name
    flip_byte(path, path.stat().st_size // 2 if name.endswith(".u8") else 300)
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
