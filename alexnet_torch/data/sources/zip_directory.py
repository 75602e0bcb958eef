"""Reads the list of a zip file's members into arrays: zipfile's objects take two gigabytes for 1.3 million members."""

import os
import struct
import zipfile
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

END = struct.Struct("<4s4H2LH")  # the record at the end of a zip file: what is in it, and where its list is
END_64 = struct.Struct("<4sQ2H2L4Q")  # the same of a large file
LOCATOR_64 = struct.Struct("<4sLQL")  # before END: where END_64 is
ENTRY = struct.Struct("<4s6H3L5H2L")  # of the list; the member's name and more fields follow
LONGEST_COMMENT = 1 << 16
IN_EXTRA_FIELD = 0xFFFFFFFF  # a number of 64 bits, which is in the extra field
EXTRA_64 = 1  # its identifier
IS_UTF8, IS_ENCRYPTED = 1 << 11, 1


class ZipDirectory:
    """The members of a zip file, without folders.

    Args:
        file: the zip file.

    Attributes:
        places: (n, 4) int64: offset of the member's header, compressed size, size, CRC-32.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no zip file, is truncated or damaged.
        NotImplementedError: it is encrypted, or a member is compressed in a way other than deflation.
    """

    def __init__(self, file: Path) -> None:
        self._content, total = _list_of(file), file.stat().st_size
        self._names, places = array("q"), array("q")  # where each name begins in the content
        for start, entry in _entries(self._content):
            _, _, _, flags, method, _, _, crc, stored, size, name_length, extra_length, *_, offset = entry
            if self._content[start + name_length - 1 : start + name_length] == b"/":
                continue
            if flags & IS_ENCRYPTED:
                raise NotImplementedError("is encrypted")
            if method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise NotImplementedError("is compressed in an unusual way")
            if IN_EXTRA_FIELD in (stored, size, offset):
                extra = self._content[start + name_length : start + name_length + extra_length]
                size, stored, offset = _numbers_64(extra, (size, stored, offset))
            if offset + stored > total:
                raise ValueError("it is truncated, or its list of files is damaged")
            self._names.extend((start, name_length, flags & IS_UTF8))
            places.extend((offset, stored, size, crc))
        self.places = np.frombuffer(places, np.int64).reshape(-1, 4) if places else np.empty((0, 4), np.int64)

    def names(self) -> Iterator[str]:
        """Yields the members' names, in the order of `places`; raises ValueError if one is no UTF-8."""
        for row in range(0, len(self._names), 3):
            start, length, is_utf8 = self._names[row : row + 3]
            yield self._content[start : start + length].decode("utf-8" if is_utf8 else "cp437")


def _list_of(file: Path) -> bytes:
    """Returns the list of members, the central directory, as it is in the file."""
    with file.open("rb") as opened:
        size = opened.seek(0, os.SEEK_END)
        opened.seek(max(0, size - END.size - LONGEST_COMMENT))
        tail = opened.read()
        at = tail.rfind(b"PK\5\6")
        if at < 0 or len(tail) - at < END.size:
            raise ValueError("its end is missing")
        length, start = END.unpack_from(tail, at)[5:7]
        if at >= LOCATOR_64.size and tail[at - LOCATOR_64.size :].startswith(b"PK\6\7"):
            opened.seek(LOCATOR_64.unpack_from(tail, at - LOCATOR_64.size)[2])
            record = opened.read(END_64.size)
            if len(record) < END_64.size or not record.startswith(b"PK\6\6"):
                raise ValueError("its end is damaged")
            length, start = END_64.unpack(record)[8:10]
        if start + length > size:
            raise ValueError("it is truncated")
        opened.seek(start)
        return opened.read(length)


def _entries(content: bytes) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yields where the name of each entry of the list begins, and the entry's fields."""
    at = 0
    while at < len(content):
        if not content.startswith(b"PK\1\2", at) or at + ENTRY.size > len(content):
            raise ValueError("its list of files is damaged")
        entry = ENTRY.unpack_from(content, at)
        start = at + ENTRY.size
        at = start + sum(entry[10:13])  # the lengths of name, extra field and comment
        if at > len(content):
            raise ValueError("its list of files is damaged")
        yield start, entry


def _numbers_64(extra: bytes, numbers: tuple[int, ...]) -> list[int]:
    """Returns numbers with those of the extra field in the place of each that is IN_EXTRA_FIELD."""
    at = 0
    while at + 4 <= len(extra):
        identifier, length = struct.unpack_from("<HH", extra, at)
        if identifier == EXTRA_64:
            count = sum(number == IN_EXTRA_FIELD for number in numbers)
            if 8 * count > min(length, len(extra) - at - 4):
                break
            large = iter(struct.unpack_from(f"<{count}Q", extra, at + 4))
            found = [next(large) if number == IN_EXTRA_FIELD else number for number in numbers]
            if max(found) < 1 << 63:
                return found
            break
        at += 4 + length
    raise ValueError("its list of files is damaged")
