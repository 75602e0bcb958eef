"""Bounds on the memory that decoding takes, known before a pixel is decoded; and large images, reduced in bands."""

import ctypes
import functools
import stat
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import ROWSPERSTRIP, TILELENGTH, TILEWIDTH, TiffImageFile

MAX_BYTES = 1 << 30
"""The memory that decoding one image may take, and the size of its file: a worker on each core decodes at a time."""

MAX_PIXELS = MAX_BYTES // 2
"""Images of more pixels, 537 million, are refused whatever their kind."""

LARGE_PIXELS = 1 << 25
"""Images of more pixels, 33 million, are reduced before they are resized: other copies of them would take gigabytes."""

# peak bytes for each pixel that Pillow 13's decoders took for an RGB image of 40 million pixels; those of the second
# row are written in Python and collect the pixels in a buffer of their own
_DECODER_BYTES = {
    **{"WEBP": 16, "AVIF": 10, "JPEG2000": 20, "SGI": 6},
    **dict.fromkeys(("BLP", "DDS", "FITS", "FTEX", "MSP", "PCD", "QOI", "SPIDER", "XPM"), 8),
}
# Pillow stores pixels of two to four bytes in four
_MODE_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}

# Pillow refuses twice as many before it decodes, also in images within images, such as icons; it warns in between
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2


class TooLarge(OSError):
    """An image or a file is larger than the bounds; the message gives its size."""


def read_bounded(path: Path) -> bytes:
    """Returns a file's content.

    Raises:
        TooLarge: it has more than `MAX_BYTES`.
        OSError: it cannot be read, or is no file: reading a pipe would wait for ever.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError("not a file" if not stat.S_ISDIR(status.st_mode) else "is a folder")
    if status.st_size > MAX_BYTES:
        raise TooLarge(f"the file has {_gigabytes(status.st_size)}, more than {_gigabytes(MAX_BYTES)}; make it smaller")
    # Pillow would read the file in pieces, and start the decoder again for each
    return path.read_bytes()


def require_bounded(image: Image.Image, content: bytes) -> None:
    """Checks how much memory it takes to decode an open image that is not loaded yet.

    Args:
        image: after `draft`, which makes a JPEG smaller.
        content: its file's.

    Raises:
        TooLarge: it takes more than `MAX_BYTES`.
    """
    pixels = image.width * image.height
    needed = pixels * _DECODER_BYTES.get(image.format or "", _MODE_BYTES.get(image.mode, 4))
    if isinstance(image, JpegImageFile):
        needed = max(needed, _coefficient_bytes(image, content))
    if isinstance(image, TiffImageFile):
        needed = max(needed, _block_bytes(image))
    if needed > MAX_BYTES:
        raise TooLarge(
            f"decoding it takes {_gigabytes(needed)} of memory, more than {_gigabytes(MAX_BYTES)}; make it smaller"
        )


def _coefficient_bytes(image: JpegImageFile, content: bytes) -> int:
    """Returns the bytes of a JPEG's coefficients, two each, which libjpeg holds if there are several scans.

    It holds those of the full size, whatever the scale: draft() does not change them.
    """
    if not (image.info.get("progressive") or content.count(b"\xff\xda") > 1):  # the marker of a scan
        return 0
    # the header's, since draft() changed the image's own
    width, height = _jpeg_size(content) or image.size
    across, down = (max(layer[axis] for layer in image.layer) for axis in (1, 2))
    return sum(2 * width * height * layer[1] * layer[2] // max(1, across * down) for layer in image.layer)


def _jpeg_size(content: bytes) -> tuple[int, int] | None:
    """Returns width and height in a JPEG's frame header; None if there is none where it should be."""
    position = 2
    while position + 9 <= len(content) and content[position] == 0xFF:
        marker = content[position + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = content[position + 5 : position + 7], content[position + 7 : position + 9]
            return int.from_bytes(width), int.from_bytes(height)
        position += 1 if marker == 0xFF else 2 + int.from_bytes(content[position + 2 : position + 4])
    return None


def _block_bytes(image: TiffImageFile) -> int:
    """Returns the bytes of a TIFF's largest block, a tile or a strip, which libtiff decodes as a whole."""
    tags = image.tag_v2
    width, height = tags.get(TILEWIDTH, image.width), tags.get(TILELENGTH, min(tags.get(ROWSPERSTRIP, 1), image.height))
    return int(width) * int(height) * 8  # four channels of two bytes


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"


def reduced_in_bands(image: Image.Image, side: int, to_rgb: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Returns the central square of a large loaded image, in RGB, by means over squares of pixels.

    At least twice `side` pixels are left, so that the resize that follows decides the result, as for scaled JPEGs.
    A band at a time is converted: the memory is that of the image itself, and little more.
    """
    short = min(image.size)
    # reduce() is exact for powers of two up to 16, and then as fast as reading the pixels
    factor = max(factor for factor in (1, 2, 4, 8, 16) if factor == 1 or short >= 2 * side * factor)
    left, top, size = (image.width - short) // 2, (image.height - short) // 2, short // factor
    result, rows = (
        Image.new("RGB", (size, size)),
        max(1, (1 << 22) // (short * factor)),
    )  # four million pixels in a band
    for y in range(0, size, rows):
        box = (left, top + y * factor, left + size * factor, top + min(y + rows, size) * factor)
        result.paste(to_rgb(image.crop(box)).reduce(factor), (0, y))
    return result


@functools.cache
def silence_libtiff() -> None:
    """Stops libtiff from printing: it prints on stderr what Pillow also raises, without the file's name."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() else []
    for path in {line.split(maxsplit=5)[-1] for line in lines if "libtiff" in line}:
        library = ctypes.CDLL(path)  # the one that Pillow loaded
        library.TIFFSetErrorHandler(None)
        library.TIFFSetWarningHandler(None)
