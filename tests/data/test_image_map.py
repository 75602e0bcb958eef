"""Crops from a memory map: the compiled reader against NumPy's slices, and what a damaged file gives."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from alexnet_torch.data import image_map
from alexnet_torch.data.augment import Crops, random_crops
from alexnet_torch.data.image_map import ImageMap, checksum, checksum_factors
from alexnet_torch.errors import UserError
from tests.support.logged import logged
from tests.support.paths import PROJECT


@pytest.fixture(params=["native", "numpy"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both readers: the compiled one and the one in its place where there is no compiler."""
    if request.param == "numpy":
        monkeypatch.setattr(image_map, "load_native", lambda: None)
    elif image_map.load_native() is None:
        pytest.skip("no compiler")
    return str(request.param)


def write_map(path: Path, n: int, side: int) -> np.ndarray:
    images = np.random.default_rng(side).integers(0, 256, (n, side, side, 3), np.uint8)
    images.tofile(path)
    return images


def checksums(images: np.ndarray) -> np.ndarray:
    return np.array([checksum(image) for image in images], np.uint64)


def read(images: ImageMap, rows: np.ndarray, crops: Crops, size: int) -> np.ndarray:
    out = np.full((len(rows), size, size, 3), 77, np.uint8)
    images.read(rows, crops, out)
    return out


@pytest.mark.parametrize(("side", "size"), [(5, 1), (9, 9), (24, 20), (73, 64), (256, 224)])
def test_crops_are_slices_mirrored_or_not(reader: str, side: int, size: int, tmp_path: Path) -> None:
    images = write_map(tmp_path / "x.u8", 7, side)
    rows = np.array([6, 0, 0, 3, 5, 1, 6])
    for epoch in range(4):
        crops = random_crops(7, side, size, 0, epoch, True)
        cut = read(ImageMap(tmp_path / "x.u8", side, checksums(images)), rows, crops, size)
        for row, top, left, mirrored, crop in zip(rows, crops.top, crops.left, crops.mirrored, cut, strict=True):
            expected = images[row, top : top + size, left : left + size]
            assert np.array_equal(crop, expected[:, ::-1] if mirrored else expected), reader


def test_the_result_may_begin_at_any_address(reader: str, tmp_path: Path) -> None:
    images, side, size = write_map(tmp_path / "x.u8", 3, 24), 24, 23
    crops = Crops(np.array([0, 1, 1]), np.array([1, 0, 1]), np.array([True, False, True]))
    expected = read(ImageMap(tmp_path / "x.u8", side, checksums(images)), np.arange(3), crops, size)
    assert np.array_equal(expected[1], images[1, 1:, :23])
    for offset in range(1, 65):
        buffer = np.full(3 * size * size * 3 + 130, 77, np.uint8)
        out = buffer[offset : offset + expected.size].reshape(expected.shape)
        ImageMap(tmp_path / "x.u8", side, checksums(images)).read(np.arange(3), crops, out)
        assert np.array_equal(out, expected), reader
        assert (buffer[:offset] == 77).all()
        assert (buffer[offset + expected.size :] == 77).all()


@pytest.mark.parametrize("side", [1, 9, 73])  # 3 bytes; one less than, and one more than, a multiple of 4
def test_checksums_are_those_of_a_loop(reader: str, side: int, tmp_path: Path) -> None:
    images, factors = write_map(tmp_path / "x.u8", 2, side), checksum_factors(side)
    for image, sum_of_image in zip(images, checksums(images), strict=True):
        content = image.tobytes()
        words = [int.from_bytes(content[i : i + 4], "little") for i in range(0, len(content), 4)]
        total = sum(word * int(factor) for word, factor in zip(words, factors, strict=True))
        assert total % 2**64 == sum_of_image
    mapped = ImageMap(tmp_path / "x.u8", side, checksums(images))
    whole = Crops(np.zeros(2, np.int64), np.zeros(2, np.int64), np.zeros(2, bool))
    assert np.array_equal(read(mapped, np.arange(2), whole, side), images), reader


def test_factors_stay_what_they_are() -> None:
    assert checksum_factors(2)[:2].tolist() == [0xE220A839 | 1, 0x6E789E6A | 1]  # SplitMix64's published numbers


