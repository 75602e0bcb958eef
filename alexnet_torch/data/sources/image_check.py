"""Tells image files from other files: by their content, unless the name says it."""

import struct
from io import BytesIO
from pathlib import Path

from PIL import Image

from alexnet_torch.errors import UserError

# what torchvision's ImageFolder takes, and the other names of formats that Pillow decodes
EXTENSIONS = frozenset(
    (
        *("jpg", "jpeg", "png", "ppm", "bmp", "pgm", "tif", "tiff", "webp"),
        *("jpe", "jfif", "gif", "avif", "jp2", "j2k", "jpx", "apng", "dib", "pbm", "pnm", "tga"),
    )
)
"""Files with these suffixes, in any case, are images without a look; decoding reports one that is none."""

NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
"""Pillow recognises these, but does not decode them, or starts another program for it."""
NO_SIGNATURE = {"TGA"}
"""Any bytes may look like these, so that only the suffix says it."""


def is_image_content(path: Path | BytesIO) -> bool:
    """Returns whether Pillow recognises a file's first bytes as an image that it decodes.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with Image.open(path) as image:
            return image.format not in NOT_DECODED | NO_SIGNATURE
    except Image.DecompressionBombError:
        return True  # decoding refuses it by name
    except PermissionError as error:
        raise UserError(f"{path}: no permission to read it; change its permissions") from error
    except (OSError, ValueError, SyntaxError, TypeError, RuntimeError, EOFError, OverflowError, struct.error):
        return False  # each plugin has its own error for what is no image
    except (MemoryError, IndexError, KeyError, ZeroDivisionError, AssertionError):
        return False
