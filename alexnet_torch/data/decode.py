"""An image file of any kind becomes a square of RGB."""

import struct
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image, UnidentifiedImageError

VERSION = 3
"""Of the pixels that `decode_file` makes: raised when they change, so that caches are built anew."""

JPEG_MARGIN = 1.5
"""How many times `side` a JPEG's scaled decoding leaves, for our own resize to do the filtering.

With 1.5 the square's pixels stay well within a grey level of full decoding's, on average; with 1, only just
(benchmarks/results/input.md).
"""


def decoded_side(image_size: int) -> int:
    """Returns the side of the decoded squares for crops of a size: 256 for the paper's 224, and for Caffe's 227."""
    return 256 if image_size == 227 else round(image_size * 256 / 224)


class UnreadableImage(Exception):
    """A file that cannot be read as an image; the message names it and says why."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.reason = reason


def decode_file(path: Path, side: int) -> np.ndarray:
    """The central square of an image, its shorter side scaled to `side` (paper, section 2).

    CMYK, grey, palette, 16-bit and transparent (over white) images become RGB; EXIF's rotation is
    applied.

    Args:
        path: of the image file, whatever its name's ending says.
        side: of the square, in pixels.

    Returns:
        (side, side, 3) uint8.

    Raises:
        UnreadableImage: the file is no image, is truncated, or has pixels without a defined range.
    """
    try:
        # Pillow would read the file a piece at a time, and start the decoder anew for each
        with Image.open(BytesIO(path.read_bytes())) as image:
            # a JPEG decodes at 1/2, 1/4 or 1/8 of its size for less
            image.draft(None, (int(JPEG_MARGIN * side), int(JPEG_MARGIN * side)))
            image.load()
            return _resized(_rgb(_square(_upright(image)), path), side)
    except UnidentifiedImageError as error:
        reason = "empty file" if path.stat().st_size == 0 else "not an image of a known kind"
        raise UnreadableImage(path, reason) from error
    except (MemoryError, OverflowError) as error:  # what a broken header asks for
        raise UnreadableImage(path, "its header gives a size beyond memory") from error
    except (OSError, SyntaxError, ValueError, struct.error, EOFError) as error:
        # strerror is the system's reason without the path, which the message has already
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UnreadableImage(path, reason.splitlines()[0]) from error


# Pillow's limit is for files from strangers; a set of images is the user's own.
Image.MAX_IMAGE_PIXELS = None
# Pillow's warnings repeat for each file; not within `decode_file`, for catch_warnings is not safe in threads
warnings.filterwarnings("ignore", module=r"PIL\.")


UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each of EXIF's orientations; 1 is upright."""


def _upright(image: Image.Image) -> Image.Image:
    # ImageOps.exif_transpose writes all tags anew, and fails where another than the orientation is broken
    try:
        method = UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except (SyntaxError, ValueError, TypeError, KeyError, AttributeError, struct.error, OSError):
        return image  # broken EXIF, a known trap in ILSVRC-2012: the pixels are all right
    return image if method is None else image.transpose(method)


def _rgb(image: Image.Image, path: Path) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode == "F":
        raise UnreadableImage(path, "floating-point pixels have no defined range")
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
    # before the resize, not after: a 1 x 100000 image scaled whole would be 256 x 25,600,000
    short = min(image.size)
    left, top = (image.width - short) // 2, (image.height - short) // 2
    return image.crop((left, top, left + short, top + short))


def _resized(image: Image.Image, side: int) -> np.ndarray:
    # with an unused fourth channel, as Pillow stores it and torch resizes it: either would pack or unpack three
    content = bytearray(image.tobytes("raw", "RGBX"))
    pixels = torch.frombuffer(content, dtype=torch.uint8).view(1, image.height, image.width, 4)
    # bicubic is what Pillow, Caffe's tools and the 2012 source's ImageMagick lean to; with antialias it widens
    # its support when scaling down. torch's is Pillow's to a hundredth of a grey level, in a third of the time
    scaled = F.interpolate(pixels.permute(0, 3, 1, 2), (side, side), mode="bicubic", antialias=True)
    out = np.empty((side, side, 3), np.uint8)
    for channel in range(3):  # three of four at once would be copied three bytes at a time
        out[..., channel] = scaled[0, channel].numpy()
    return out
