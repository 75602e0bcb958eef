"""Lists the files inside a tar with the position of their content, and reads them: nothing is unpacked."""

import os
import tarfile
from collections.abc import Generator
from pathlib import Path
from typing import IO, cast

from alexnet_torch.data.sources.source import ArchiveReader
from alexnet_torch.errors import UserError

LONGEST_READ = 2**20
"""Bytes: no header of an intact archive is longer, and a damaged one must not read the archive into memory."""
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")
"""First bytes of gzip, bzip2, xz and zstd."""


class TarReader(ArchiveReader):
    """Places are (file, offset, size) in bytes."""

    def read(self, index: int) -> bytes:
        file, offset, size = self.places[index].tolist()
        descriptor = os.open(self.files[file], os.O_RDONLY)
        try:
            content = os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)
        if len(content) < size:
            raise OSError("the archive is truncated")
        return content


class Region:
    """A part of a file, as the file that `tarfile` reads: the whole archive, or an archive inside it."""

    def __init__(self, descriptor: int, start: int, size: int) -> None:
        self.descriptor, self.start, self.size, self.position = descriptor, start, size, 0

    def read(self, count: int) -> bytes:
        if not 0 <= count <= LONGEST_READ:
            raise tarfile.ReadError(f"a header of {count} bytes")
        count = max(0, min(count, self.size - self.position))
        content = os.pread(self.descriptor, count, self.start + self.position)
        self.position += len(content)
        return content

    def seek(self, position: int) -> None:
        self.position = position

    def tell(self) -> int:
        return self.position


def list_tar(path: Path, start: int = 0, size: int | None = None) -> Generator[tarfile.TarInfo]:
    """Yields the files of an uncompressed tar in their order, with `offset_data` in the outermost file.

    Only headers are read, and memory does not grow with the archive. A tar that is damaged, or cut, is refused. With
    `start` and `size` in bytes, the archive is a member of another.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        region = Region(descriptor, start, os.fstat(descriptor).st_size - start if size is None else size)
        if region.read(6).startswith(COMPRESSED):
            raise UserError(
                f"{path}: is compressed, so that single images cannot be read; decompress it (gzip -dk), or unpack it "
                "(tar -xf) and name the folder"
            )
        region.seek(0)
        yield from _members(path, region)
    except (tarfile.TarError, ValueError, OverflowError, LookupError, RecursionError, EOFError) as error:
        # what tarfile raises for a damaged header includes errors of int(), decoding and recursion
        cause = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: is damaged: it has no valid header ({cause}); download or copy it again") from error
    finally:
        os.close(descriptor)


def _members(path: Path, region: Region) -> Generator[tarfile.TarInfo]:
    archive, end = tarfile.TarFile(fileobj=cast(IO[bytes], region), mode="r"), -1
    while (info := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]  # it would keep an object for each of a million files
        if info.offset_data + info.size > region.size:
            raise UserError(
                f"{path}: is truncated: its member {info.name} continues beyond its end; download or copy it again"
            )
        if info.size < 0 or archive.offset <= end:
            raise tarfile.ReadError(f"a member of {info.size} bytes, {info.name}")
        end = archive.offset
        if info.isreg() and not info.issparse():
            info.offset_data += region.start
            yield info
        elif not info.isdir():
            raise UserError(
                f"{path}: the member {info.name} is neither a file nor a folder; pack the files themselves "
                "(tar --dereference --hard-dereference)"
            )
    region.seek(archive.offset)
    mark = region.read(tarfile.BLOCKSIZE)
    if len(mark) < tarfile.BLOCKSIZE:
        raise UserError(f"{path}: is truncated: it has no end mark; download or copy it again")
    if any(mark) or any(any(block) for block in iter(lambda: region.read(LONGEST_READ), b"")):
        raise tarfile.ReadError(f"at byte {archive.offset}")  # or zeros over a header, or a second archive behind
