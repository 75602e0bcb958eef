"""What every form of a data set offers: its classes, and for each split its samples in a fixed order.

A sample's key is its path in ImageFolder's layout: <split>/<class identity>/<file name>. Samples are ordered by label,
then as ImageFolder orders them: the same image files give the same cache and the same run in every form.
"""

import hashlib
from abc import ABC, abstractmethod
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise
from os import stat_result
from pathlib import Path
from typing import Literal, Self

import numpy as np

from alexnet_torch.data.decode import UnreadableImage, reason_of
from alexnet_torch.data.sources.classes import SourceClass, class_of, class_order, in_one_line, normal, some
from alexnet_torch.errors import UserError

SplitName = Literal["train", "val"]

LISTED = 1000  # names kept for each reason to skip files
BEGIN = 4096  # bytes looked at of the first image of each class


@dataclass(frozen=True)
class Reader(ABC):
    """Reads samples by their places in files; pickled to workers. Opens a file for each: a hundredth of decoding."""

    files: tuple[Path, ...]
    members: list[str]  # (n) names in the archive, or in the folder files[0]
    places: np.ndarray  # (n, k) int64: index of the file, and numbers that say where in it

    @abstractmethod
    def read(self, index: int) -> bytes:
        """Returns a sample's image file; raises OSError or UnreadableImage."""

    def take(self, indices: np.ndarray) -> Self:
        places = self.places[indices]
        used, places[:, 0] = np.unique(places[:, 0], return_inverse=True)
        files = tuple(self.files[i] for i in used.tolist())
        return replace(self, files=files, members=[self.members[i] for i in indices.tolist()], places=places)

    def location(self, index: int) -> str:
        return in_one_line(f"{self.files[self.places[index, 0]]}: {self.members[index]}")

    def storage_order(self) -> np.ndarray:
        return np.lexsort(self.places.T[::-1])


@dataclass(frozen=True)
class SourceSplit:
    """The samples of one split, in their fixed order."""

    name: SplitName
    keys: list[str]  # (n) as "train/n01440764/n01440764_10026.JPEG"
    labels: np.ndarray  # (n,) int64, indices into the source's classes
    reader: Reader  # of (n) samples

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> "SourceSplit":
        keys = [self.keys[i] for i in indices.tolist()]
        return SourceSplit(self.name, keys, self.labels[indices], self.reader.take(indices))

    def read(self, index: int) -> bytes:
        """Returns a sample's image file; raises UnreadableImage."""
        try:
            return self.reader.read(index)
        except (OSError, MemoryError) as error:
            raise UnreadableImage(self.reader.location(index), reason_of(error)) from error


@dataclass(frozen=True)
class SourceFiles:
    """The files that a source reads, by which a change is noticed."""

    paths: list[str]  # relative to the source's root; "." if the root is the file
    states: np.ndarray  # (files, 2) int64: of `state_of`; (-1, 0) without a file
    begin: bytes = b""  # of some files: of folders that exchanged names, only the content tells

    def digest(self) -> str:
        digest = hashlib.sha256("\0".join(self.paths).encode("utf-8", "surrogateescape") + self.begin)
        digest.update(self.states.astype("<i8").tobytes())
        return digest.hexdigest()


def state_of(status: stat_result) -> tuple[int, int]:
    """Returns a file's size, and the time of its last change in nanoseconds, in 63 bits also after 2262."""
    return status.st_size, status.st_mtime_ns & (2**63 - 1)


@dataclass
class Skipped:
    """What is not taken for an image or class, by the reason."""

    counts: Counter[str] = field(default_factory=Counter)
    paths: dict[str, list[str]] = field(default_factory=dict)  # the first of each reason, at most LISTED

    def add(self, reason: str, path: str) -> None:
        self.counts[reason] += 1
        listed = self.paths.setdefault(reason, [])
        if len(listed) < LISTED:
            listed.append(path)

    def __str__(self) -> str:
        parts = [f"{count:,} {reason} ({self.paths[reason][0]})" for reason, count in sorted(self.counts.items())]
        return f"; {self.counts.total():,} skipped: {', '.join(parts)}" if parts else ""


