"""Unusual files become correct RGB: the colours that the file was made from, not those that Pillow reports."""

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from alexnet_torch.data.decode import UnreadableImage, decode_bytes, decode_file


def solid(path: Path, side: int = 8) -> np.ndarray:
    """Returns the colour of an image that has only one, (3,)."""
    pixels = decode_file(path, side)
    assert pixels.shape == (side, side, 3)
    assert pixels.dtype == np.uint8
    assert (pixels == pixels[0, 0]).all()
    colour: np.ndarray = pixels[0, 0]
    return colour


def test_the_square_is_the_centre_of_the_longer_side(tmp_path: Path) -> None:
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


def test_grey_and_palette(tmp_path: Path) -> None:
    Image.new("L", (9, 9), 77).save(tmp_path / "grey.png")
    assert solid(tmp_path / "grey.png").tolist() == [77] * 3
    Image.new("1", (9, 9), 1).save(tmp_path / "bit.png")
    assert solid(tmp_path / "bit.png").tolist() == [255] * 3
    palette = Image.new("P", (9, 9), 1)
    palette.putpalette([0, 0, 0, 200, 100, 50])
    palette.save(tmp_path / "palette.png")
    assert solid(tmp_path / "palette.png").tolist() == [200, 100, 50]


def test_cmyk_jpegs(tmp_path: Path) -> None:
    # Pillow writes Adobe's inverted form, as Photoshop does
    Image.new("CMYK", (16, 16), (255, 0, 0, 0)).save(tmp_path / "cyan.jpg", quality=100)
    assert np.abs(solid(tmp_path / "cyan.jpg").astype(int) - [0, 255, 255]).max() < 8
    Image.new("CMYK", (16, 16), (0, 0, 0, 255)).save(tmp_path / "black.jpg", quality=100)
    assert solid(tmp_path / "black.jpg").max() < 8


def test_transparent_pixels_become_white(tmp_path: Path) -> None:
    Image.new("RGBA", (9, 9), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert solid(tmp_path / "clear.png").tolist() == [255] * 3
    Image.new("RGBA", (9, 9), (200, 0, 0, 255)).save(tmp_path / "opaque.png")
    assert solid(tmp_path / "opaque.png").tolist() == [200, 0, 0]
    Image.new("LA", (9, 9), (0, 0)).save(tmp_path / "grey.png")
    assert solid(tmp_path / "grey.png").tolist() == [255] * 3
    palette = Image.new("P", (9, 9), 1)
    palette.putpalette([0, 0, 0, 200, 100, 50])
    palette.save(tmp_path / "palette.png", transparency=1)
    assert solid(tmp_path / "palette.png").tolist() == [255] * 3


def test_the_suffix_does_not_matter(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9), (10, 20, 30)).save(tmp_path / "x.png")
    assert solid((tmp_path / "x.png").rename(tmp_path / "n02105855_2933.JPEG")).tolist() == [10, 20, 30]


def half_red(path: Path, orientation: bytes) -> None:
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:16, :, 0] = 255  # the upper half
    pixels[16:, :8, 2] = 255  # and a corner, to recognise mirror images
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0" + orientation + b"\0\0\0\0\0\0\0"
    Image.fromarray(pixels).save(path, quality=100, subsampling=0, exif=exif)


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    half_red(tmp_path / "up.jpg", b"\x01")
    half_red(tmp_path / "rotated.jpg", b"\x06")  # to be rotated by 90 degrees clockwise
    up, rotated = decode_file(tmp_path / "up.jpg", 32)[..., 0], decode_file(tmp_path / "rotated.jpg", 32)[..., 0]
    assert up[4, 16] > 200
    assert up[28, 16] < 50
    assert rotated[16, 28] > 200
    assert rotated[16, 4] < 50


def test_broken_exif_is_ignored(tmp_path: Path) -> None:
    image = Image.new("RGB", (16, 16), (90, 90, 90))
    image.save(tmp_path / "x.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f garbage")
    assert np.abs(solid(tmp_path / "x.jpg").astype(int) - 90).max() < 3


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
def test_every_orientation_matches_pillow(orientation: int, tmp_path: Path) -> None:
    half_red(tmp_path / "x.jpg", bytes([orientation]))
    with Image.open(tmp_path / "x.jpg") as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(decode_file(tmp_path / "x.jpg", 32), expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 2)])
def test_tiny_and_thin_images(size: tuple[int, int], tmp_path: Path) -> None:
    Image.new("RGB", size, (1, 2, 3)).save(tmp_path / "x.png")
    assert solid(tmp_path / "x.png", 256).tolist() == [1, 2, 3]


def test_a_huge_image_is_decoded(tmp_path: Path) -> None:
    # 190 million pixels: over twice Pillow's limit, at which it refuses
    Image.new("L", (14000, 13600), 60).save(tmp_path / "x.png", compress_level=1)
    assert solid(tmp_path / "x.png").tolist() == [60] * 3


def test_unreadable_files_have_a_reason(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "x.png")
    Image.fromarray(noise).save(tmp_path / "x.jpg")
    cases = {"empty.jpg": b"", "text.png": b"no image at all"}
    for name in ("x.png", "x.jpg"):
        content = (tmp_path / name).read_bytes()
        cases[f"truncated-{name}"] = content[: len(content) // 2]
    reasons = {}
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UnreadableImage, match=name) as error:
            decode_file(tmp_path / name, 8)
        reasons[name] = error.value.reason
    assert reasons["empty.jpg"] == "empty file"
    assert reasons["text.png"] == "not an image of a known kind"
    assert "truncated" in reasons["truncated-x.png"]
    assert "truncated" in reasons["truncated-x.jpg"]
    with pytest.raises(UnreadableImage, match="No such file"):
        decode_file(tmp_path / "gone.png", 8)


def test_bytes_decode_as_their_file_and_errors_have_the_given_name(tmp_path: Path) -> None:
    half_red(tmp_path / "x.jpg", b"\x01")
    content = (tmp_path / "x.jpg").read_bytes()
    assert np.array_equal(decode_bytes(content, 32, "member"), decode_file(tmp_path / "x.jpg", 32))
    with pytest.raises(UnreadableImage, match=r"^archive/member: empty file$"):
        decode_bytes(b"", 32, "archive/member")


def test_a_header_that_gives_too_many_pixels(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "x.png")
    content = bytearray((tmp_path / "x.png").read_bytes())
    content[16:24] = (2**31 - 1).to_bytes(4) * 2  # IHDR's width and height
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4)
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(UnreadableImage, match="more than 268,435,456 pixels"):
        decode_file(tmp_path / "x.png", 8)
