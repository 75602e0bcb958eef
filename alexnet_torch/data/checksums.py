"""Checksums of decoded images, by which a damaged memory map is noticed."""

import functools

import numpy as np


@functools.cache
def checksum_factors(side: int) -> np.ndarray:
    """Returns the factors of an image's four-byte words, (ceil(side * side * 3 / 4),) uint32: always the same ones.

    They are the upper halves of the numbers of SplitMix64 (Steele, Lea and Flood, 2014) from seed 0, made odd.
    """
    with np.errstate(over="ignore"):
        x = np.arange(1, -(-side * side * 3 // 4) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return (x >> np.uint64(32)).astype(np.uint32) | np.uint32(1)


def image_checksum(image: np.ndarray, factors: np.ndarray) -> int:
    """Returns the sum of an image's four-byte words (little-endian), each times its factor, modulo 2^64.

    Any damage within one word is noticed, since the factors are odd and the products shorter than 64 bits; other
    damage with a probability of all but 2^-32. A CRC has no such factors to read, but NumPy cannot compute it, and
    zlib takes ten times as long.

    Args:
        image: (side, side, 3) uint8, contiguous.
        factors: from `checksum_factors`.
    """
    content = np.zeros(4 * len(factors), np.uint8)
    content[: image.size] = image.reshape(-1)
    return int(content.view("<u4").astype(np.uint64) @ factors.astype(np.uint64))