def test_a_flipped_bit_anywhere_is_an_error_with_the_image(reader: str, tmp_path: Path) -> None:
    images, random = write_map(tmp_path / "x.u8", 4, 24), np.random.default_rng(1)
    sums, content = checksums(images), bytearray((tmp_path / "x.u8").read_bytes())
    crops = Crops(np.full(4, 2), np.full(4, 2), np.zeros(4, bool))
    for position in [0, len(content) - 1, *random.integers(0, len(content), 20)]:
        damaged = content.copy()
        damaged[position] ^= 1 << int(random.integers(0, 8))
        (tmp_path / "y.u8").write_bytes(damaged)
        mapped = ImageMap(tmp_path / "y.u8", 24, sums)
        with pytest.raises(UserError, match=rf"y\.u8: image {position // (24 * 24 * 3)} is damaged") as error:
            read(mapped, np.arange(4), crops, 20)
        assert "\n" not in str(error.value), reader


def test_rows_and_crops_outside_are_refused(reader: str, tmp_path: Path) -> None:
    images = write_map(tmp_path / "x.u8", 2, 24)
    mapped, zeros = ImageMap(tmp_path / "x.u8", 24, checksums(images)), np.zeros(1, np.int64)
    for row, top, left in ((2, 0, 0), (-1, 0, 0), (0, 5, 0), (0, 0, -1), (1, 0, 5)):
        with pytest.raises(IndexError, match=r"x\.u8: .* are not all in 0\.\."):
            read(mapped, zeros + row, Crops(zeros + top, zeros + left, zeros > 0), 20)
    assert read(mapped, zeros + 1, Crops(zeros + 4, zeros + 4, zeros > 0), 20).shape == (1, 20, 20, 3), reader


TRUNCATED = """
import faulthandler, os, sys
import numpy as np
from pathlib import Path
from alexnet_torch.data import image_map
from alexnet_torch.data.augment import Crops
faulthandler.enable()
path, reader = Path(sys.argv[1]), sys.argv[2]
if reader == "numpy":
    image_map.load_native = lambda: None
sums = np.array([image_map.checksum(each) for each in np.fromfile(path, np.uint8).reshape(40, 64, 64, 3)], np.uint64)
images, out = image_map.ImageMap(path, 64, sums), np.empty((40, 64, 64, 3), np.uint8)
zeros = np.zeros(40, np.int64)
images.read(np.arange(40), Crops(zeros, zeros, zeros > 0), out)
os.truncate(path, 100_000)
for _ in range(2):
    try:
        images.read(np.arange(40), Crops(zeros, zeros, zeros > 0), out)
    except image_map.UserError as error:
        print(error)
images.read(np.arange(8), Crops(zeros[:8], zeros[:8], zeros[:8] > 0), out[:8])
print("read what is left", flush=True)
if reader == "native":
    images.pixels[39].sum()
"""


@pytest.mark.parametrize("reader", ["native", "numpy"])
def test_a_map_that_is_truncated_is_an_error_and_not_the_end_of_the_process(reader: str, tmp_path: Path) -> None:
    write_map(tmp_path / "x.u8", 40, 64)
    command = [sys.executable, "-c", TRUNCATED, str(tmp_path / "x.u8"), reader]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT)
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stderr
    assert lines[0] == lines[1]
    assert "x.u8: cannot be read any more: it was truncated" in lines[0]
    assert lines[2] == "read what is left"
    # an access of others is as fatal as before, and the handler that was there before reports it
    assert done.returncode == (-signal.SIGBUS if reader == "native" else 0)
    assert ("Fatal Python error: Bus error" in done.stderr) == (reader == "native")


def test_without_a_compiler_it_prints_so_once_and_still_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = write_map(tmp_path / "x.u8", 2, 24)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    image_map.load_native.cache_clear()
    lines: list[str] = []
    try:
        for _ in range(2):
            crops = Crops(np.array([1]), np.array([3]), np.array([False]))
            with logged(lines):
                cut = read(ImageMap(tmp_path / "x.u8", 24, checksums(images)), np.array([1]), crops, 20)
            assert np.array_equal(cut[0], images[1, 1:21, 3:23])
    finally:
        image_map.load_native.cache_clear()
    (line,) = lines
    assert "the reader of crops is not compiled" in line
    assert "no-such-compiler" in line
