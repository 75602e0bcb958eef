"""Unusual files become correct RGB: the colours that the file was made from, not those that Pillow reports."""

import struct
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageOps, TiffImagePlugin

from alexnet_torch.data.decode import UnreadableImage, decode_bytes, decode_file, decode_image, decoded_side
from tests.support.png import png


def solid(path: Path, side: int = 8) -> np.ndarray:
    """Returns the colour of an image that has only one, (3,)."""
    pixels = decode_file(path, side)
    assert pixels.shape == (side, side, 3)
    assert pixels.dtype == np.uint8
    assert (pixels == pixels[0, 0]).all()
    colour: np.ndarray = pixels[0, 0]
    return colour


def test_the_square_is_the_centre_of_the_longer_side(tmp_path: Path) -> None:
    assert [decoded_side(size) for size in (224, 64, 227)] == [256, 73, 256]
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, :20, 0] = pixels[:, 20:40, 1] = pixels[:, 40:, 2] = 255
    Image.fromarray(pixels).save(tmp_path / "x.png")
    assert solid(tmp_path / "x.png", 20).tolist() == [0, 255, 0]
    Image.fromarray(pixels.transpose(1, 0, 2)).save(tmp_path / "y.png")
    assert solid(tmp_path / "y.png", 20).tolist() == [0, 255, 0]


def test_photographs_match_the_usual_pipeline(shared_data: Callable[[str], Path]) -> None:
    files = sorted((shared_data("hymenoptera") / "val").rglob("*.jpg"))[::6]
    assert len(files) > 20
    for file in files:
        image = Image.open(file).convert("RGB")
        scale = 256 / min(image.size)
        scaled = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
        left, top = (scaled.width - 256) // 2, (scaled.height - 256) // 2
        usual = np.asarray(scaled.crop((left, top, left + 256, top + 256))).astype(float)
        difference = np.abs(decode_file(file, 256) - usual).mean()
        # the usual pipeline rounds the crop by half a pixel: allow half the difference of a shift by one pixel
        moved = np.abs(np.roll(usual, 1, (0, 1)) - usual).mean()
        assert difference < max(1.0, 0.5 * moved), file


def test_pixels_match_pillows_resize(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)
    image = Image.fromarray(noise).resize((350, 450), Image.Resampling.BICUBIC)
    image.save(tmp_path / "x.jpg", quality=90)
    for side in (150, 256, 500):  # at 116 and less it would be decoded at half its size
        square = Image.open(tmp_path / "x.jpg").crop((0, 50, 350, 400))
        expected = square.resize((side, side), Image.Resampling.BICUBIC)
        difference = np.abs(decode_file(tmp_path / "x.jpg", side).astype(int) - np.asarray(expected))
        assert difference.mean() < 0.02
        assert difference.max() <= 2


def test_scaled_decoding_of_a_large_jpeg_stays_within_a_grey_level(tmp_path: Path) -> None:
    for size in (770, 1000, 1600):  # decoded at 1/2, 1/2 and 1/4
        y, x = np.mgrid[:size, :size]
        waves = np.stack([np.sin(x / 9), np.sin(y / 7), np.sin((x + y) / 11)], axis=2)
        Image.fromarray((127 + 120 * waves).astype(np.uint8)).save(tmp_path / "x.jpg", quality=92)
        expected = Image.open(tmp_path / "x.jpg").resize((256, 256), Image.Resampling.BICUBIC)
        assert np.abs(decode_file(tmp_path / "x.jpg", 256).astype(float) - np.asarray(expected)).mean() < 1


