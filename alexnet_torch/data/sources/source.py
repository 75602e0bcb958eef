"""What every form of a data set offers: its classes, and for each split its samples in a fixed order, read by index.

A sample's key is the path that it would have in ImageFolder's layout: <split>/<class identity>/<file name>. Samples
are ordered by label, then by folder and file name as ImageFolder orders them, so that the same image files give the
same cache and the same run whatever form holds them.
"""

import hashlib
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Self

import numpy as np

from alexnet_torch.data.decode import UnreadableImage
from alexnet_torch.data.sources.classes import SourceClass, class_of, class_order, in_one_line, normal, some
from alexnet_torch.errors import UserError

SplitName = Literal["train", "val"]

LISTED = 1000  # names kept for each reason to skip files: macOS leaves a ._ file beside each of a million images
BEGIN = 4096  # bytes of the first image of each class that are looked at when a data set is listed


class Reader(ABC):
    """Reads the samples of a split. It is pickled to worker processes, and opens files only to read them."""

    @abstractmethod
    def read(self, index: int) -> bytes:
        """Returns a sample's image file; raises OSError, or UnreadableImage with a reason."""

    @abstractmethod
    def take(self, indices: np.ndarray) -> Self:
        """Returns a reader of some samples, in that order, which holds only what they need."""

    @abstractmethod
    def location(self, index: int) -> str:
        """Returns where a sample is, for messages."""

    def storage_order(self) -> np.ndarray | None:
        """Returns the (n,) indices in the order that is read fastest; None: the samples' own."""
        return None


