import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_torch.data import cache, cache_build, decode_pass
from alexnet_torch.data.cache import SAMPLES, PreparedImages
from alexnet_torch.data.cache_build import prepare
from alexnet_torch.data.decode import decode_file
from alexnet_torch.data.loader import Loader
from alexnet_torch.errors import UserError
from alexnet_torch.training.checkpoints import require_same_run
from tests.support.folders import make_images
from tests.support.logged import logged
from tests.support.paths import PROJECT


def build_in(root: Path, lines: list[str] | None = None, **options: object) -> PreparedImages:
    with logged(lines):
        return prepare(root, 24, str(root.parent / "cache"), **options)  # type: ignore[arg-type]


def contents(prepared: PreparedImages) -> list[np.ndarray]:
    return [
        prepared.mean,
        prepared.covariance,
        *(split.images.pixels for split in (prepared.train, prepared.val) if split.images is not None),
    ]


def are_equal(a: PreparedImages, b: PreparedImages) -> bool:
    pairs = zip(contents(a), contents(b), strict=True)
    return a.fingerprint == b.fingerprint and all(np.array_equal(x, y) for x, y in pairs)


def test_the_map_has_every_file_and_the_statistics_match_numpy(root: Path) -> None:
    prepared = build_in(root)
    for samples in (prepared.train, prepared.val):
        assert samples.images is not None
        for row, path in zip(samples.rows, samples.keys, strict=True):
            assert np.array_equal(samples.images.pixels[row], decode_file(root / path, 24))
    assert prepared.train.images is not None
    pixels = prepared.train.images.pixels.astype(np.float64)
    np.testing.assert_allclose(prepared.mean, pixels.mean(0), rtol=1e-6)
    assert prepared.mean.dtype == np.float32
    np.testing.assert_allclose(prepared.covariance, np.cov(pixels.reshape(-1, 3).T, bias=True), rtol=1e-9)
    assert prepared.train.labels.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert prepared.classes == ("class0", "class1", "class2")


