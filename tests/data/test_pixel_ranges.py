"""Images of more than 8 bits have the right brightness, or are refused with the reason."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from alexnet_torch.data.decode import UnreadableImage, decode_file, decode_image
from tests.support.png import png


def value_of(path: Path) -> int:
    """Returns the grey of an image that has only one."""
    pixels = decode_file(path, 8)
    assert (pixels == pixels[0, 0, 0]).all()
    return int(pixels[0, 0, 0])


@pytest.mark.parametrize("value", [0, 4096, 5000, 40000, 65535])
@pytest.mark.parametrize("kind", ["png", "tif", "lzw.tif", "jp2"])
def test_sixteen_bit_grey_is_scaled_not_clipped(value: int, kind: str, tmp_path: Path) -> None:
    options = {"compression": "tiff_lzw"} if kind == "lzw.tif" else {}
    Image.fromarray(np.full((9, 9), value, np.uint16)).save(tmp_path / f"x.{kind}", **options)
    assert value_of(tmp_path / f"x.{kind}") == round(value / 257)


@pytest.mark.parametrize("kind", ["png", "tif"])
@pytest.mark.parametrize("value", [1, 255, 1023, 4095])
def test_twelve_bits_in_sixteen_are_refused(value: int, kind: str, tmp_path: Path) -> None:
    pixels = np.zeros((9, 9), np.uint16)
    pixels[4, 4] = value
    Image.fromarray(pixels).save(tmp_path / f"x.{kind}")
    with pytest.raises(UnreadableImage, match=r"16-bit pixels use 12 bits or less, so white is not known; convert"):
        decode_file(tmp_path / f"x.{kind}", 8)


def test_twelve_bits_that_the_file_declares_are_refused(tmp_path: Path) -> None:
    # two pixels in three bytes
    packed = b"".join((value << 12 | value).to_bytes(3) for value in [2048] * 32)
    tags = {256: 8, 257: 8, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 8, 279: len(packed)}
    directory = struct.pack("<H", len(tags))
    directory += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()) + bytes(4)
    (tmp_path / "x.tif").write_bytes(b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + directory)
    with pytest.raises(UnreadableImage, match=r"x\.tif: its pixels have more than 8 bits and less than 16; convert"):
        decode_file(tmp_path / "x.tif", 8)


def test_an_unused_fourth_byte_is_not_transparency(tmp_path: Path) -> None:
    Image.new("RGBA", (9, 9), (7, 7, 7, 0)).save(tmp_path / "x.tga")
    assert value_of(tmp_path / "x.tga") == 7


def test_the_preview_of_a_raw_photograph_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "x.tif", tiffinfo={254: 1})
    with pytest.raises(UnreadableImage, match="raw photograph, whose first page is a preview"):
        decode_file(tmp_path / "x.tif", 8)


def test_grey_of_sixteen_bits_whose_zero_is_white_is_inverted(tmp_path: Path) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[262] = 0  # WhiteIsZero
    Image.fromarray(np.full((9, 9), 5140, np.uint16)).save(tmp_path / "x.tif", tiffinfo=tags)
    assert value_of(tmp_path / "x.tif") == 255 - 20


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_values_without_a_range_are_refused(dtype: type, tmp_path: Path) -> None:
    image = Image.fromarray(np.full((9, 9), 200, dtype))
    image.save(tmp_path / "x.tif")
    with pytest.raises(UnreadableImage, match=r"x\.tif: .* pixels have no defined range; convert them to 8 bits"):
        decode_file(tmp_path / "x.tif", 8)
    with pytest.raises(UnreadableImage, match="no defined range"):
        decode_image(image, 8)


def test_a_pgm_is_scaled_by_its_largest_value(tmp_path: Path) -> None:
    (tmp_path / "x.pgm").write_bytes(b"P5 9 9 1000\n" + np.full(81, 500, ">u2").tobytes())
    assert value_of(tmp_path / "x.pgm") == 128
    (tmp_path / "dark.pgm").write_bytes(b"P5 9 9 65535\n" + np.full(81, 514, ">u2").tobytes())
    assert value_of(tmp_path / "dark.pgm") == 2


@pytest.mark.parametrize("channels", [2, 3, 4])  # grey or RGB, with alpha or without
def test_colours_of_sixteen_bits(channels: int, tmp_path: Path) -> None:
    def write(value: int) -> Path:
        pixels = np.full((9, 9, channels), value, np.uint16)
        if channels != 3:
            pixels[..., -1] = 65535
        (tmp_path / "x.png").write_bytes(png(pixels))
        return tmp_path / "x.png"

    assert value_of(write(0x8012)) == 0x80
    assert value_of(write(4096)) == 16
    with pytest.raises(UnreadableImage, match="12 bits or less"):
        decode_file(write(4095), 8)