@dataclass(frozen=True)
class ArchiveReader(Reader):
    """Samples by their places in archives. Files are opened for each image: that takes a hundredth of decoding it."""

    files: tuple[Path, ...]
    members: list[str]  # (n) names in the archive
    places: np.ndarray  # (n, k) int64: index of the file, and numbers that say where in it

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
        """Returns some of the samples, in that order."""
        keys = [self.keys[i] for i in indices.tolist()]
        return SourceSplit(self.name, keys, self.labels[indices], self.reader.take(indices))

    def read(self, index: int) -> bytes:
        """Returns a sample's image file; raises UnreadableImage with its place and the reason."""
        try:
            return self.reader.read(index)
        except (OSError, MemoryError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise UnreadableImage(self.reader.location(index), reason.splitlines()[0]) from error


@dataclass(frozen=True)
class SourceFiles:
    """The files that a source reads, images or archives, by which a change is noticed."""

    paths: list[str]  # relative to the source's root; "." if the root is the file
    sizes: np.ndarray  # (files,) int64, bytes; -1 if there is no such file
    times: np.ndarray  # (files,) int64, the time of the last change in nanoseconds; 0 if there is no such file
    begin: bytes = b""  # of some files: folders that exchanged their names are noticed by the content alone

    def digest(self) -> str:
        """Returns a digest of all that is known."""
        digest = hashlib.sha256("\0".join(self.paths).encode("utf-8", "surrogateescape") + self.begin)
        digest.update(self.states().T.astype("<i8").tobytes())
        return digest.hexdigest()

    def states(self) -> np.ndarray:
        """Returns the sizes and times, (files, 2) int64."""
        return np.stack([self.sizes, self.times], axis=1)


@dataclass
class Skipped:
    """Files and folders that are not taken for images or classes, by the reason."""

    counts: dict[str, int] = field(default_factory=dict)
    paths: dict[str, list[str]] = field(default_factory=dict)  # the first of each reason, at most LISTED

    def add(self, reason: str, path: str) -> None:
        self.counts[reason] = self.counts.get(reason, 0) + 1
        listed = self.paths.setdefault(reason, [])
        if len(listed) < LISTED:
            listed.append(path)

    def __str__(self) -> str:
        """The end of the line that describes a source."""
        parts = [f"{count:,} {reason} ({self.paths[reason][0]})" for reason, count in sorted(self.counts.items())]
        return f"; {sum(self.counts.values()):,} skipped: {', '.join(parts)}" if parts else ""


@dataclass(frozen=True)
class Source:
    """A data set, in whatever form it is."""

    form: str  # as people call it: "ImageFolder"
    root: Path  # the folder or file that --data names
    classes: tuple[SourceClass, ...]
    splits: tuple[SourceSplit, ...]  # training first; a test set has only "val"
    files: SourceFiles
    skipped: Skipped = field(default_factory=Skipped)
    notes: tuple[str, ...] = ()  # warnings, one line each, that do not stop anything
    without_val: str = ""  # what to do about missing validation images, as the end of a message
    variant: str = ""  # what decides the samples besides the root, as in a file name: "-val0.1-seed0"
    map_side: int | None = None  # side of the squares in pixels, if the source is a prepared map itself

    def split(self, name: SplitName) -> SourceSplit:
        """Returns a split; raises KeyError if there is none of that name."""
        return {split.name: split for split in self.splits}[name]

    @property
    def identities(self) -> tuple[str, ...]:
        """The identities of the classes."""
        return tuple(each.identity for each in self.classes)

    def describe(self) -> str:
        """Returns one line for people: form, numbers of classes and images, what was skipped."""
        words = {"train": "training", "val": "validation"}
        counts = " and ".join(f"{len(split):,} {words[split.name]}" for split in self.splits)
        return in_one_line(
            f"--data {self.root}: {self.form}, {len(self.classes):,} classes, {counts} images{self.skipped}"
        )


@dataclass
class ClassSamples:
    """The samples of one class in one split, in lists: a million objects would take a gigabyte.

    In the keys they have their own names; or, already in order, what follows `folder` in their paths.
    """

    names: list[str] = field(default_factory=list)
    members: list[str] = field(default_factory=list)  # paths relative to the source's root, or in the archive
    places: "array[int]" = field(default_factory=lambda: array("q"))  # k numbers for each
    folder: str = ""

    def add(self, name: str, member: str, *place: int) -> None:
        self.names.append(name)
        self.members.append(member)
        self.places.extend(place)


def make_source(
    form: str,
    root: Path,
    splits: Mapping[SplitName, Mapping[str, ClassSamples]],  # training first; by the identity of the class
    reader: Callable[[list[str], np.ndarray], Reader],  # of members and places (n, k) int64
    skipped: Skipped,
    files: SourceFiles | None = None,  # None: the samples are files themselves, whose places are (size, time)
    names: Mapping[str, str] | None = None,  # the readable ones of classes
    notes: Sequence[str] = (),
    without_val: str = "",
    names_repeat: bool = False,  # if not, a sample of the same name in the same class is there by mistake
) -> Source:
    """Orders samples into a source."""
    if len(splits) == 2 and splits["train"].keys() != splits["val"].keys():
        train, val = (set(by_class) for by_class in splits.values())
        raise UserError(
            f"--data {root}: train and val have different classes: only in train: "
            f"{some(class_order(train - val))}; only in val: {some(class_order(val - train))}; "
            "give both the same classes"
        )
    identities = class_order(next(iter(splits.values())))
    made, all_members, all_places, begin = [], list[str](), [], b""
    for split, by_class in splits.items():
        keys, members, places = list[str](), list[str](), []
        for identity in identities:
            samples, folder = by_class[identity], f"{split}/{identity}/"
            if samples.names:
                _sort(root, samples, folder, names_repeat)
                keys += [folder + name for name in samples.names]
            elif samples.folder == folder:  # equal strings are kept once
                keys += samples.members
            else:
                keys += [folder + member[len(samples.folder) :] for member in samples.members]
            members += samples.members
            places.append(np.frombuffer(samples.places, np.int64).reshape(len(samples.members), -1))
            with suppress(OSError):
                if files is None and samples.members:
                    with (root / samples.members[0]).open("rb") as file:
                        begin += file.read(BEGIN)
        labels = np.repeat(np.arange(len(identities)), list(map(len, places)))
        made.append(SourceSplit(split, keys, labels, reader(members, np.concatenate(places))))
        all_members += members
        all_places += places
    if files is None:
        sizes, times = np.concatenate(all_places).T
        files = SourceFiles(all_members, sizes, times, begin)
    seen: dict[str, str] = {}
    for name in identities:
        first = seen.setdefault(" ".join(normal(name).casefold().split()), name)
        if first != name:
            text = f"the classes {first!r} and {name!r} differ only in case or space"
            notes = (*notes, f"--data {root}: {text}; if they are one, move their images into one folder")
    classes = tuple(class_of(identity, names) for identity in identities)
    return Source(form, root, classes, tuple(made), files, skipped, tuple(notes), without_val)


def _sort(root: Path, samples: ClassSamples, folder: str, names_repeat: bool) -> None:
    """Sorts samples by their names, which have no "/"."""
    order = sorted(range(len(samples.names)), key=samples.names.__getitem__)
    samples.names = [samples.names[i] for i in order]
    samples.members = [samples.members[i] for i in order]
    samples.places = array("q", np.frombuffer(samples.places, np.int64).reshape(len(order), -1)[order].tobytes())
    before, count = "", 0
    for i, name in enumerate(samples.names):
        count = count + 1 if name == before else 1
        if count > 1:
            if not names_repeat:
                pair = f"{samples.members[i - 1]} and {samples.members[i]}"
                raise UserError(f"--data {root}: {pair} are the same sample, {folder}{name}; leave one of them out")
            samples.names[i] = f"{name}#{count}"
        before = name