@dataclass(frozen=True)
class Source:
    """A data set, in whatever form it is."""

    form: str  # as people call it: "ImageFolder"
    root: Path  # the folder or file that --data names
    classes: tuple[SourceClass, ...]
    splits: tuple[SourceSplit, ...]  # training first; a test set has only "val"
    files: SourceFiles
    skipped: Skipped = field(default_factory=Skipped)
    notes: tuple[str, ...] = ()  # warnings, one line each
    without_val: str = ""  # what to do about missing validation images
    variant: str = ""  # what decides the samples besides the root: "-val0.1-seed0"
    map_side: int | None = None  # in pixels, of a prepared map

    def split(self, name: SplitName) -> SourceSplit:
        return {split.name: split for split in self.splits}[name]

    @property
    def identities(self) -> tuple[str, ...]:
        return tuple(each.identity for each in self.classes)

    def describe(self) -> str:
        words = {"train": "training", "val": "validation"}
        counts = " and ".join(f"{len(split):,} {words[split.name]}" for split in self.splits)
        what = f"{self.form}, {len(self.classes):,} classes, {counts} images{self.skipped}"
        return in_one_line(f"--data {self.root}: {what}")


@dataclass
class ClassSamples:
    """The samples of one class in one split, in lists: a million objects would take a gigabyte.

    In the keys they have their own names; or, already in order, what follows `folder` in their paths.
    """

    names: list[str] = field(default_factory=list)
    members: list[str] = field(default_factory=list)  # paths in the root or the archive
    places: "array[int]" = field(default_factory=lambda: array("q"))  # k numbers for each
    folder: str = ""

    def add(self, name: str, member: str, *place: int) -> None:
        self.names.append(name)
        self.members.append(member)
        self.places.extend(place)

    def sort(self, what: str, names_repeat: bool) -> None:
        """Sorts samples by their names; numbers those of the same name, or refuses them."""
        order = sorted(range(len(self.names)), key=self.names.__getitem__)
        for a, b in pairwise(() if names_repeat else order):
            if self.names[a] == self.names[b]:
                pair = f"{self.members[a]} and {self.members[b]}"
                raise UserError(f"{what}: {pair} are the same sample, {self.names[a]}; leave one of them out")
        self.members = [self.members[i] for i in order]
        self.places = array("q", np.frombuffer(self.places, np.int64).reshape(len(order), -1)[order].tobytes())
        groups = groupby(self.names[i] for i in order)
        self.names = [f"{name}#{i}" if i > 1 else name for name, same in groups for i, _ in enumerate(same, 1)]


def make_source(
    form: str,
    root: Path,
    splits: Mapping[SplitName, Mapping[str, ClassSamples]],  # training first; by identity
    reader: Callable[[list[str], np.ndarray], Reader],  # of members and places (n, k) int64
    skipped: Skipped,
    files: SourceFiles | None = None,  # None: the samples are files, whose places are their states
    names: Mapping[str, str] | None = None,  # the readable ones of classes
    notes: Sequence[str] = (),
    without_val: str = "",
    names_repeat: bool = False,  # if not, a sample of the same name in the same class is there by mistake
) -> Source:
    if len(splits) == 2 and splits["train"].keys() != splits["val"].keys():
        train, val = (set(by_class) for by_class in splits.values())
        only = f"only in train: {some(class_order(train - val))}; only in val: {some(class_order(val - train))}"
        raise UserError(f"--data {root}: train and val have different classes: {only}; give both the same")
    identities = class_order(next(iter(splits.values())))
    made, all_members, all_places, begin = [], list[str](), [], b""
    for split, by_class in splits.items():
        keys, members, places = list[str](), list[str](), []
        for identity in identities:
            samples, folder = by_class[identity], f"{split}/{identity}/"
            if samples.names:
                samples.sort(f"--data {root}", names_repeat)
                keys += [folder + name for name in samples.names]
            elif samples.folder == folder:  # equal strings are kept once
                keys += samples.members
            else:
                keys += [folder + member[len(samples.folder) :] for member in samples.members]
            members += samples.members
            places.append(np.frombuffer(samples.places, np.int64).reshape(len(samples.members), -1))
            with suppress(OSError, IndexError):
                if files is None:
                    with (root / samples.members[0]).open("rb") as file:
                        begin += file.read(BEGIN)
        labels = np.repeat(np.arange(len(identities)), list(map(len, places)))
        made.append(SourceSplit(split, keys, labels, reader(members, np.concatenate(places))))
        all_members += members
        all_places += places
    seen: dict[str, str] = {}
    for name in identities:
        first = seen.setdefault(" ".join(normal(name).casefold().split()), name)
        if first != name:
            text = f"the classes {first!r} and {name!r} differ only in case or space"
            notes = (*notes, f"--data {root}: {text}; if they are one, move their images into one folder")
    files = files or SourceFiles(all_members, np.concatenate(all_places), begin)
    classes = tuple(class_of(identity, names) for identity in identities)
    return Source(form, root, classes, tuple(made), files, skipped, tuple(notes), without_val)
