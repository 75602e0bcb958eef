"""Image files of any kind are decoded to RGB squares."""

import logging
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from alexnet_torch.data.decode_limits import (
    LARGE_PIXELS,
    MAX_PIXELS,
    read_bounded,
    reduced_in_bands,
    require_bounded,
    silence_libtiff,
)
from alexnet_torch.data.pixel_ranges import PixelRange, UnknownRange, has_16_bits, pixel_range

VERSION = 3
"""Version of the decoded pixels: raised when they change, so that caches are built again."""

JPEG_MARGIN = 1.5
"""A JPEG is decoded at a reduced scale to at least this many times `side`; our own resize then filters.

The mean difference from full decoding is then well below a grey level; with 1, just below: benchmarks/results/input.md.
"""

# Pillow's warnings repeat for each file; not within `decode_bytes`: catch_warnings is not safe in threads
warnings.filterwarnings("ignore", module=r"PIL\.")
# else Python prints its messages on stderr, without the file's name, where a program configures no logging
logging.getLogger("PIL").addHandler(logging.NullHandler())


def decoded_side(image_size: int) -> int:
    """Returns the side of the decoded squares for crops of a size: 256 for the paper's 224, and for Caffe's 227."""
    return 256 if image_size == 227 else round(image_size * 256 / 224)


class UnreadableImage(Exception):
    """A file cannot be read as an image; the message names the file and the reason."""

    def __init__(self, name: Path | str, reason: str) -> None:
        super().__init__(name, reason)  # as it was called, for pickle
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def image_size(content: bytes) -> tuple[int, int] | None:
    """Returns an image file's width and height without decoding it; None if it cannot be read."""
    try:
        with Image.open(BytesIO(content)) as image:
            return image.size
    except Exception:  # of a damaged file, Pillow's decoders raise almost any exception
        return None


def decode_file(path: Path, side: int) -> np.ndarray:
    """Reads and decodes an image file; arguments and errors as for `decode_bytes`."""
    try:
        content = read_bounded(path)
    except (OSError, MemoryError) as error:
        raise UnreadableImage(path, _reason(error)) from error
    return decode_bytes(content, side, path)


def decode_bytes(content: bytes, side: int, name: Path | str) -> np.ndarray:
    """Decodes the central square of an image, its shorter side scaled to `side` (paper, section 2).

    CMYK, grey, palette, 16-bit and transparent (over white) images become RGB; EXIF's rotation is
    applied. Decoding takes about a gigabyte at most.

    Args:
        content: an image file's, in any format.
        side: side of the square, in pixels.
        name: the file's, for the error message; its suffix does not matter.

    Returns:
        (side, side, 3) uint8.

    Raises:
        UnreadableImage: the content is no image, is truncated, is too large, or has pixels without a defined range.
    """
    try:
        square = _decoded_square(content, side)
    except UnidentifiedImageError as error:
        reason = "not an image of a known kind" if content else "empty file"
        raise UnreadableImage(name, reason) from error
    except Image.DecompressionBombError as error:
        raise UnreadableImage(name, f"it has more than {MAX_PIXELS:,} pixels; make it smaller") from error
    except (MemoryError, OverflowError) as error:  # a broken header asks for too much
        raise UnreadableImage(name, "its header gives a size beyond memory") from error
    except Exception as error:  # of a damaged file, Pillow's decoders raise almost any exception
        raise UnreadableImage(name, _reason(error)) from error
    return _resized(square, side)


def _decoded_square(content: bytes, side: int) -> Image.Image:
    """Returns the central square in RGB, upright; Pillow decides which exceptions it raises."""
    with Image.open(BytesIO(content)) as image:
        if image.format == "TIFF":
            silence_libtiff()
        # a JPEG decodes at 1/2, 1/4 or 1/8 of its size in less time
        image.draft(None, (int(JPEG_MARGIN * side), int(JPEG_MARGIN * side)))
        require_bounded(image, content)
        sixteen_bits = has_16_bits(image)
        image.load()
        return _rgb_square(image, side, pixel_range(image, sixteen_bits))


def _rgb_square(image: Image.Image, side: int, pixels: PixelRange) -> Image.Image:
    """Returns the central square of a loaded image in RGB, upright; reduced in size if it is large."""
    if image.width * image.height > LARGE_PIXELS:
        return _upright(reduced_in_bands(image, side, pixels.to_rgb), image)
    return pixels.to_rgb(_square(_upright(image, image)))


def decode_image(image: Image.Image, side: int) -> np.ndarray:
    """Decodes an open Pillow image as `decode_bytes` does; the image itself does not change.

    A JPEG that Pillow has not loaded yet gives the pixels of `decode_bytes`. A loaded one has its full size, which
    changes the result by a few grey levels: see JPEG_MARGIN.

    Raises:
        UnreadableImage: as for `decode_bytes`.
        OSError: the image's file is truncated or closed.
    """
    name = getattr(image, "filename", "") or "image"
    if isinstance(image, JpegImageFile) and image.tile and image.fp is not None:  # Pillow has read its header only
        # draft() would change the caller's image, so that a second call would see a smaller one
        position = image.fp.tell()
        image.fp.seek(0)
        content = image.fp.read()
        image.fp.seek(position)
        return decode_bytes(content, side, name)
    try:
        square = _rgb_square(image, side, pixel_range(image, has_16_bits(image)))
    except UnknownRange as error:
        raise UnreadableImage(name, str(error)) from error
    return _resized(square, side)


def _reason(error: BaseException) -> str:
    """Returns the first line of an error's text, without the path: the message has it already."""
    text = (getattr(error, "strerror", None) or str(error)).partition("\n")[0]
    # an index or a key that is missing tells nothing by itself
    told = isinstance(error, (OSError, SyntaxError, ValueError, RuntimeError, UnknownRange))
    return text if told and text else f"damaged ({type(error).__name__}: {text})"


UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that undoes each of EXIF's orientations; 1 is upright."""


def _upright(image: Image.Image, file: Image.Image) -> Image.Image:
    """Returns an image turned and mirrored as the EXIF of its file says."""
    # ImageOps.exif_transpose rewrites all tags, and fails if any other tag is broken
    try:
        method = UPRIGHT.get(file.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # of almost any kind, since Pillow reads the tags without a check
        return image  # broken EXIF, a known trap in ILSVRC-2012: the pixels are good
    return image if method is None else image.transpose(method)


def _square(image: Image.Image) -> Image.Image:
    # before the resize, not after: a 1 x 100,000 image would be scaled to 256 x 25,600,000
    short = min(image.size)
    left, top = (image.width - short) // 2, (image.height - short) // 2
    return image.crop((left, top, left + short, top + short))


def _resized(image: Image.Image, side: int) -> np.ndarray:
    # with an unused fourth channel, as Pillow stores it and torch resizes it: with three, both would convert
    content = bytearray(image.tobytes("raw", "RGBX"))
    pixels = torch.frombuffer(content, dtype=torch.uint8).view(1, image.height, image.width, 4)
    # Pillow, Caffe's tools and the 2012 source's ImageMagick favour bicubic; with antialias its support widens
    # when scaling down. torch's result is Pillow's to a hundredth of a grey level, in a third of the time
    scaled = F.interpolate(pixels.permute(0, 3, 1, 2), (side, side), mode="bicubic", antialias=True)
    out = np.empty((side, side, 3), np.uint8)
    for channel in range(3):  # NumPy would copy three of four channels at once three bytes at a time
        out[..., channel] = scaled[0, channel].numpy()
    return out
