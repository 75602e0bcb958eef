"""Reads images from inside archives by position: nothing is unpacked."""

import os
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from alexnet_torch.data.decode import UnreadableImage
from alexnet_torch.data.sources.names import Names, in_one_line
from alexnet_torch.data.sources.parquet_rows import read_image
from alexnet_torch.data.sources.source import Reader
from alexnet_torch.errors import UserError


@dataclass(frozen=True)
class ArchiveReader(Reader):
    """Samples by their places in archives. Files are opened for each image: that takes a hundredth of decoding it."""

    files: tuple[Path, ...]
    places: np.ndarray  # (n, 3) int64: index of the file, and two numbers that say where in it
    names: Names  # (n) in the archive, for messages

    def take(self, indices: np.ndarray) -> Self:
        """Returns a reader of some samples, with the files that they need."""
        places = self.places[indices]
        used, places[:, 0] = np.unique(places[:, 0], return_inverse=True)
        return type(self)(tuple(self.files[i] for i in used.tolist()), places, self.names.take(indices))

    def location(self, index: int) -> str:
        """Returns the archive's path and the image's name in it."""
        return in_one_line(f"{self.files[self.places[index, 0]]}: {self.names[index]}")

    def storage_order(self) -> np.ndarray:
        """Returns the (n,) indices of the samples as they lie in the archives: to read in that order is fastest."""
        return np.lexsort(self.places.T[::-1])

    @abstractmethod
    def read(self, index: int) -> bytes:
        """Returns a sample's image file."""


class TarReader(ArchiveReader):
    """Places are (file, offset, size) in bytes."""

    def read(self, index: int) -> bytes:
        """Returns a sample's image file; raises OSError if the archive cannot be read or ends before."""
        file, offset, size = self.places[index].tolist()
        descriptor = os.open(self.files[file], os.O_RDONLY)
        try:
            content = os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)
        if len(content) < size:
            raise OSError("the archive is truncated")
        return content


class ParquetReader(ArchiveReader):
    """Places are (file, row group, row in the group)."""

    def read(self, index: int) -> bytes:
        """Returns a sample's image file; raises UnreadableImage if the row cannot be read or has none."""
        file, group, row = self.places[index].tolist()
        try:
            return read_image(self.files[file], group, row)
        except UserError as error:
            raise UnreadableImage(self.location(index), str(error)) from error
