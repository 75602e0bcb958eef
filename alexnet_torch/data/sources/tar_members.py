"""Lists the files inside a tar archive with the position of their content, so that nothing needs to be unpacked."""

import os
import tarfile
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from alexnet_torch.errors import UserError

LONGEST_READ = 2**20
"""Bytes: no header of an intact archive is longer, and a damaged one must not read the archive into memory."""


COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")
"""First bytes of gzip, bzip2, xz and zstd."""


@dataclass(frozen=True)
class TarMember:
    """A file in an archive."""

    name: str  # with the folders in the archive, separated by "/"
    offset: int  # of its content, from the start of the outermost file, in bytes
    size: int  # of its content, in bytes


class ArchiveRegion:
    """A part of a file, as the file that `tarfile` reads: the whole archive, or an archive inside it."""

    def __init__(self, descriptor: int, start: int, size: int) -> None:
        self._descriptor, self._start, self.size, self._position = descriptor, start, size, 0

    def read(self, count: int) -> bytes:
        """Returns up to `count` bytes and moves on behind them; raises a ReadError for an impossible count."""
        if not 0 <= count <= LONGEST_READ:
            raise tarfile.ReadError(f"a header of {count} bytes")
        count = max(0, min(count, self.size - self._position))
        content = os.pread(self._descriptor, count, self._start + self._position)
        self._position += len(content)
        return content

    def seek(self, position: int) -> None:
        """Moves to a position in the region."""
        self._position = position

    def tell(self) -> int:
        """Returns the position in the region."""
        return self._position


def list_tar(path: Path, start: int = 0, size: int | None = None) -> Generator[TarMember]:
    """Yields the files of an uncompressed tar archive, in their order; folders are left out.

    A hard link gives the content that it links to. Only headers are read, and memory does not grow with the archive.

    Args:
        path: the file.
        start: where the archive begins in the file, in bytes: an archive can be a member of another.
        size: of the archive, in bytes; by default it ends where the file ends.

    Raises:
        UserError: the file cannot be read, or the archive is compressed, truncated or damaged.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
    try:
        length = os.fstat(descriptor).st_size - start if size is None else size
        yield from _members(path, ArchiveRegion(descriptor, start, length), start)
    finally:
        os.close(descriptor)


def _members(path: Path, region: ArchiveRegion, start: int) -> Iterator[TarMember]:
    """Yields the files of the archive in a region that begins at `start` of the file."""
    links: list[tuple[str, str]] = []
    for info in _headers(path, region):
        if info.islnk():
            links.append((info.name, info.linkname))
        elif info.type in tarfile.REGULAR_TYPES and not info.issparse():
            yield TarMember(info.name, start + info.offset_data, info.size)
        elif not info.isdir():
            raise UserError(
                f"{path}: the member {info.name} is neither a file nor a folder; pack the files themselves "
                "(tar --dereference)"
            )
    if links:
        yield from _linked(path, region, start, links)


def _linked(path: Path, region: ArchiveRegion, start: int, links: list[tuple[str, str]]) -> Iterator[TarMember]:
    """Yields hard links, (name, target) each, with the content of their targets: `tar` makes them of equal inodes."""
    targets = {target for _, target in links}
    region.seek(0)
    found = {info.name: info for info in _headers(path, region) if info.name in targets and info.isreg()}
    for name, target in links:
        if target not in found:
            raise _damaged(path, f"the link {name} to {target}, which it does not contain")
        yield TarMember(name, start + found[target].offset_data, found[target].size)


def _headers(path: Path, region: ArchiveRegion) -> Iterator[tarfile.TarInfo]:
    """Yields every header of the archive in a region; raises a UserError unless it is intact to its end."""
    # what tarfile raises for a damaged header includes errors of int(), decoding and recursion
    damage = (tarfile.TarError, ValueError, OverflowError, LookupError, RecursionError, EOFError)
    try:
        if region.read(6).startswith(COMPRESSED):
            raise UserError(
                f"{path}: is compressed, so that single images cannot be read; decompress it (gzip -dk), or unpack it "
                "(tar -xf) and name the folder"
            )
        region.seek(0)
        archive = tarfile.TarFile(fileobj=cast(IO[bytes], region), mode="r")
        end = -1
        while (info := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # it would keep an object for each of a million files
            if info.offset_data + info.size > region.size:
                raise _truncated(path, f"its member {info.name} continues beyond its end")
            if info.size < 0 or archive.offset <= end:
                raise _damaged(path, f"a member of {info.size} bytes, {info.name}")
            end = archive.offset
            yield info
        region.seek(archive.offset)
        tail = region.read(tarfile.BLOCKSIZE)
        rest = any(any(block) for block in iter(lambda: region.read(LONGEST_READ), b""))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); copy it again") from error
    except damage as error:
        raise _damaged(path, f"no valid header ({_first_line(error)})") from error
    if len(tail) < tarfile.BLOCKSIZE:
        raise _truncated(path, "it has no end mark")
    if any(tail):
        raise _damaged(path, f"no valid header at byte {archive.offset}")
    if rest:  # zeros written over a header, or a second archive
        raise _damaged(path, f"data after its end mark at byte {archive.offset}")


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _truncated(path: Path, why: str) -> UserError:
    return UserError(f"{path}: is truncated: {why}; download or copy it again")


def _damaged(path: Path, what: str) -> UserError:
    return UserError(f"{path}: is damaged: it has {what}; download or copy it again")
