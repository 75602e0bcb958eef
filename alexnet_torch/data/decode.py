"""Image files of any kind are decoded to RGB squares."""

import ctypes
import functools
import logging
import stat
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, TiffImageFile

VERSION = 5
"""Raised when the decoded pixels change, so that caches are built again."""

JPEG_MARGIN = 1.5
"""A JPEG is decoded at a reduced scale to at least this many times `side`; our own resize then filters.

The mean difference from full decoding is well below a grey level: benchmarks/results/input.md.
"""

MAX_BYTES = 1 << 30  # of an image file
MAX_PIXELS = 1 << 28  # of an image: about a gigabyte
LARGE_PIXELS = 1 << 25  # more are reduced before the resize, which copies
SUBFILE_TYPE, PREVIEW = 254, 1  # a tag of TIFF

Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow refuses twice as many, and warns in between
# its warnings repeat without the file's name; catch_warnings is not safe in threads
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())

_METHODS = "FLIP_LEFT_RIGHT ROTATE_180 FLIP_TOP_BOTTOM TRANSPOSE ROTATE_270 TRANSVERSE ROTATE_90"
UPRIGHT = dict(enumerate(_METHODS.split(), 2))
"""The transposition that undoes each of EXIF's orientations; 1 is upright."""


class UnreadableImage(Exception):
    """A file cannot be read as an image."""

    def __init__(self, name: Path | str, reason: str) -> None:
        super().__init__(name, reason)  # as it was called, for pickle
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def decoded_side(image_size: int) -> int:
    """Returns the side of the squares for crops: 256 for the paper's 224 and Caffe's 227."""
    return 256 if image_size == 227 else round(image_size * 256 / 224)


