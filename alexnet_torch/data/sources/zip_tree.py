"""Reads a data set that is laid out in folders from a zip file: nothing is unpacked."""

import os
import struct
import zipfile
import zlib
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from alexnet_torch.data.sources.image_check import EXTENSIONS, is_image_content
from alexnet_torch.data.sources.junk import PassedOver, junk_reason
from alexnet_torch.data.sources.names import Names
from alexnet_torch.data.sources.source import Reader, Source, SourceFiles
from alexnet_torch.data.sources.tree import ImageFiles, Tree
from alexnet_torch.data.sources.zip_directory import ZipDirectory
from alexnet_torch.errors import UserError

LOCAL_HEADER = struct.Struct("<4sHHHHHIIIHH")  # before each file's bytes; its name and another field follow


@dataclass(frozen=True)
class ZipReader(Reader):
    """Reads the members of a zip file by position."""

    file: Path
    paths: Names  # (n) members, for messages
    places: np.ndarray  # (n, 4) int64: offset of the member's header, compressed size, size, CRC-32

    def read(self, index: int) -> bytes:
        """Returns a member's content; raises OSError if it is damaged."""
        offset, stored, size, checksum = self.places[index].tolist()
        descriptor = os.open(self.file, os.O_RDONLY)
        try:
            header = os.pread(descriptor, LOCAL_HEADER.size, offset)
            if len(header) < LOCAL_HEADER.size or not header.startswith(b"PK\3\4"):
                raise OSError("the archive is damaged: no file begins where its list says")
            _, _, _, method, *_, name_length, extra_length = LOCAL_HEADER.unpack(header)
            content = os.pread(descriptor, stored, offset + LOCAL_HEADER.size + name_length + extra_length)
        finally:
            os.close(descriptor)
        if method == zipfile.ZIP_DEFLATED:
            try:  # one byte more than the size: a file that lies about it cannot fill the memory
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, size + 1)
            except zlib.error as error:
                raise OSError(f"the archive is damaged ({error})") from error
        if len(content) != size or zlib.crc32(content) != checksum:
            raise OSError("the archive is damaged (wrong checksum)")
        return content

    def take(self, indices: np.ndarray) -> Self:
        """Returns a reader of some of the members."""
        return replace(self, paths=self.paths.take(indices), places=self.places[indices])

    def location(self, index: int) -> str:
        """Returns the archive's path and the member's."""
        return f"{self.file}: {self.paths[index]}"


