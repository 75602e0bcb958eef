"""Collects what the index of an archive yields, sample by sample, and orders it into the splits of a source."""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from alexnet_torch.data.sources.archive_reader import ArchiveReader
from alexnet_torch.data.sources.names import Names
from alexnet_torch.data.sources.source import SourceSplit, SplitName, sample_order
from alexnet_torch.errors import UserError


class SampleTable:
    """The samples of a split, in arrays: a million objects would take a gigabyte.

    Args:
        split: the split's name.
        files: the archives that have the samples.
        names_repeat: whether samples of a class may have the same file name; if not, one is there twice by mistake.
    """

    def __init__(self, split: SplitName, files: Sequence[Path], names_repeat: bool = False) -> None:
        self.split, self.files, self._names_repeat = split, tuple(files), names_repeat
        self._codes: dict[str, int] = {}  # of the classes' identities, in the order in which they appear
        self._classes, self._places = array("q"), array("q")
        self._file_names, self._members = _NameBuffer(), _NameBuffer()

    def __len__(self) -> int:
        return len(self._classes)

    @property
    def identities(self) -> set[str]:
        """The identities of the classes that have samples."""
        return set(self._codes)

    def named_classes(self) -> Iterator[tuple[str, str]]:
        """Yields (identity of the class, file name) of each sample."""
        identities = list(self._codes)
        for code, name in zip(self._classes, self._file_names.names(), strict=True):
            yield identities[code], name

    def location(self, index: int) -> str:
        """Returns the archive and the name in it of a sample, by the order in which samples were added."""
        return f"{self.files[self._places[3 * index]]}: {self._members.names()[index]}"

    def add(self, identity: str, file_name: str, member: str, place: tuple[int, int, int]) -> None:
        """Adds a sample.

        Args:
            identity: of its class.
            file_name: that it would have in ImageFolder's layout.
            member: its name in the archive.
            place: where it is, as for `ArchiveReader`.
        """
        self._classes.append(self._codes.setdefault(identity, len(self._codes)))
        self._places.extend(place)
        self._file_names.append(file_name)
        self._members.append(member)

    def ordered(self, identities: Sequence[str], reader: type[ArchiveReader]) -> SourceSplit:
        """Returns the samples in their fixed order, with labels that are positions in `identities`.

        Raises:
            UserError: two samples of a class have the same file name, and names do not repeat.
        """
        label_of = {identity: label for label, identity in enumerate(identities)}
        codes = np.asarray(self._classes, np.int64)
        labels = np.array([label_of[identity] for identity in self._codes], np.int64)[codes]
        folders = [f"{self.split}/{identity}/" for identity in self._codes]
        buffer = _NameBuffer()  # not a list: a million strings take 100 MB
        for code, name in zip(self._classes, self._file_names.names(), strict=True):
            buffer.append(folders[code] + name)
        keys = buffer.names()
        order = sample_order(labels, keys)
        places = np.asarray(self._places, np.int64).reshape(-1, 3)[order]
        images = reader(self.files, places, self._members.names().take(order))
        split = SourceSplit(self.split, keys.take(order), labels[order], images)
        return replace(split, keys=_unique(split.keys)) if self._names_repeat else _without_duplicates(split)

    def rename(self, names: Mapping[str, str]) -> None:
        """Gives every class another identity."""
        self._codes = {names[identity]: code for identity, code in self._codes.items()}


def _without_duplicates(split: SourceSplit) -> SourceSplit:
    """Returns an ordered split; raises a UserError if two samples have the same key."""
    before = ""
    for index, key in enumerate(split.keys):
        if key == before:
            first, second = (split.reader.location(i) for i in (index - 1, index))
            raise UserError(f"{first} and {second} are the same sample, {key}; move one of them elsewhere")
        before = key
    return split


def _unique(keys: Names) -> Names:
    """Returns ordered keys in which the second sample of the same name has "#2" added, and so on."""
    before, count, unique = "", 1, _NameBuffer()
    for key in keys:
        count = count + 1 if key == before else 1
        unique.append(f"{key}#{count}" if count > 1 else key)
        before = key
    return unique.names()


class _NameBuffer:
    """Names that are added one by one."""

    def __init__(self) -> None:
        self._content, self._ends = bytearray(), array("q")

    def append(self, name: str) -> None:
        self._content += name.encode("utf-8", "surrogateescape")
        self._ends.append(len(self._content))

    def names(self) -> Names:
        return Names(bytes(self._content), np.asarray(self._ends, np.int64))
