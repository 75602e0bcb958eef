"""The memory map of decoded images: batches of crops are copied out of it without the GIL."""

import contextlib
import ctypes
import functools
import mmap
import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_torch.data.augment import Crops
from alexnet_torch.errors import UserError
from alexnet_torch.native import load_compiled

DAMAGED = "damaged.txt"
"""The file that tells the next start to decode the images again."""

_DONE, _UNREADABLE = -1, -2  # results of gather.cpp's `gather`, besides the position of a damaged image


class ImageMap:
    """Decoded images in a file, (n, side, side, 3) uint8, that several threads may read.

    Each is compared with its checksum, (n,) uint64, when it is first read; after damage, the next start decodes all
    again if `is_cache`. Raises ValueError if the file has another size.
    """

    def __init__(self, path: Path, side: int, checksums: np.ndarray, is_cache: bool = True) -> None:
        self.path, self.side, self._is_cache = path, side, is_cache
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        size, expected = os.fstat(self._file).st_size, len(checksums) * side * side * 3
        if size != expected:
            raise ValueError(f"{path.name} has {size:,} bytes, not {expected:,}")
        content = mmap.mmap(self._file, 0, access=mmap.ACCESS_READ)
        self.pixels = np.frombuffer(content, np.uint8).reshape(-1, side, side, 3)
        self._checksums, self._checked = checksums, np.zeros(len(checksums), np.uint8)
        # pages that were read once stay in memory, unless there are too many
        self._exceeds_memory = size > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, rows: np.ndarray, crops: Crops, out: np.ndarray) -> None:
        """Copies the crops of the images at `rows`, (n,) int64, to `out`, (n, size, size, 3) uint8, contiguous."""
        end = self.side - out.shape[1] + 1
        for values, limit in ((rows, len(self)), (crops.top, end), (crops.left, end)):
            if len(values) and not (values.min() >= 0 and values.max() < limit):
                raise IndexError(f"{self.path}: {values.min()}..{values.max()} are not all in 0..{limit - 1}")
        library = load_native()
        if library is None:
            damaged = self._read_by_numpy(rows, crops, out)
        else:
            damaged = self._call(library.gather, rows, crops, out.shape[1], out)
        if damaged == _DONE:
            return
        what = "cannot be read any more: it was truncated, or its disk fails"
        if damaged != _UNREADABLE:
            what = f"image {rows[damaged]} is damaged: its checksum is wrong"
        fix = "copy the prepared map again"
        if self._is_cache:
            fix = "the next start decodes the images again; continue a run with --resume"
            with contextlib.suppress(OSError):  # a full disk: the next start meets the damage again
                (self.path.parent / DAMAGED).write_text(f"{self.path.name}: {what}")
        raise UserError(f"{self.path}: {what}; {fix}")

    def read_ahead(self, rows: np.ndarray, crops: Crops, size: int) -> None:
        """Asks the system for what `read` will copy, without waiting."""
        library = load_native()
        if library is not None and (self._exceeds_memory or not self._checked[rows].all()):
            self._call(library.read_ahead, rows, crops, size)

    def _call(self, function: Any, rows: np.ndarray, crops: Crops, size: int, *out: np.ndarray) -> int:
        positions = [np.asarray(values, np.int64, "C") for values in (rows, crops.top, crops.left)]
        mirrored = np.asarray(crops.mirrored, np.uint8, "C")
        checks = self._checksums, checksum_factors(self.side), self._checked
        arrays = (self.pixels, *checks, *positions, mirrored, *out)
        pointers = (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))
        return int(function(self.side, len(rows), size, pointers))

    def _read_by_numpy(self, rows: np.ndarray, crops: Crops, out: np.ndarray) -> int:
        size, image = out.shape[1], np.empty((self.side, self.side, 3), np.uint8)
        for i, row in enumerate(rows):
            # not from the map: beyond the end of a truncated file that would end the process
            if os.preadv(self._file, [image.data], int(row) * image.nbytes) != image.nbytes:
                return _UNREADABLE
            if not self._checked[row]:
                if checksum(image) != self._checksums[row]:
                    return i
                self._checked[row] = 1
            crop = image[crops.top[i] : crops.top[i] + size, crops.left[i] : crops.left[i] + size]
            out[i] = crop[:, ::-1] if crops.mirrored[i] else crop
        return _DONE


@functools.cache
def checksum_factors(side: int) -> np.ndarray:
    """Returns factors of an image's four-byte words, uint32: upper halves of SplitMix64's numbers (2014), made odd."""
    with np.errstate(over="ignore"):
        x = np.arange(1, -(-side * side * 3 // 4) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return (x >> np.uint64(32)).astype(np.uint32) | np.uint32(1)


def checksum(image: np.ndarray) -> int:
    """Returns the sum of an image's little-endian words, each times its factor, mod 2^64.

    Damage within one word is always noticed, other damage but for 2^-32. A CRC takes ten times as long.
    """
    library, factors = load_native(), checksum_factors(len(image))
    if library is not None:
        return int(library.checksum(image.ctypes.data, factors.ctypes.data, image.nbytes))
    content = np.zeros(4 * len(factors), np.uint8)
    content[: image.size] = image.reshape(-1)
    return int(content.view("<u4").astype(np.uint64) @ factors.astype(np.uint64))


@functools.cache
def load_native() -> ctypes.CDLL | None:
    library = load_compiled(Path(__file__).parent / "native" / "gather.cpp", "the reader of crops is")
    if library is not None:
        for function in (library.gather, library.read_ahead):
            function.restype, function.argtypes = ctypes.c_int64, (*(ctypes.c_int64,) * 3, ctypes.c_void_p)
        library.checksum.restype = ctypes.c_uint64
        library.checksum.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    return library