def palette() -> Image.Image:
    image = Image.new("P", (9, 9), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    return image


KINDS: dict[str, tuple[Image.Image, dict[str, object], list[int]]] = {
    "grey.png": (Image.new("L", (9, 9), 77), {}, [77] * 3),
    "bit.png": (Image.new("1", (9, 9), 1), {}, [255] * 3),
    "palette.png": (palette(), {}, [200, 100, 50]),
    "palette with transparency.png": (palette(), {"transparency": 1}, [255] * 3),
    "clear.png": (Image.new("RGBA", (9, 9), (255, 0, 0, 0)), {}, [255] * 3),
    "opaque.png": (Image.new("RGBA", (9, 9), (200, 0, 0, 255)), {}, [200, 0, 0]),
    "clear grey.png": (Image.new("LA", (9, 9), (0, 0)), {}, [255] * 3),
    # Pillow writes Adobe's inverted form, as Photoshop does
    "cyan.jpg": (Image.new("CMYK", (16, 16), (255, 0, 0, 0)), {"quality": 100}, [0, 255, 255]),
    "black.jpg": (Image.new("CMYK", (16, 16), (0, 0, 0, 255)), {"quality": 100}, [0] * 3),
    "broken exif.jpg": (
        Image.new("RGB", (16, 16), (90, 90, 90)),
        {"exif": b"Exif\0\0II*\0\xff\xff\xff\x7f garbage"},
        [90] * 3,
    ),
    **{f"{size}.png": (Image.new("RGB", size, (1, 2, 3)), {}, [1, 2, 3]) for size in [(1, 1), (1, 5000), (5000, 1)]},
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_becomes_the_right_rgb_whatever_its_suffix(name: str, tmp_path: Path) -> None:
    image, options, colour = KINDS[name]
    image.save(tmp_path / name, **options)  # type: ignore[arg-type]
    found = solid((tmp_path / name).rename(tmp_path / "n02105855_2933.JPEG"))
    assert np.abs(found.astype(int) - colour).max() < (8 if name.endswith("jpg") else 1)


def half_red(path: Path, orientation: bytes) -> None:
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:16, :, 0] = 255  # the upper half
    pixels[16:, :8, 2] = 255  # and a corner, to recognise mirror images
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0" + orientation + b"\0\0\0\0\0\0\0"
    Image.fromarray(pixels).save(path, quality=100, subsampling=0, exif=exif)


def test_exif_rotation_is_applied_if_another_tag_is_broken(tmp_path: Path) -> None:
    half_red(tmp_path / "x.jpg", b"\x06")
    content = (tmp_path / "x.jpg").read_bytes()
    # two tags: the orientation, and a copyright of a type (float) that a text cannot have
    tags = b"\x02\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0" + b"\x98\x82\x0b\0\x01\0\0\0\0\0\x80\x3f" + b"\0\0\0\0"
    start = content.index(b"Exif")
    length = int.from_bytes(content[start - 2 : start])
    exif = b"Exif\0\0II*\0\x08\0\0\0" + tags
    rest = content[start - 2 + length :]
    (tmp_path / "x.jpg").write_bytes(content[: start - 2] + (len(exif) + 2).to_bytes(2) + exif + rest)
    with pytest.raises(AttributeError), Image.open(tmp_path / "x.jpg") as image:
        ImageOps.exif_transpose(image)  # otherwise this test would prove nothing
    rotated = decode_file(tmp_path / "x.jpg", 32)[..., 0]
    assert rotated[16, 28] > 200
    assert rotated[16, 4] < 50


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(37, 32), (32, 37)])
def test_the_square_is_that_of_the_upright_image(orientation: int, size: tuple[int, int], tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8))
    noise.save(
        tmp_path / "x.png", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0%c\0\0\0\0\0\0\0" % orientation
    )
    with Image.open(tmp_path / "x.png") as image:
        upright = ImageOps.exif_transpose(image)
    left, top = (upright.width - 32) // 2, (upright.height - 32) // 2
    assert np.array_equal(decode_file(tmp_path / "x.png", 32), np.asarray(upright)[top : top + 32, left : left + 32])


def test_a_huge_image_is_decoded(tmp_path: Path) -> None:
    # 190 million pixels: over twice Pillow's limit, at which it refuses
    Image.new("L", (14000, 13600), 60).save(tmp_path / "x.png", compress_level=1)
    assert solid(tmp_path / "x.png").tolist() == [60] * 3


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_unreadable_files_have_a_reason(kind: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / f"x.{kind}")
    content = (tmp_path / f"x.{kind}").read_bytes()
    half = content[: len(content) // 2]
    for part, reason in ((b"", "empty file$"), (b"text", "not an image of a known kind$"), (half, ".*truncated")):
        with pytest.raises(UnreadableImage, match=f"^archive/member: {reason}"):
            decode_bytes(part, 8, "archive/member")
    with pytest.raises(UnreadableImage, match=rf"{tmp_path}/gone\.png: No such file"):
        decode_file(tmp_path / "gone.png", 8)


def solid_grey(path: Path) -> int:
    """Returns the grey of an image that has only one."""
    (grey,) = set(solid(path).tolist())
    return int(grey)


@pytest.mark.parametrize("value", [0, 4096, 5000, 40000, 65535])
@pytest.mark.parametrize("kind", ["png", "tif", "lzw.tif", "jp2"])
def test_sixteen_bit_grey_is_scaled_not_clipped(value: int, kind: str, tmp_path: Path) -> None:
    options = {"compression": "tiff_lzw"} if kind == "lzw.tif" else {}
    Image.fromarray(np.full((9, 9), value, np.uint16)).save(tmp_path / f"x.{kind}", **options)
    assert solid_grey(tmp_path / f"x.{kind}") == round(value / 257)


WHITE = "its white is not known: it has 32 bits, or uses 12 or less of 16; convert it to 8 bits"


@pytest.mark.parametrize("kind", ["png", "tif"])
@pytest.mark.parametrize("value", [1, 255, 4095])
def test_twelve_bits_in_sixteen_are_refused(value: int, kind: str, tmp_path: Path) -> None:
    pixels = np.zeros((9, 9), np.uint16)
    pixels[4, 4] = value
    Image.fromarray(pixels).save(tmp_path / f"x.{kind}")
    with pytest.raises(UnreadableImage, match=WHITE):
        decode_file(tmp_path / f"x.{kind}", 8)


def test_twelve_bits_that_the_file_declares_are_refused(tmp_path: Path) -> None:
    # two pixels in three bytes
    packed = b"".join((value << 12 | value).to_bytes(3) for value in [2048] * 32)
    tags = {256: 8, 257: 8, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 8, 279: len(packed)}
    directory = struct.pack("<H", len(tags))
    directory += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()) + bytes(4)
    (tmp_path / "x.tif").write_bytes(b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + directory)
    with pytest.raises(UnreadableImage, match=WHITE):
        decode_file(tmp_path / "x.tif", 8)


