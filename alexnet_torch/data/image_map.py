"""The memory map of a split's decoded images: crops are copied out of it a batch at a time, without the GIL."""

import ctypes
import functools
import mmap
import os
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_torch.data.augment import Crops
from alexnet_torch.data.checksums import checksum_factors, image_checksum
from alexnet_torch.data.integrity import DAMAGED
from alexnet_torch.errors import UserError
from alexnet_torch.native import BUILD_ERRORS, build_failure, native_library

SOURCE = Path(__file__).parent / "native" / "gather.cpp"
_DONE, _UNREADABLE = -1, -2  # the results of `gather`, besides the position of a damaged image


class _Map(ctypes.Structure):
    """gather.cpp's structure of the same name."""

    _fields_ = (
        ("images", ctypes.c_void_p),
        ("side", ctypes.c_int64),
        ("sums", ctypes.c_void_p),
        ("factors", ctypes.c_void_p),
        ("checked", ctypes.c_void_p),
    )


class _Crops(ctypes.Structure):
    """gather.cpp's structure of the same name."""

    _fields_ = (
        ("n", ctypes.c_int64),
        ("size", ctypes.c_int64),
        ("rows", ctypes.c_void_p),
        ("top", ctypes.c_void_p),
        ("left", ctypes.c_void_p),
        ("mirrored", ctypes.c_void_p),
    )


class ImageMap:
    """Decoded images in a file, (n, side, side, 3) uint8. Several threads may read it at the same time.

    Args:
        path: the file.
        n: the number of images.
        side: height and width of an image, in pixels.
        checksums: of each image, (n,) uint64; each image is checked when it is read for the first time.
        is_cache: whether the next start builds the map again if it is marked as damaged.

    Raises:
        OSError: the file cannot be opened.
        ValueError: the file has another size.
    """

    def __init__(
        self, path: Path, n: int, side: int, checksums: np.ndarray | None = None, is_cache: bool = True
    ) -> None:
        self.path, self.side, self._is_cache = path, side, is_cache
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        if os.fstat(self._file).st_size != n * side * side * 3:
            raise ValueError(f"{path}: has the wrong size")
        content = mmap.mmap(self._file, 0, access=mmap.ACCESS_READ)
        self.pixels = np.frombuffer(content, np.uint8).reshape(n, side, side, 3)
        self._checksums, self._checked = checksums, np.zeros(n, np.uint8)
        self._factors = checksum_factors(side)
        # pages that were read once stay in memory, unless there are too many
        self._exceeds_memory = self.pixels.nbytes > _physical_memory() / 2

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Returns images as NumPy's indexing does, without a check."""
        return np.asarray(self.pixels[index])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.pixels, dtype=dtype, copy=copy)

    def read(self, rows: np.ndarray, crops: Crops, out: np.ndarray) -> None:
        """Copies crops of some images.

        Args:
            rows: (n,) int64, of the images in the map.
            crops: of these images, in the same order.
            out: (n, size, size, 3) uint8, contiguous.

        Raises:
            IndexError: a row or a crop is outside of the map.
            UserError: the file was damaged or truncated after it was made.
        """
        self._require_inside(rows, crops, out.shape[1])
        library = load_native()
        if library is None:
            damaged = self._read_by_numpy(rows, crops, out)
        else:
            images, positions, alive = self._arguments(rows, crops, out.shape[1])
            damaged = library.gather(images, positions, ctypes.c_void_p(out.ctypes.data))
            del alive
        if damaged == _UNREADABLE:
            raise self._damage("cannot be read any more: it was truncated, or its disk fails")
        if damaged != _DONE:
            raise self._damage(f"image {rows[damaged]} is damaged: its checksum is wrong")

    def _damage(self, what: str) -> UserError:
        """Marks the map's folder as damaged; returns the error."""
        fix = "copy the prepared map again"
        if self._is_cache:
            try:
                (self.path.parent / DAMAGED).write_text(f"{self.path.name}: {what}")
                fix = "the next start decodes the images again; continue a run with --resume"
            except OSError as error:
                fix = f"remove {self.path.parent}, which cannot be marked as damaged ({error.strerror})"
        return UserError(f"{self.path}: {what}; {fix}")

    def read_ahead(self, rows: np.ndarray, crops: Crops, size: int) -> None:
        """Asks the system to read what `read` will copy into memory, without waiting for it."""
        library = load_native()
        if library is not None and (self._exceeds_memory or not self._checked[rows].all()):
            images, positions, alive = self._arguments(rows, crops, size)
            library.read_ahead(images, positions)
            del alive

    def _require_inside(self, rows: np.ndarray, crops: Crops, size: int) -> None:
        for name, values, end in (
            ("row", rows, len(self)),
            ("top", crops.top, self.side - size + 1),
            ("left", crops.left, self.side - size + 1),
        ):
            if len(values) and not (values.min() >= 0 and values.max() < end):
                raise IndexError(f"{name}s of 0..{end - 1} are in {self.path}, not {values.min()}..{values.max()}")

    def _arguments(self, rows: np.ndarray, crops: Crops, size: int) -> tuple[Any, Any, list[np.ndarray]]:
        """Returns the structures for the library, and the arrays that must live as long as they are used."""
        alive: list[np.ndarray] = [np.asarray(values, np.int64, "C") for values in (rows, crops.top, crops.left)]
        alive.append(np.asarray(crops.mirrored, np.uint8, "C"))
        addresses = [array.ctypes.data for array in alive]
        sums = None if self._checksums is None else self._checksums.ctypes.data
        images = _Map(self.pixels.ctypes.data, self.side, sums, self._factors.ctypes.data, self._checked.ctypes.data)
        return ctypes.byref(images), ctypes.byref(_Crops(len(rows), size, *addresses)), alive

    def _read_by_numpy(self, rows: np.ndarray, crops: Crops, out: np.ndarray) -> int:
        """Copies crops as `gather` does, and returns the same."""
        size, image = out.shape[1], np.empty((self.side, self.side, 3), np.uint8)
        for i, row in enumerate(rows):
            # not from the map: reading beyond the end of a truncated file would end the process
            if os.preadv(self._file, [image.data], int(row) * image.nbytes) != image.nbytes:
                return _UNREADABLE
            if self._checksums is not None and not self._checked[row]:
                if image_checksum(image, self._factors) != self._checksums[row]:
                    return i
                self._checked[row] = 1
            crop = image[crops.top[i] : crops.top[i] + size, crops.left[i] : crops.left[i] + size]
            out[i] = crop[:, ::-1] if crops.mirrored[i] else crop
        return _DONE


def checksum(image: np.ndarray) -> int:
    """Returns the checksum of an image (side, side, 3) uint8, contiguous, in a tenth of the time of NumPy."""
    library, factors = load_native(), checksum_factors(len(image))
    if library is None:
        return image_checksum(image, factors)
    return int(library.checksum(image.ctypes.data, factors.ctypes.data, image.nbytes))


@functools.cache
def load_native() -> ctypes.CDLL | None:
    """Returns the compiled gather.cpp; None, after a line on stderr, if it cannot be compiled on this machine."""
    try:
        library = ctypes.CDLL(str(native_library(SOURCE)))
    except BUILD_ERRORS as error:
        cause = build_failure(error)
        print(f"the reader of crops is not compiled ({cause}): it runs several times slower", file=sys.stderr)
        return None
    library.gather.restype, library.checksum.restype = ctypes.c_int64, ctypes.c_uint64
    library.checksum.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    return library


def _physical_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
