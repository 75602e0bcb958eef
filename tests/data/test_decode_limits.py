"""Decoding takes a bounded amount of memory, and damaged files give one line each, whatever Pillow does."""

import os
import re
import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_torch.data import decode
from alexnet_torch.data.decode import UnreadableImage, decode_bytes, decode_file
from tests.support.mutants import image_files, mutants
from tests.support.png import png

# files of a few bytes whose headers ask for gigabytes
SMALL = np.zeros((16, 16, 3), np.uint8)


def saved(kind: str, **options: Any) -> bytes:
    content = BytesIO()
    Image.fromarray(SMALL).save(content, kind, **options)
    return content.getvalue()


def jpeg(width: int, height: int, progressive: bool) -> bytes:
    content = bytearray(saved("jpeg", progressive=progressive))
    frame = content.index(b"\xff\xc2" if progressive else b"\xff\xc0")
    content[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(content)


def tiff(**tags: int) -> bytes:
    """Returns a TIFF whose tags have other values."""
    content = bytearray(saved("tiff", compression="tiff_lzw"))
    start = int.from_bytes(content[4:8], "little")
    for i in range(int.from_bytes(content[start : start + 2], "little")):
        entry = start + 2 + 12 * i
        tag = int.from_bytes(content[entry : entry + 2], "little")
        if f"t{tag}" in tags:
            content[entry : entry + 12] = struct.pack("<HHII", tag, 4, 1, tags[f"t{tag}"])
    return bytes(content)


def icon_of_a_large_png() -> bytes:
    content = png(SMALL, 40000, 40000)
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(content), 22) + content


BOMBS = {
    "png": png(SMALL, 20000, 20000),
    "progressive jpeg": jpeg(22000, 22000, True),
    "icon": icon_of_a_large_png(),
    "ppm": b"P6 30000 10000 255\n",
    "tiff of one large strip": tiff(t257=60000, t256=60000, t278=60000),
    "gif": b"GIF89a" + struct.pack("<HH", 65535, 65535) + saved("gif")[10:],
}


@pytest.mark.parametrize("name", BOMBS)
def test_files_that_ask_for_gigabytes_are_refused_by_their_header(name: str) -> None:
    before = peak_memory(reset=True)
    with pytest.raises(UnreadableImage, match="it has more than 268,435,456 pixels; make it smaller"):
        decode_bytes(BOMBS[name], 8, name)
    assert peak_memory() - before < 100 << 20


def peak_memory(reset: bool = False) -> int:
    """Returns the largest memory of this process in bytes, since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10


def test_a_large_image_takes_little_more_than_its_pixels(tmp_path: Path) -> None:
    pixels = np.zeros((6000, 6200, 3), np.uint8)
    pixels[:, 3100:] = 200
    (tmp_path / "x.png").write_bytes(png(pixels))
    decode_file(tmp_path / "x.png", 64)  # loads what is loaded once
    before = peak_memory(reset=True)
    square = decode_file(tmp_path / "x.png", 64)
    # four bytes a pixel for Pillow, and bands of four million pixels
    assert peak_memory() - before < 6000 * 6200 * 4 + (64 << 20)
    assert (square[:, :28] == 0).all()
    assert (square[:, 36:] == 200).all()


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "I;16", "CMYK"])
def test_reduction_in_bands_stays_within_a_grey_level(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    y, x = np.mgrid[:700, :810]
    waves = 127 + 120 * np.stack([np.sin(x / 19), np.sin(y / 17), np.sin((x + y) / 21)], axis=2)
    image = Image.fromarray(waves.astype(np.uint8)).convert("RGB" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray((waves[..., 0] * 257).astype(np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    image.save(tmp_path / ("x.tif" if mode == "CMYK" else "x.png"), exif=exif)
    file = next(tmp_path.glob("x.*"))
    whole = decode_file(file, 64).astype(int)
    monkeypatch.setattr(decode, "LARGE_PIXELS", 1000)
    reduced = decode_file(file, 64).astype(int)
    assert not np.array_equal(reduced, whole)
    assert np.abs(reduced - whole).mean() < 1


def test_a_thin_large_image_is_cut_before_it_is_reduced(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.zeros((3, 5000, 3), np.uint8)
    pixels[:, 2498:2502] = 90
    monkeypatch.setattr(decode, "LARGE_PIXELS", 1000)
    assert (decode_bytes(png(pixels), 16, "x") == 90).all()


def test_files_that_are_no_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.png")  # reading it would wait for ever
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "large.png").write_bytes(bytes(2000))
    monkeypatch.setattr(decode, "MAX_BYTES", 1000)
    for name, reason in (("pipe", "not a file"), ("folder", "not a file"), ("large", "it has .* GB, more than")):
        with pytest.raises(UnreadableImage, match=rf"{name}\.png: {reason}"):
            decode_file(tmp_path / f"{name}.png", 8)


MANY = [pytest.param(seed, 20_000, marks=pytest.mark.slow) for seed in range(1, 11)]


@pytest.mark.filterwarnings("ignore")  # pytest resets the filters of decode.py
@pytest.mark.parametrize(("seed", "count"), [(0, 2000), *MANY])
def test_damaged_files_give_pixels_or_one_line(seed: int, count: int, capfd: pytest.CaptureFixture[str]) -> None:
    before, messages = peak_memory(reset=True), []
    for name, content in mutants(seed, count):
        try:
            assert decode_bytes(content, 16, name).shape == (16, 16, 3)
        except UnreadableImage as error:
            messages.append((name, str(error)))
    assert all(re.fullmatch(rf"{name}: .+", message) for name, message in messages)
    assert count / 4 < len(messages) < count * 3 / 4  # otherwise the damage is too great, or too small
    assert peak_memory() - before < decode.MAX_BYTES * 5 // 4
    assert capfd.readouterr() == ("", "")  # libtiff prints from C


def test_intact_files_of_every_kind_are_decoded() -> None:
    for name, content in image_files():
        assert np.ptp(decode_bytes(content, 16, name)) > 50, name