def test_an_unused_fourth_byte_is_not_transparency(tmp_path: Path) -> None:
    Image.new("RGBA", (9, 9), (7, 7, 7, 0)).save(tmp_path / "x.tga")
    assert solid_grey(tmp_path / "x.tga") == 7


def test_the_preview_of_a_raw_photograph_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "x.tif", tiffinfo={254: 1})
    with pytest.raises(UnreadableImage, match="raw photograph, whose first page is a preview"):
        decode_file(tmp_path / "x.tif", 8)


def test_grey_of_sixteen_bits_whose_zero_is_white_is_inverted(tmp_path: Path) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[262] = 0  # WhiteIsZero
    Image.fromarray(np.full((9, 9), 5140, np.uint16)).save(tmp_path / "x.tif", tiffinfo=tags)
    assert solid_grey(tmp_path / "x.tif") == 255 - 20


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_values_without_a_range_are_refused(dtype: type, tmp_path: Path) -> None:
    image = Image.fromarray(np.full((9, 9), 200, dtype))
    image.save(tmp_path / "x.tif")
    with pytest.raises(UnreadableImage, match=WHITE):
        decode_file(tmp_path / "x.tif", 8)
    with pytest.raises(UnreadableImage, match=WHITE):
        decode_image(image, 8)


def test_a_pgm_is_scaled_by_its_largest_value(tmp_path: Path) -> None:
    (tmp_path / "x.pgm").write_bytes(b"P5 9 9 1000\n" + np.full(81, 500, ">u2").tobytes())
    assert solid_grey(tmp_path / "x.pgm") == 128
    (tmp_path / "dark.pgm").write_bytes(b"P5 9 9 65535\n" + np.full(81, 514, ">u2").tobytes())
    assert solid_grey(tmp_path / "dark.pgm") == 2


@pytest.mark.parametrize("channels", [2, 3, 4])  # grey or RGB, with alpha or without
def test_colours_of_sixteen_bits(channels: int, tmp_path: Path) -> None:
    def write(value: int) -> Path:
        pixels = np.full((9, 9, channels), value, np.uint16)
        if channels != 3:
            pixels[..., -1] = 65535
        (tmp_path / "x.png").write_bytes(png(pixels))
        return tmp_path / "x.png"

    assert solid_grey(write(0x8012)) == 0x80
    assert solid_grey(write(4096)) == 16
    with pytest.raises(UnreadableImage, match=WHITE):
        decode_file(write(4095), 8)


def test_stacks_are_refused_and_an_empty_first_frame_is_passed_over(tmp_path: Path) -> None:
    pages = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    pages[0].save(tmp_path / "x.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(UnreadableImage, match="a stack of 2 pages; save the one that is meant"):
        decode_file(tmp_path / "x.tif", 8)
    pages[0].save(tmp_path / "x.tif", save_all=True, append_images=[Image.new("RGB", (4, 4))])  # a small preview
    assert solid(tmp_path / "x.tif").tolist() == [255, 0, 0]
    drawn = Image.new("RGB", (9, 9), "white")
    drawn.paste("black", (0, 0, 9, 5))
    Image.new("RGB", (9, 9), "white").save(tmp_path / "x.gif", save_all=True, append_images=[drawn])
    assert np.ptp(decode_file(tmp_path / "x.gif", 9)) == 255


def test_heic_is_read_where_its_package_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(UnreadableImage, match=r"pip install pillow-heif"):
        decode_file(tmp_path / "x.heic", 8)
    registered: list[bool] = []
    package = SimpleNamespace(register_heif_opener=lambda: registered.append(True))
    monkeypatch.setitem(sys.modules, "pillow_heif", package)
    with pytest.raises(UnreadableImage, match="not an image of a known kind"):  # the pretended package reads none
        decode_file(tmp_path / "x.heic", 8)
    assert registered
