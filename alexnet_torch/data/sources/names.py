"""Many names in one buffer: a list of a million strings would take three times the memory, and be slow to copy."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
TAKEN = 2**16  # names that are taken at a time: a million small objects take 200 MB


class Names(Sequence[str]):
    """An immutable sequence of strings, which may contain any bytes that a file name can (surrogateescape).

    Args:
        content: the names one after the other, UTF-8 with surrogateescape.
        ends: (n,) int64, where each name ends in it.
    """

    def __init__(self, content: bytes, ends: np.ndarray) -> None:
        self.content, self.ends = content, ends

    @classmethod
    def of(cls, names: Iterable[str]) -> "Names":
        """Returns the names in a buffer."""
        names = list(names)
        joined = "".join(names)
        if joined.isascii():  # nearly always, and five times as fast
            return cls(joined.encode(), np.cumsum(np.fromiter(map(len, names), np.int64, len(names))))
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        return cls(b"".join(encoded), np.cumsum([len(name) for name in encoded], dtype=np.int64))

    @classmethod
    def joined(cls, parts: Sequence["Names"]) -> "Names":
        """Returns the names of all parts, one part after the other."""
        starts = np.cumsum([0, *(len(part.content) for part in parts)])
        ends = [part.ends + start for part, start in zip(parts, starts, strict=False)]
        return cls(b"".join(part.content for part in parts), np.concatenate([np.empty(0, np.int64), *ends]))

    def take(self, indices: np.ndarray) -> "Names":
        """Returns the names at some positions (n,) int64, none of them negative, in that order."""
        indices = np.asarray(indices, np.int64)
        starts, ends = np.where(indices > 0, self.ends[indices - 1], 0), self.ends[indices]
        parts = []
        for first in range(0, len(ends), TAKEN):
            rows = slice(first, first + TAKEN)
            spans = zip(starts[rows].tolist(), ends[rows].tolist(), strict=True)
            parts.append(b"".join([self.content[start:end] for start, end in spans]))
        return Names(b"".join(parts), np.cumsum(ends - starts))

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "Names": ...
    def __getitem__(self, index: int | slice) -> "str | Names":
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        if not -len(self) <= index < len(self):
            raise IndexError(f"name {index} of {len(self)}")
        index %= len(self)
        start = int(self.ends[index - 1]) if index else 0
        return self.content[start : int(self.ends[index])].decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        start = 0
        for end in self.ends.tolist():
            yield self.content[start:end].decode("utf-8", "surrogateescape")
            start = end

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Names):
            return self.content == other.content and np.array_equal(self.ends, other.ends)
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self.content)

    def __repr__(self) -> str:
        return f"Names({list(self[:3])}{' ...' if len(self) > 3 else ''}, {len(self)} in all)"


def in_one_line(text: str) -> str:
    """Returns a message with the control characters that names of files and archives' members may have as escapes."""
    return CONTROL.sub(lambda match: repr(match[0])[1:-1], text)