def reason_of(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a known kind"
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {MAX_PIXELS:,} pixels; make it smaller"
    if isinstance(error, MemoryError | OverflowError):
        return "its header gives a size beyond memory"
    text = (getattr(error, "strerror", None) or str(error)).partition("\n")[0]
    if text and isinstance(error, OSError | SyntaxError | ValueError | RuntimeError):
        return text
    return f"damaged ({type(error).__name__}: {text})"


def read_bounded(path: Path) -> bytes:
    """Returns a file's content; raises OSError if it is huge, or no file: a pipe would be read for ever."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError("not a file")
    require_small(status.st_size)
    return path.read_bytes()  # Pillow would restart the decoder for each piece


def require_small(size: int) -> None:
    if size > MAX_BYTES:
        raise OSError(f"it has {size / 1e9:.1f} GB, more than {MAX_BYTES / 1e9:.1f}; make it smaller")


def image_size(content: bytes) -> tuple[int, int] | None:
    """Returns an image's width and height by its header; None if it cannot be read."""
    try:
        with Image.open(BytesIO(content)) as image:
            return image.size
    except Exception:  # as `decode_bytes`
        return None


def decode_file(path: Path, side: int) -> np.ndarray:
    try:
        content = read_bounded(path)
    except (OSError, MemoryError) as error:
        raise UnreadableImage(path, reason_of(error)) from error
    return decode_bytes(content, side, path)


def decode_bytes(content: bytes, side: int, name: Path | str) -> np.ndarray:
    """Returns the central square of an image file, its shorter side scaled to `side` (paper, section 2).

    CMYK, grey, palette, 16-bit and transparent (over white) images become RGB; EXIF's rotation is applied. Takes a
    gigabyte at most for RGB. Returns (side, side, 3) uint8; raises UnreadableImage with `name`.
    """
    if not content:
        raise UnreadableImage(name, "empty file")
    try:
        with _opened(content) as image:
            if isinstance(image, TiffImageFile):
                _silence_libtiff()
            _seek_content(image)
            # a JPEG decodes at 1/2, 1/4 or 1/8 of its size faster
            image.draft(None, (int(JPEG_MARGIN * side), int(JPEG_MARGIN * side)))
            square = _rgb_square(image, side)
    except Exception as error:  # Pillow's decoders raise almost any
        raise UnreadableImage(name, reason_of(error)) from error
    return _resized(square, side)


def _opened(content: bytes) -> Image.Image:
    try:
        return Image.open(BytesIO(content))
    except UnidentifiedImageError:
        if content[4:8] != b"ftyp":
            raise
        try:
            import pillow_heif  # type: ignore[import-not-found, unused-ignore]
        except ImportError:
            raise ValueError("in HEIC, or a film; pip install pillow-heif, or convert it to JPEG") from None
        pillow_heif.register_heif_opener()
        return Image.open(BytesIO(content))


def decode_image(image: Image.Image, side: int) -> np.ndarray:
    """Decodes an open Pillow image as `decode_bytes` does, to a few grey levels if it is a loaded JPEG."""
    name = getattr(image, "filename", "") or "image"
    if isinstance(image, JpegImageFile) and image.tile and image.fp is not None:  # Pillow has read its header only;
        # draft() would change the caller's image
        position = image.fp.tell()
        image.fp.seek(0)
        content = image.fp.read()
        image.fp.seek(position)
        return decode_bytes(content, side, name)
    try:
        return _resized(_rgb_square(image, side), side)
    except ValueError as error:
        raise UnreadableImage(name, str(error)) from error


def _rgb_square(image: Image.Image, side: int) -> Image.Image:
    """Returns the central square in RGB, upright, reduced if large; refuses pixels of no known range."""
    # of colours of 16 bits, Pillow loads 8
    has_16_bits = any(";16" in str(tile.args) for tile in getattr(image, "tile", ()))
    image.load()
    tags: Any = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    if tags.get(SUBFILE_TYPE) == PREVIEW:
        raise ValueError("a raw photograph, whose first page is a preview; convert it to JPEG")
    is_wide = image.mode.startswith(("I", "F"))
    if (is_wide or has_16_bits) and image.format not in ("PPM", "JPEG2000"):  # Pillow scales those
        extrema: Any = image.getextrema()
        bands: Any = [extrema] if is_wide else extrema[: 1 if image.mode == "LA" else 3]
        largest = max(high for _, high in bands)  # a camera's 12 bits would be nearly black
        is_dark = 0 < largest <= 4095 if is_wide else largest <= 15
        if is_dark or image.mode in ("I", "F") or tags.get(BITSPERSAMPLE, (16,))[0] < 16:
            raise ValueError("its white is not known: it has 32 bits, or uses 12 or less of 16; convert it to 8 bits")
    if image.format in ("BMP", "TGA") and image.mode == "RGBA" and not image.getchannel(3).getbbox():
        image = image.convert("RGB")  # the fourth byte is not used
    negative = is_wide and tags.get(PHOTOMETRIC_INTERPRETATION) == 0  # Pillow inverts those of 8 bits itself
    # ImageOps.exif_transpose rewrites all tags, and fails if any other tag is broken
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # broken EXIF, a known trap in ILSVRC-2012: the pixels are good
        orientation = 1
    # cut out before the resize, by which 1 x 100,000 pixels would become 256 x 25,600,000, and before it is turned:
    # halves are rounded as in the upright image
    short = min(image.size)
    left = (image.width - short + (orientation in (2, 3, 7, 8))) // 2  # turning reverses the columns
    top = (image.height - short + (orientation in (3, 4, 6, 7))) // 2
    # at least twice `side` are left, so that the resize decides the result; reduce() is exact for these factors
    factors = (1, 2, 4, 8, 16) if image.width * image.height > LARGE_PIXELS else (1,)
    factor = max(each for each in factors if each == 1 or short >= 2 * side * each)
    size = short // factor * factor
    box = (left, top, left + size, top + size)
    square = _to_rgb(image, negative).reduce(factor, box) if factor > 1 else _to_rgb(image.crop(box), negative)
    method = UPRIGHT.get(orientation)
    return square.transpose(Image.Transpose[method]) if method else square


def _seek_content(image: Image.Image) -> None:
    """Goes to the first frame of a GIF that is not of one colour; refuses a TIFF whose second page is as large."""
    frames = getattr(image, "n_frames", 1) if image.format in ("GIF", "TIFF") else 1
    for frame in range(frames if image.format == "GIF" and frames > 1 else 0):
        image.seek(frame)
        if any(low < high for low, high in _to_rgb(image, False).getextrema()):  # type: ignore[misc]
            break
    if frames > 1 and image.format == "TIFF":
        first = image.size
        image.seek(1)
        if image.size == first:
            raise ValueError(f"a stack of {frames} pages; save the one that is meant")
        image.seek(0)


def _to_rgb(image: Image.Image, negative: bool) -> Image.Image:
    """Transparent pixels are over white."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):  # convert() would clip 0..65535 to 0..255
        values = np.asarray(image).astype(np.int32).clip(0, 65535)
        values = 65535 - values if negative else values
        return Image.fromarray(((values * 510 + 65535) // (2 * 65535)).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _resized(image: Image.Image, side: int) -> np.ndarray:
    # four channels, as Pillow stores and torch resizes them
    content = bytearray(image.tobytes("raw", "RGBX"))
    pixels = torch.frombuffer(content, dtype=torch.uint8).view(1, image.height, image.width, 4)
    # bicubic as Caffe's tools and the 2012 source's ImageMagick; torch takes a third of Pillow's time for its result
    scaled = F.interpolate(pixels.permute(0, 3, 1, 2), (side, side), mode="bicubic", antialias=True)
    out = np.empty((side, side, 3), np.uint8)
    for channel in range(3):  # all at once take longer
        out[..., channel] = scaled[0, channel].numpy()
    return out


@functools.cache
def _silence_libtiff() -> None:
    lines = Path("/proc/self/maps").read_text().splitlines()
    for path in {line.split(maxsplit=5)[-1] for line in lines if "libtiff" in line}:
        library = ctypes.CDLL(path)  # the one that Pillow loaded
        library.TIFFSetErrorHandler(None)
        library.TIFFSetWarningHandler(None)
