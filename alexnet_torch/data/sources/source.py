"""What every form of a data set offers: its classes, and for each split its samples in a fixed order, read by index.

A sample's key is the path that it would have in ImageFolder's layout: <split>/<class identity>/<file name>. Samples
are ordered by label, then by folder and file name as ImageFolder orders them, so that the same image files give the
same map whatever form holds them: see `sample_order`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

import numpy as np

from alexnet_torch.data.decode import UnreadableImage
from alexnet_torch.data.sources.junk import PassedOver
from alexnet_torch.data.sources.names import Names, in_one_line

SplitName = Literal["train", "val"]


@dataclass(frozen=True)
class SourceClass:
    """A class: what it is recognised by in other data sets, and what people call it."""

    identity: str  # the WordNet ID if it has one, as "n01440764"; else the folder's or the data set's name
    name: str  # "tench, Tinca tinca"


class Reader(ABC):
    """Reads the encoded image of each sample of a split.

    It is pickled to worker processes: it holds no open file, but opens what it needs at the first read in each process.
    Its memory is a few numbers and a name for each sample, since there may be 1.3 million.
    """

    @abstractmethod
    def read(self, index: int) -> bytes:
        """Returns a sample's image file; raises OSError, or UnreadableImage with a reason, if it cannot be read."""

    @abstractmethod
    def take(self, indices: np.ndarray) -> Self:
        """Returns a reader of some samples, in that order, which holds only what they need."""

    def storage_order(self) -> np.ndarray | None:
        """Returns the (n,) indices of the samples in the order in which they are read fastest; None: in theirs."""
        return None

    @abstractmethod
    def location(self, index: int) -> str:
        """Returns where a sample is, for messages: a path, or an archive's path and the member's name."""


@dataclass(frozen=True)
class SourceSplit:
    """The samples of one split, in their fixed order."""

    name: SplitName
    keys: Names  # (n) as "train/n01440764/n01440764_10026.JPEG"
    labels: np.ndarray  # (n,) int64, indices into the source's classes
    reader: Reader  # of (n) samples

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def map_name(self) -> str:
        """The name of the split's memory map in a prepared folder."""
        return f"{self.name}.u8"

    def take(self, indices: np.ndarray) -> "SourceSplit":
        """Returns some of the samples, in that order."""
        return SourceSplit(self.name, self.keys.take(indices), self.labels[indices], self.reader.take(indices))

    def read(self, index: int) -> bytes:
        """Returns a sample's image file; raises UnreadableImage, with its place and the reason, if it cannot."""
        try:
            return self.reader.read(index)
        except (OSError, MemoryError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise UnreadableImage(self.reader.location(index), reason.splitlines()[0]) from error


@dataclass(frozen=True)
class SourceFiles:
    """The files that a source reads, images or archives, by which a change is noticed."""

    paths: Names  # relative to the source's root; "." if the root is the file
    sizes: np.ndarray  # (files,) int64, bytes; -1 if there is no such file
    times: np.ndarray  # (files,) int64, the time of the last change in nanoseconds; 0 if there is no such file


@dataclass(frozen=True)
class Source:
    """A data set, in whatever form it is."""

    form: str  # as people call it: "ImageFolder"
    root: Path  # the folder or file that --data names
    classes: tuple[SourceClass, ...]
    splits: tuple[SourceSplit, ...]  # training first; a test set has only "val"
    files: SourceFiles
    passed_over: PassedOver = field(default_factory=PassedOver)
    notes: tuple[str, ...] = ()  # warnings, one line each, that do not stop anything
    without_val: str = ""  # what to do about missing validation images, as the end of a message
    variant: str = ""  # what decides the samples besides the root, as in a file name: "-val0.1-seed0"
    map_side: int | None = None  # side of the squares in pixels, if the source is a prepared map itself

    def split(self, name: SplitName) -> SourceSplit:
        """Returns a split; raises KeyError if the source has none of that name."""
        for split in self.splits:
            if split.name == name:
                return split
        raise KeyError(name)

    @property
    def identities(self) -> tuple[str, ...]:
        """The identities of the classes."""
        return tuple(each.identity for each in self.classes)

    def describe(self) -> str:
        """Returns one line for people: form, numbers of classes and images, what was passed over."""
        words = {"train": "training", "val": "validation"}
        counts = " and ".join(f"{len(split):,} {words[split.name]}" for split in self.splits)
        text = f"--data {self.root}: {self.form}, {len(self.classes):,} classes, {counts} images{self.passed_over}"
        return in_one_line(text)


def sample_order(labels: np.ndarray, keys: Names) -> np.ndarray:
    """Returns the (n,) positions of samples in their fixed order: by label, then folder, then file name.

    Within a label that is ImageFolder's order: the files of a folder before those of its subfolders.
    """
    order = np.argsort(labels, kind="stable")
    bounds = np.flatnonzero(np.diff(labels[order])) + 1
    for rows in np.split(order, bounds):  # views into `order`: one label's names at a time are strings
        names = [key.rpartition("/") for key in keys.take(rows)]
        rows[:] = rows[sorted(range(len(rows)), key=names.__getitem__)]
    return order
