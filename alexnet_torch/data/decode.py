"""Image files of any kind are decoded to RGB squares."""

import struct
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

VERSION = 3
"""Version of the decoded pixels: raised when they change, so that caches are built again."""

JPEG_MARGIN = 1.5
"""A JPEG is decoded at a reduced scale to at least this many times `side`; our own resize then filters.

The mean difference from full decoding is then well below a grey level; with 1, just below: benchmarks/results/input.md.
"""

# Pillow's limit is for files from strangers; a set of images is the user's own.
Image.MAX_IMAGE_PIXELS = None
# Pillow's warnings repeat for each file; not within `decode_bytes`: catch_warnings is not safe in threads
warnings.filterwarnings("ignore", module=r"PIL\.")


def decoded_side(image_size: int) -> int:
    """Returns the side of the decoded squares for crops of a size: 256 for the paper's 224, and for Caffe's 227."""
    return 256 if image_size == 227 else round(image_size * 256 / 224)


class UnreadableImage(Exception):
    """A file cannot be read as an image; the message names the file and the reason."""

    def __init__(self, name: Path | str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.reason = reason


def decode_file(path: Path, side: int) -> np.ndarray:
    """Reads and decodes an image file; arguments and errors as for `decode_bytes`."""
    try:
        # Pillow would read the file in pieces, and start the decoder again for each
        content = path.read_bytes()
    except (OSError, MemoryError) as error:
        raise UnreadableImage(path, _reason(error)) from error
    return decode_bytes(content, side, path)


def decode_bytes(content: bytes, side: int, name: Path | str) -> np.ndarray:
    """Decodes the central square of an image, its shorter side scaled to `side` (paper, section 2).

    CMYK, grey, palette, 16-bit and transparent (over white) images become RGB; EXIF's rotation is
    applied.

    Args:
        content: an image file's, in any format.
        side: side of the square, in pixels.
        name: the file's, for the error message; its suffix does not matter.

    Returns:
        (side, side, 3) uint8.

    Raises:
        UnreadableImage: the content is no image, is truncated, or has pixels without a defined range.
    """
    try:
        with Image.open(BytesIO(content)) as image:
            # a JPEG decodes at 1/2, 1/4 or 1/8 of its size in less time
            image.draft(None, (int(JPEG_MARGIN * side), int(JPEG_MARGIN * side)))
            image.load()
            return _resized(_rgb(_square(_upright(image)), name), side)
    except UnidentifiedImageError as error:
        reason = "not an image of a known kind" if content else "empty file"
        raise UnreadableImage(name, reason) from error
    except (MemoryError, OverflowError) as error:  # a broken header asks for too much
        raise UnreadableImage(name, "its header gives a size beyond memory") from error
    except (OSError, SyntaxError, ValueError, struct.error, EOFError) as error:
        raise UnreadableImage(name, _reason(error)) from error


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
    return _resized(_rgb(_square(_upright(image)), name), side)


def _reason(error: BaseException) -> str:
    """Returns the first line of an error's text, without the path: the message has it already."""
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]


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


def _upright(image: Image.Image) -> Image.Image:
    # ImageOps.exif_transpose rewrites all tags, and fails if any other tag is broken
    try:
        method = UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except (SyntaxError, ValueError, TypeError, KeyError, AttributeError, struct.error, OSError):
        return image  # broken EXIF, a known trap in ILSVRC-2012: the pixels are good
    return image if method is None else image.transpose(method)


def _rgb(image: Image.Image, name: Path | str) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode == "F":
        raise UnreadableImage(name, "floating-point pixels have no defined range")
    if image.mode == "I" or image.mode.startswith("I;16"):
        # convert() would clip 0..65535 to 0..255
        values = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


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
