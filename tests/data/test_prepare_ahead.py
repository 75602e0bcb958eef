"""The command prepare: a map that is a data set of its own, without the originals and on another machine."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from alexnet_torch.data import cache_build, decode_pass
from alexnet_torch.data.cache import PreparedImages, Samples
from alexnet_torch.data.cache_build import prepare
from alexnet_torch.data.decode import decode_bytes
from alexnet_torch.data.sources.recognise import open_source
from alexnet_torch.data.sources.val_split import ValSplit
from tests.support.commands import run_cli, run_train
from tests.support.folders import make_run
from tests.support.logged import logged
from tests.support.test_sets import evaluate_json


def make_map(root: Path, output: Path, *options: str) -> str:
    done = run_cli("prepare", root, "--output", output, "--image-size", "64", *options)
    assert done.returncode == 0, done.stderr
    return done.stderr


def pixels_of(samples: Samples) -> np.ndarray:
    assert samples.images is not None
    return samples.images.pixels


def load(root: Path, cache: Path) -> PreparedImages:
    return prepare(root, 73, str(cache))


def test_the_map_is_the_same_data_set_without_the_originals_and_elsewhere(root: Path, tmp_path: Path) -> None:
    expected = load(root, tmp_path / "cache")
    pixels = [pixels_of(split).copy() for split in (expected.train, expected.val)]
    make_map(root, tmp_path / "map")
    root.rename(tmp_path / "gone")
    shutil.move(tmp_path / "map", tmp_path / "moved")
    loaded = load(tmp_path / "moved", tmp_path / "none")
    assert not (tmp_path / "none").exists()
    for split, before, images in zip((loaded.train, loaded.val), (expected.train, expected.val), pixels, strict=True):
        assert np.array_equal(pixels_of(split), images)
        assert np.array_equal(split.labels, before.labels)
        assert list(split.keys) == list(before.keys)
    assert (loaded.classes, loaded.names) == (expected.classes, expected.names)
    assert loaded.fingerprint == expected.fingerprint
    assert np.array_equal(loaded.mean, expected.mean)
    assert np.array_equal(loaded.covariance, expected.covariance)
    taken = open_source(tmp_path / "moved").split("val").take(np.array([4, 1]))
    for index, row in enumerate((4, 1)):  # squares read as image files
        assert np.array_equal(decode_bytes(taken.read(index), 73, "square"), pixels[1][row])
    assert taken.reader.location(0) == f"{tmp_path / 'moved/val.u8'}: image 4"


@pytest.mark.usefixtures("narrow_demo_recipe")
def test_training_and_testing_on_the_map_equals_that_on_the_originals(root: Path, tmp_path: Path) -> None:
    make_map(root, tmp_path / "map")
    options = ["--recipe", "demo", "--batch-size", "8", "--max-steps", "3"]
    for data, run in ((root, "first"), (tmp_path / "map", "second")):
        done = run_train("--data", data, "--output", tmp_path / run, *options)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "first/model.pt").read_bytes() == (tmp_path / "second/model.pt").read_bytes()
    results = [evaluate_json(tmp_path / "first", "--data", data) for data in (root, tmp_path / "map")]
    assert results[0]["results"] == results[1]["results"]
    assert results[1]["form"] == "prepared map of 73x73 pixels, from ImageFolder"
    resumed = run_train("--output", tmp_path / "second", "--resume", "--max-steps", "5")
    assert resumed.returncode == 0, resumed.stderr


def test_disk_images_and_time_are_told_first(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_pass, "CHUNK", 2)
    monkeypatch.setattr(decode_pass, "MEASURED", 8)
    times = iter(np.arange(100) * 0.5)  # half a second for each chunk of 2 images
    monkeypatch.setattr(decode_pass, "monotonic", lambda: float(next(times)))
    lines = make_map(root, tmp_path / "map", "--workers", "1").splitlines()
    assert lines[0].startswith(f"--data {root}: ImageFolder, 3 classes, 24 training and 12 validation images")
    assert re.fullmatch(
        r"--output .*map: 36 images of 73x73 pixels take 0\.00 GB of the \d+\.\d GB that are free", lines[1]
    )
    # the clock starts after 2 images; then 8 of them take 4 chunks, 2 s; 26 are left
    assert lines[2] == "4 images/s in 1 process: about 00:06 to go"
    assert lines[3].endswith(f"complete; it is a data set without the original images: --data {tmp_path / 'map'}")
    assert len(lines) == 4


def test_an_interrupted_command_continues(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load(root, tmp_path / "cache")
    monkeypatch.setattr(decode_pass, "CHUNK", 2)
    monkeypatch.setattr(decode_pass, "SAVE_SECONDS", 0)
    monkeypatch.setattr(decode_pass, "SERIAL_CHUNKS", 100)
    inner, decoded, stop_after = decode_pass.decode_chunk, list[int](), 7

    def decode_some(chunk: decode_pass.Chunk) -> object:
        if len(decoded) == stop_after:
            raise KeyboardInterrupt
        decoded.append(chunk.number)
        return inner(chunk)

    monkeypatch.setattr(decode_pass, "decode_chunk", decode_some)
    done = run_cli("prepare", root, "--output", tmp_path / "map", "--image-size", "64")
    assert done.returncode == 130
    assert "interrupted; the same command continues" in done.stderr
    assert not (tmp_path / "map").exists()
    decoded.clear()
    stop_after = 100
    assert "continuing the interrupted" in make_map(root, tmp_path / "map")
    assert decoded == list(range(7, 18))
    loaded = load(tmp_path / "map", tmp_path / "none")
    assert np.array_equal(pixels_of(loaded.train), pixels_of(expected.train))
    assert loaded.fingerprint == expected.fingerprint
    decoded.clear()
    assert "is complete, nothing to do" in make_map(root, tmp_path / "map")
    assert decoded == []


def test_unreadable_images_are_left_out_once_and_for_all(root: Path, tmp_path: Path) -> None:
    (root / "train/class0/001.png").write_bytes(b"no image")
    done = run_cli("prepare", root, "--output", tmp_path / "map", "--image-size", "64")
    assert done.returncode == 2
    assert "class0/001.png" in done.stderr
    assert not (tmp_path / "map").exists()
    make_map(root, tmp_path / "map", "--skip-bad")
    lines: list[str] = []
    with logged(lines):
        loaded = prepare(tmp_path / "map", 73, "none")
    assert len(loaded.train.labels) == 23
    assert any("1 unreadable file(s) left out" in line for line in lines)


def refused(*arguments: str | Path) -> str:
    done = run_cli(*arguments)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()[-1:]
    return line


def test_wrong_outputs_are_refused_and_left_alone(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.tex").write_text("years of work")
    assert "has other content" in refused("prepare", root, "--output", taken)
    assert (taken / "thesis.tex").read_text() == "years of work"
    assert "has other content" in refused("prepare", root, "--output", taken / "thesis.tex")
    make_map(root, tmp_path / "map")
    before = (tmp_path / "map/train.u8").read_bytes()
    assert "has other content (its side was another); name a new folder" in refused(
        "prepare", root, "--output", tmp_path / "map"
    )
    (root / "val/class1/002.png").unlink()
    line = refused("prepare", root, "--output", tmp_path / "map", "--image-size", "64")
    assert "has other content (0 files added, 1 removed" in line
    assert (tmp_path / "map/train.u8").read_bytes() == before
    assert "is a prepared map already" in refused("prepare", tmp_path / "map", "--output", tmp_path / "again")
    assert "--image-size 0" in refused("prepare", root, "--output", tmp_path / "x", "--image-size", "0")
    monkeypatch.setattr(cache_build, "free_bytes", lambda _: 1000)
    assert "0.0 GB are free; make room" in refused("prepare", root, "--output", tmp_path / "x")
    assert not (tmp_path / "x.partial").exists()


def test_damaged_maps_and_other_sizes_are_refused_in_one_line(root: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    run, prepared = make_run(tmp_path / "runs"), tmp_path / "map"
    make_map(root, prepared)
    wide = run_cli("prepare", root, "--output", tmp_path / "wide")
    assert wide.returncode == 0
    assert "has squares of 256 pixels, and 73 are needed" in refused("evaluate", run, "--data", tmp_path / "wide")
    trained = run_train("--data", prepared, "--output", tmp_path / "run")  # recipe paper, 224 pixels
    assert trained.returncode == 2
    assert "has squares of 73 pixels, and 256 are needed" in trained.stderr
    content = (prepared / "val.u8").read_bytes()
    (prepared / "val.u8").write_bytes(content[:-1])
    assert "val.u8 has 191,843 bytes, not 191,844" in refused("evaluate", run, "--data", prepared)
    (prepared / "val.u8").write_bytes(content)
    (prepared / "samples.npz").write_bytes(b"PK\3\4")
    assert "damaged" in refused("evaluate", run, "--data", prepared)


def test_class_folders_are_divided_as_in_training(root: Path, tmp_path: Path) -> None:
    photos, chosen = root / "train", ValSplit(0.25, 3)
    assert "let --val-split 0.1 choose" in refused("prepare", photos, "--output", tmp_path / "map")
    make_map(photos, tmp_path / "map", "--val-split", "0.25", "--seed", "3")
    expected = prepare(photos, 73, str(tmp_path / "cache"), val_split=chosen)
    loaded = load(tmp_path / "map", tmp_path / "none")
    assert loaded.fingerprint == expected.fingerprint
    assert list(loaded.val.keys) == list(expected.val.keys)
    assert len(loaded.val.labels) == 6
    again = "prepare", photos, "--output", tmp_path / "map", "--image-size", "64", "--val-split", "0.25"
    assert "its division was another" in refused(*again, "--seed", "4")