@dataclass
class ZipTree(Tree):
    """The folders and image files in a zip file.

    Args:
        root: the file.
        top: the folder in it that is the tree's root, as "tiny-imagenet-200/".

    Raises:
        UserError: the file is damaged, encrypted or compressed in a way other than deflation.
    """

    root: Path
    top: str = ""
    passed_over: PassedOver = field(default_factory=PassedOver)
    directory: ZipDirectory | None = None  # read from the file by default
    folders: "dict[str, _Folder] | None" = None  # below the top; of the directory by default

    def __post_init__(self) -> None:
        self.what = f"--data {self.root}"
        try:
            self.directory = self._directory = self.directory or ZipDirectory(self.root)
            self.folders = self._folders = self.folders or self._tree()
        except NotImplementedError as error:
            raise UserError(f"{self.what}: {error}; unpack it and name the folder") from error
        except (OSError, ValueError) as error:
            raise UserError(f"{self.what}: is no complete zip file ({error}); download it again") from error

    def again(self) -> "ZipTree":
        """As for every tree; a zip file has no links."""
        return self

    def below(self, folder: str) -> "ZipTree":
        """Returns the tree of a folder in it."""
        return ZipTree(self.root, self.top + folder, directory=self.directory)

    def is_file(self, path: str) -> bool:
        """As for every tree."""
        folder, _, name = path.rpartition("/")
        return name in self._folders.get(f"{folder}/" if folder else "", _EMPTY).files

    def is_folder(self, path: str) -> bool:
        """As for every tree."""
        return f"{path.rstrip('/')}/" in self._folders

    def content(self, path: str) -> bytes:
        """As for every tree."""
        try:
            return self.reader(Names.of([path])).read(0)
        except (OSError, KeyError) as error:
            raise UserError(f"{self.what}: {path} cannot be read ({error}); download the file again") from error

    def subfolders(self, folder: str = "") -> list[str]:
        """As for every tree."""
        folders, files = self._folders.get(folder, _EMPTY)
        for name in sorted(files):
            is_image = name.lower().rpartition(".")[2] in EXTENSIONS
            self.passed_over.add(junk_reason(name) or ("in no class folder" if is_image else "no image"), folder + name)
        for name in sorted(folders):
            if reason := junk_reason(name):
                self.passed_over.add(reason, f"{folder}{name}/")
        return sorted(name for name in folders if not junk_reason(name))

    def images(self, folder: str, deep: bool = True) -> ImageFiles:
        """As for every tree."""
        waiting = [folder]
        in_folder: dict[str, list[str]] = {}
        while waiting:
            here = waiting.pop()
            folders, files = self._folders.get(here, _EMPTY)
            in_folder[here] = []
            for name in sorted(files):
                reason = junk_reason(name)
                if not reason and not self._is_image(here + name):
                    reason = "no image"
                if reason:
                    self.passed_over.add(reason, here + name)
                else:
                    in_folder[here].append(here + name)
            for name in folders if deep else ():
                if reason := junk_reason(name):
                    self.passed_over.add(reason, f"{here}{name}/")
                else:
                    waiting.append(f"{here}{name}/")
        paths = [path for here in sorted(in_folder, key=lambda here: here[:-1]) for path in in_folder[here]]
        names = Names.of(paths)
        sizes = self._directory.places[self._rows(names), 2]
        return ImageFiles(folder, names, sizes, np.zeros(len(names), np.int64))

    def reader(self, paths: Names) -> ZipReader:
        """Returns a reader of members, named relative to the tree's root; raises KeyError if there is none."""
        return ZipReader(self.root, paths, self._directory.places[self._rows(paths)])

    def source(self, listed: Source) -> Source:
        """Returns a source that was listed by this tree, with readers of the zip file."""
        splits = []
        first = 0
        for split in listed.splits:
            paths = listed.files.paths[first : first + len(split)]
            splits.append(replace(split, reader=self.reader(paths)))
            first += len(split)
        status = self.root.stat()
        files = SourceFiles(Names.of(["."]), np.array([status.st_size]), np.array([status.st_mtime_ns]))
        return replace(listed, form=f"{listed.form} in a zip file", splits=tuple(splits), files=files)

    def _is_image(self, path: str) -> bool:
        return path.lower().rpartition(".")[2] in EXTENSIONS or is_image_content(BytesIO(self.content(path)))

    def _rows(self, paths: Names) -> np.ndarray:
        """Returns the rows of members in the zip file's list, (n,) int64; raises KeyError if there is none."""
        split = (path.rpartition("/") for path in paths)
        rows = [self._folders[folder + slash].files[name] for folder, slash, name in split]
        return np.array(rows, np.int64)

    def _tree(self) -> "dict[str, _Folder]":
        """Returns each folder below the top, by its path relative to it."""
        folders: dict[str, _Folder] = {"": _Folder(set(), {})}
        for row, written in enumerate(self._directory.names()):
            path = _normal(written)
            if not path.startswith(self.top):
                continue
            folder, slash, name = path[len(self.top) :].rpartition("/")
            here = folder + slash
            if here not in folders:
                _add_folder(folders, here)
            folders[here].files[name] = row  # of two members of one name the later one, as programs unpack them
        return folders


class _Folder(NamedTuple):
    folders: set[str]  # names
    files: dict[str, int]  # rows in the zip file's list, by name


_EMPTY = _Folder(set(), {})


def _add_folder(folders: dict[str, _Folder], path: str) -> None:
    """Adds a folder that is not there, and those above it."""
    below: set[str] = set()
    while path not in folders:
        folders[path] = _Folder(below, {})
        above, slash, name = path[:-1].rpartition("/")
        path, below = above + slash, {name}
    folders[path].folders.update(below)


def _normal(name: str) -> str:
    """Returns a member's path without "./" and the backslashes that some Windows programs write."""
    return "/".join(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))
