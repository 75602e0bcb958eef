"""The folders and image files of a data set that is laid out in folders, on disk or in an archive."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alexnet_torch.data.sources.junk import PassedOver
from alexnet_torch.data.sources.names import Names
from alexnet_torch.errors import UserError


@dataclass(frozen=True)
class ImageFiles:
    """Image files of a folder, in ImageFolder's order: files of a folder before those of its subfolders."""

    folder: str  # relative to the source's root, ending in "/"; empty for the root
    paths: Names  # (n) relative to the source's root
    sizes: np.ndarray  # (n,) int64, bytes; -1 for a broken link
    times: np.ndarray  # (n,) int64, time of the last change in nanoseconds

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def names(self) -> Iterator[str]:
        """The paths relative to the folder."""
        return (path[len(self.folder) :] for path in self.paths)

    def take(self, indices: np.ndarray) -> "ImageFiles":
        """Returns some of the files, in that order."""
        return ImageFiles(self.folder, self.paths.take(indices), self.sizes[indices], self.times[indices])


class Tree(ABC):
    """Folders and image files below a root. Folders are named relative to it and end in "/"; the root is ""."""

    root: Path  # what --data names
    passed_over: PassedOver
    what: str  # the root, in messages

    @abstractmethod
    def again(self) -> "Tree":
        """Returns a tree of the same root that visits folders again: for another split. What is passed over adds up."""

    @abstractmethod
    def is_file(self, path: str) -> bool:
        """Returns whether there is a file."""

    @abstractmethod
    def is_folder(self, path: str) -> bool:
        """Returns whether there is a folder."""

    @abstractmethod
    def content(self, path: str) -> bytes:
        """Returns a file's content; raises a UserError if it cannot be read."""

    @abstractmethod
    def subfolders(self, folder: str = "") -> list[str]:
        """Returns the sorted names of the folders in a folder, without those passed over.

        The files beside them are passed over. Raises a UserError if the folder cannot be read.
        """

    @abstractmethod
    def images(self, folder: str, deep: bool = True) -> ImageFiles:
        """Returns the image files in a folder and, if `deep`, in its subfolders.

        Raises a UserError if a folder cannot be read.
        """

    def holds_runs(self, folder: str) -> bool:
        """Returns whether a folder has folders that this package wrote: runs, or caches of decoded images."""
        del folder
        return False

    def text(self, path: str) -> str:
        """Returns a text file's content; raises a UserError if it cannot be read or is not UTF-8."""
        try:
            return self.content(path).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(f"{self.what}: {path} is not UTF-8 text; restore it") from error
