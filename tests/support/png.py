"""PNG files that Pillow does not write."""

import struct
import zlib

import numpy as np


def png(pixels: np.ndarray, width: int | None = None, height: int | None = None) -> bytes:
    """Returns a PNG of (height, width, channels) uint8 or uint16; its header may give another size."""
    rows, columns, channels = pixels.shape
    depth, colour = 8 * pixels.itemsize, {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width or columns, height or rows, depth, colour, 0, 0, 0)
    big_endian = pixels.astype(pixels.dtype.newbyteorder(">")).reshape(rows, -1)
    content = b"".join(b"\0" + row.tobytes() for row in big_endian)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(content, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