def test_a_second_time_nothing_is_decoded_or_written(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build_in(root)
    monkeypatch.setattr(decode_pass, "decode_chunk", lambda *_: pytest.fail("decoded again"))
    monkeypatch.setattr(cache_build, "_locked", lambda *_: pytest.fail("locked"))  # root may write anywhere
    lines: list[str] = []
    assert are_equal(build_in(root, lines), first)
    assert lines == [f"--data {root}: ImageFolder, 3 classes, 24 training and 12 validation images"]


def add(root: Path) -> None:
    shutil.copy(root / "train/class0/000.png", root / "train/class0/new.png")


def only_map(root: Path) -> Path:
    (path,) = (root.parent / "cache").glob("*/train.u8")
    return path


REASONS: dict[str, tuple[Callable[[Path], object], str]] = {
    "added": (add, "1 files added, 0 removed, 0 changed since"),
    "removed": (lambda r: (r / "train/class0/000.png").unlink(), "0 files added, 1 removed"),
    "changed": (lambda r: shutil.copy(r / "val/class0/002.png", r / "val/class1/002.png"), "0 removed, 1 changed"),
    "touched": (lambda r: os.utime(r / "val/class1/002.png", (1, 1)), "1 changed since"),
    "truncated": (lambda r: only_map(r).write_bytes(b"half"), r"it is damaged \(train.u8 has 4 bytes, not 41,472\)"),
    "no samples": (lambda r: (only_map(r).parent / SAMPLES).unlink(), "it is damaged"),
    "empty samples": (lambda r: (only_map(r).parent / SAMPLES).write_bytes(b""), "it is damaged"),
}


@pytest.mark.parametrize("name", REASONS)
def test_it_is_built_again_with_a_reason(name: str, root: Path) -> None:
    build_in(root)
    spoil, reason = REASONS[name]
    spoil(root)
    lines: list[str] = []
    again = build_in(root, lines)
    assert any(re.search(f"^building .* again: .*{reason}", line) for line in lines), lines
    shutil.rmtree(root.parent / "cache")
    assert are_equal(again, build_in(root))


def test_a_cache_of_another_decoding_version_is_built_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_in(root)
    monkeypatch.setattr(cache, "FORMAT", 99)
    lines: list[str] = []
    build_in(root, lines)
    assert any("its version was another" in line for line in lines)


def spoil_files(root: Path) -> list[str]:
    (root / "train/class0/001.png").write_bytes(b"")
    (root / "train/class2/003.png").write_bytes(b"no image")
    content = (root / "val/class1/000.png").read_bytes()
    (root / "val/class1/000.png").write_bytes(content[: len(content) // 2])
    (root / "train/class0/gone.png").symlink_to("/nowhere")
    return ["train/class0/001.png", "train/class0/gone.png", "train/class2/003.png", "val/class1/000.png"]


def test_unreadable_files_stop_the_build_with_a_list_of_all(root: Path) -> None:
    bad = spoil_files(root)
    with pytest.raises(UserError, match=r"4 file\(s\) cannot be read; .*--skip-bad") as error:
        build_in(root)
    lines = str(error.value).splitlines()[1:]
    assert [line.split(": ")[0].strip() for line in lines] == [str(root / path) for path in bad]
    assert all(
        reason in line for reason, line in zip(["empty file", "No such", "not an", "truncated"], lines, strict=True)
    )


@pytest.mark.parametrize("cache", ["map", "none"])
def test_skip_bad_leaves_unreadable_files_out_and_lists_them(cache: str, root: Path) -> None:
    bad = spoil_files(root)
    lines: list[str] = []
    option = str(root.parent / "cache") if cache == "map" else "none"
    with logged(lines):
        prepared = prepare(root, 24, option, skip_bad=True)
    assert sorted(prepared.skipped) == bad
    assert len(prepared.train.labels) == len(prepared.train.rows) == 22
    assert len(prepared.val.labels) == 11
    assert not set(prepared.train.keys) & set(bad)
    assert any("4 unreadable file(s) left out" in line for line in lines)
    home = root.parent / "cache" if cache == "map" else Path(os.environ["XDG_CACHE_HOME"]) / "alexnet_torch"
    (manifest,) = home.glob("*/manifest.json")
    assert json.loads(manifest.read_text())["unreadable files"] == bad
    good = np.stack([decode_file(root / path, 24) for path in prepared.train.keys]).astype(np.float64)
    np.testing.assert_allclose(prepared.mean, good.mean(0), rtol=1e-6)
    with pytest.raises(UserError, match="cannot be read"):  # without --skip-bad a finished cache reports them too
        prepare(root, 24, option)


def test_a_build_with_unreadable_files_is_not_decoded_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil_files(root)
    with pytest.raises(UserError):
        build_in(root)
    monkeypatch.setattr(decode_pass, "decode_chunk", lambda _: pytest.fail("decoded again"))
    assert len(build_in(root, skip_bad=True).skipped) == 4


@pytest.mark.parametrize("name", [b"caf\xe9.png", b"a\nb.png", b"a\rb.png", b"a\tb.png", b'"\\.png'])
def test_unusual_file_names(name: bytes, root: Path) -> None:
    path = root / "train/class0" / os.fsdecode(name)
    path.write_bytes((root / "train/class1/000.png").read_bytes() + b"another file")
    prepared = build_in(root)
    assert f"train/class0/{os.fsdecode(name)}" in prepared.train.keys
    lines: list[str] = []
    assert build_in(root, lines).fingerprint == prepared.fingerprint
    assert len(lines) == 1  # what was found
    path.unlink()
    assert build_in(root, lines).fingerprint != prepared.fingerprint


def test_progress_is_ignored_if_a_map_is_missing(root: Path) -> None:
    spoil_files(root)
    with pytest.raises(UserError):
        build_in(root)
    (partial,) = (root.parent / "cache").glob("*.partial")
    (partial / "val.u8").unlink()
    resumed = build_in(root, skip_bad=True)
    shutil.rmtree(root.parent / "cache")
    assert are_equal(resumed, build_in(root, skip_bad=True))


def test_skipping_all_files_of_a_class_is_refused(root: Path) -> None:
    spoil_files(root)
    for path in (root / "val/class1").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"--skip-bad: no file in val/class1 of .* can be read; mend or add some"):
        build_in(root, skip_bad=True)


def test_the_disk_decides_before_the_build(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "free_bytes", lambda _: 60_000)  # the maps take 62,208 bytes
    with pytest.raises(UserError, match=r"--cache: decoded images take .* GB are free at .*; make room"):
        build_in(root)
    lines: list[str] = []
    with logged(lines):
        assert prepare(root, 24).train.images is None
        monkeypatch.setattr(cache, "free_bytes", lambda _: 130_000)
        assert prepare(root, 24).train.images is not None
    assert re.fullmatch("decoded images would take .* 0.0 GB are free at .*: each epoch decodes again.*", lines[1])
    assert re.fullmatch(f"decoding once into {os.environ['XDG_CACHE_HOME']}.*", lines[3])
    build_in(root)
    add(root)
    monkeypatch.setattr(cache, "free_bytes", lambda _: 5_000)  # beside the stale maps, which make room
    assert len(build_in(root).train.labels) == 25


def test_a_cache_that_cannot_be_written(root: Path) -> None:
    (root.parent / "file").touch()
    with pytest.raises(UserError, match=r"--cache .*file/images-\w+-24: .*file: (File exists|Not a directory)"):
        prepare(root, 24, str(root.parent / "file"))


@pytest.mark.parametrize("mirror", [True, False])
def test_batches_without_a_map_are_equal_bit_for_bit(root: Path, mirror: bool) -> None:
    cached, streamed = build_in(root), prepare(root, 24, "none")
    assert streamed.train.images is None
    assert cached.fingerprint == streamed.fingerprint
    assert np.array_equal(cached.mean, streamed.mean)
    for split, epoch, first in (("train", 0, 0), ("train", 3, 2), ("val", 0, 0)):
        loaders = [Loader(p, split, 20, 5, seed=7, mirror=mirror, workers=2) for p in (cached, streamed)]
        batches = [list(loader.epoch(epoch, first)) for loader in loaders]
        assert len(batches[0]) == len(batches[1]) == loaders[0].batches_per_epoch - first
        for a, b in zip(*batches, strict=True):
            assert a.images.equal(b.images)
            assert a.labels.equal(b.labels)
            assert np.array_equal(a.indices, b.indices)


def test_class_names_are_the_same_however_unicode_writes_them() -> None:
    composed, decomposed = ({"classes": [unicodedata.normalize(form, "café"), "thé"]} for form in ("NFC", "NFD"))
    assert composed != decomposed
    require_same_run(composed, decomposed)
    with pytest.raises(UserError, match="the run does not have the classes of"):
        require_same_run(composed, {"classes": ["cafe", "thé"]})


def test_other_bytes_of_the_same_size_are_another_data_set(root: Path) -> None:
    before = build_in(root).fingerprint
    file = root / "train/class1/000.png"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1  # in the last chunk's checksum, which Pillow does not verify
    file.write_bytes(content)
    assert build_in(root).fingerprint != before


def test_names_do_not_matter_but_labels_and_order_do(root: Path) -> None:
    before = build_in(root).fingerprint
    for path in sorted((root / "train").rglob("*.png")):
        path.rename(path.with_name(f"picture {path.stem}.PNG"))
    assert build_in(root).fingerprint == before
    shutil.move(root / "train/class0/picture 002.PNG", root / "train/class1/picture 002b.PNG")
    assert build_in(root).fingerprint != before
    assert prepare(root, 25).fingerprint != before


def test_images_that_are_rarely_meant_give_a_line_at_each_start(root: Path) -> None:
    shutil.copy(root / "train/class0/000.png", root / "val/class1/000.png")
    for name in ("train/class0/001.png", "train/class2/001.png", "train/class2/002.png"):
        Image.new("RGB", (30, 30 + len(name)), "red").save(root / name)
    for _ in range(2):
        lines: list[str] = []
        build_in(root, lines)
        ours = [line.partition("36 images ")[2] for line in lines if "36 images " in line]
        assert ours == [
            "are in train/ and in val/, byte for byte: train/class0/000.png, ...",
            "are in two classes, byte for byte: train/class0/000.png, ...",
            "have only one colour: train/class0/001.png, ...",
        ]
    for path in (root / "train").rglob("*.png"):
        Image.new("RGB", (30, 30), "red").save(path)
    build_in(root, lines)
    assert lines[-1].endswith("24 of 36 images look the same, decoded: train/class0/000.png, ...")


def test_a_cache_of_the_same_files_is_found_under_another_path(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, lines = build_in(root), list[str]()
    other = Path(shutil.copytree(root, root.parent / "other"))
    with monkeypatch.context() as patch:
        patch.setattr(decode_pass, "decode_chunk", lambda *_: pytest.fail("decoded again"))
        assert build_in(other, lines).fingerprint == first.fingerprint
    assert lines[1].startswith(f"these files were decoded from {root} into {root.parent / 'cache'}/images-")
    shutil.rmtree(root)
    add(other)
    build_in(other, lines)
    unused = rf"{root.parent}/cache: images-\w+-24 \(0.00 GB\) may be deleted: the images are not where they were"
    assert any(re.fullmatch(unused, line) for line in lines)


def test_times_after_2262_are_times(root: Path) -> None:
    os.utime(root / "train/class0/000.png", (2**34, 2**34))
    assert build_in(root).fingerprint == build_in(root).fingerprint


def start_build(root: Path, first: str = "") -> "subprocess.Popen[bytes]":
    code = (
        "import logging, sys; from pathlib import Path\n"
        "logging.basicConfig(level=logging.INFO)\n"
        "from alexnet_torch.data import cache_build as building, decode_pass\n"
        "decode_pass.CHUNK, decode_pass.SAVE_SECONDS, decode_pass.SERIAL_CHUNKS = 2, 0.0, 0\n"
        f"{first}building.prepare(Path({str(root)!r}), 24, {str(root.parent / 'cache')!r}, workers=2)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE)


def test_a_build_killed_at_any_moment_continues_to_the_same_result(tmp_path: Path) -> None:
    root = make_images(tmp_path / "images", train=60, val=20)
    continued = 0
    for killed_after in (0, 1, 30, 100):  # chunks of 120
        process = start_build(root)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None and finished_chunks(root) < killed_after:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        # the pipe closes when the last worker ends: none may outlive the process
        continued += b"continuing the interrupted" in process.communicate()[1]
    process = start_build(root)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert continued >= 2
    resumed = build_in(root)
    shutil.rmtree(root.parent / "cache")
    assert are_equal(resumed, build_in(root, workers=1))


def finished_chunks(root: Path) -> int:
    for progress in (root.parent / "cache").glob("*.partial/progress.npz"):
        try:
            with np.load(progress) as saved:
                return int(saved["done"].sum())
        except FileNotFoundError:
            return 1 << 30  # just renamed into place
    return 0


def test_of_two_processes_only_one_builds(tmp_path: Path) -> None:
    root = make_images(tmp_path / "images", train=60, val=20)
    prepare(root, 12, str(root.parent / "other"))  # to learn the folder's name
    (other,) = (root.parent / "other").glob("images-*")
    target = root.parent / "cache" / other.name.replace("-12", "-24")
    target.parent.mkdir()
    code = "inner = building.build\nbuilding.build = lambda *a: (print('building', file=sys.stderr), inner(*a))[1]\n"
    with cache_build._locked(target):
        processes = [start_build(root, code) for _ in range(2)]
        for process in processes:
            assert process.stderr is not None
            assert any(b"waiting for another process" in line for line in process.stderr)
    errors = b"".join(process.communicate(timeout=60)[1] for process in processes)
    assert [process.returncode for process in processes] == [0, 0]
    assert errors.splitlines().count(b"building") == 1
