"""Damaged image files of every kind that Pillow writes, from a fixed seed."""

from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

PLAIN = ("png", "gif", "tiff", "bmp", "ppm", "ico", "icns", "dds", "pcx", "sgi", "jpeg2000", "im", "qoi", "mpo")
KINDS: tuple[tuple[str, dict[str, Any]], ...] = (
    *((kind, {}) for kind in PLAIN),
    *(("png", {"bits": 16}), ("tga", {"compression": "tga_rle"}), ("dds", {"pixel_format": "DXT1"})),
    *(("jpeg", {"quality": 90}), ("jpeg", {"progressive": True}), ("avif", {"speed": 10})),
    *(("webp", {"lossless": True}), ("webp", {"quality": 60})),
    *(("tiff", {"compression": kind}) for kind in ("tiff_lzw", "jpeg", "tiff_deflate")),
)


def image_files() -> list[tuple[str, bytes]]:
    """Returns the name and content of an intact file of each kind."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8))
    image = coarse.resize((64, 48), Image.Resampling.BICUBIC)
    files = []
    for kind, options in KINDS:
        content, arguments = BytesIO(), dict(options)
        grey = Image.fromarray(np.asarray(image)[..., 0].astype(np.uint16) * 257)
        (grey if arguments.pop("bits", 8) == 16 else image).save(content, kind, **arguments)
        files.append((kind, content.getvalue()))
    return files


def mutants(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """Yields files of each kind in turn, damaged in one of five ways; half of the damage is in the first 200 bytes."""
    random, files = np.random.default_rng(seed), image_files()
    for number in range(count):
        kind, content = files[number % len(files)]
        damaged = bytearray(content)
        end = min(200, len(damaged)) if random.random() < 0.5 else len(damaged)
        position, way = int(random.integers(0, end)), int(random.integers(0, 5))
        if way == 0:
            damaged[position] ^= 1 << int(random.integers(0, 8))
        elif way == 1:
            damaged[position : position + 4] = random.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"])
        elif way == 2:
            del damaged[position:]
        elif way == 3:
            del damaged[position : position + int(random.integers(1, 9))]
        else:
            damaged[position : position + 8] = random.bytes(8)
        yield f"{kind} {number}", bytes(damaged)
