"""Lists folders and image files on disk or in a zip file, with one look at each entry."""

import logging
import os
import stat
import struct
import zipfile
import zlib
from collections import defaultdict
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from alexnet_torch.data.decode import read_bounded, require_small
from alexnet_torch.data.sources.source import Reader, Skipped, state_of
from alexnet_torch.errors import UserError
from alexnet_torch.files import reading
from alexnet_torch.run_folder import CHECKPOINTS, CONFIG, FIGURES, METRICS, MODEL_DESCRIPTION, TENSORBOARD

logger = logging.getLogger(__name__)

EXTENSIONS = {
    *("jpg", "jpeg", "png", "ppm", "bmp", "pgm", "tif", "tiff", "webp"),  # torchvision's ImageFolder takes these
    *("jpe", "jfif", "gif", "avif", "jp2", "j2k", "jpx", "apng", "dib", "pbm", "pnm", "tga", "pcx", "ico"),
    *("heic", "heif"),
}
"""Files with these suffixes, in any case, are images without a look; decoding reports one that is none."""
NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF", "TGA"}  # any bytes may be TGA
SYSTEM = {
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),
    *("__macosx", "icon\r", "@eadir", "#recycle", "lost+found", "__pycache__"),
}
OURS = ((CONFIG, METRICS), (CONFIG, MODEL_DESCRIPTION), ("manifest.json", "samples.npz"))
"""Files of runs and of caches, whose folders people put beside their images."""
UNICODE_PATH, IS_UTF8, IS_ENCRYPTED = 0x7075, 1 << 11, 1
LOCAL_HEADER = struct.Struct("<4sHHHHHIIIHH")  # before each file in a zip; then its name

Entry = tuple[Any, ...]  # a file's name or path; its size and time, or place for `ZipReader`


class Folder(NamedTuple):
    """What a folder has, by name."""

    folders: list[str]
    files: list[Entry]
    skipped: list[tuple[str, str]]  # (reason, name)


def junk_reason(name: str) -> str | None:
    return "hidden" if name.startswith(".") else "of the system" if name.lower() in SYSTEM else None


def junk_path_reason(path: str) -> str | None:
    return next(filter(None, (junk_reason(part) for part in path.split("/") if part not in (".", ".."))), None)


def has_image_suffix(name: str) -> bool:
    return name[name.rfind(".") + 1 :].lower() in EXTENSIONS


class Listing:
    """What is below a folder, or in the folder `top` of a zip file.

    Folders are named relative to that, and end in "/"; it is itself "".
    """

    def __init__(self, root: Path, what: str = "", top: str = "", zipped: dict[str, Folder] | None = None) -> None:
        self.root, self.what, self.top = root, what or f"--data {root}", top
        self.zipped = zipped or (None if root.is_dir() else _zip_folders(root))
        self.skipped = Skipped()  # what `subfolders` and `images` leave out
        self._scanned = lru_cache(8)(self._scan)
        self._visited: dict[tuple[int, int], str] = {}  # (device, inode) of each folder, and its path

    def folder(self, path: str) -> Folder:
        return self._scanned(path) if self.zipped is None else self.zipped.get(self.top + path, Folder([], [], []))

    def is_folder(self, path: str) -> bool:
        above, slash, name = path.rpartition("/")
        return name in self.folder(above + slash).folders

    def text(self, path: str) -> str | None:
        above, slash, name = path.rpartition("/")
        for file, *place in self.folder(above + slash).files:
            if file == name:
                with reading(f"{self.what}: {path}", "restore it"):
                    return self.reader([path], np.array([place])).read(0).decode("utf-8-sig")
        return None

    def reader(self, members: list[str], places: np.ndarray) -> Reader:
        if self.zipped is None:
            return file_reader(self.root, members)
        return ZipReader((self.root,), [self.top + member for member in members], places)

    def subfolders(self, folder: str = "") -> list[str]:
        here, self._visited = self.folder(folder), {}
        self._seen_as(folder)
        for reason, name in here.skipped:
            self.skipped.add(reason, folder + name)
        for name, *_ in here.files:
            self.skipped.add("in no class folder" if has_image_suffix(name) else "no image", folder + name)
        of_run = (CHECKPOINTS, FIGURES, TENSORBOARD) if self._is_ours(folder) else ()
        return [name for name in here.folders if self._enters(f"{folder}{name}/", name in of_run, folder)]

    def images(self, folder: str, deep: bool = True) -> list[Entry]:
        """Returns (path, place) of the images in a folder and, if `deep`, below it, in ImageFolder's order."""
        found: dict[str, list[Entry]] = {}
        waiting = [folder]
        self._seen_as(folder)
        while waiting:
            here = waiting.pop()
            images = found[here[:-1]] = []
            folders, files, skipped = self.folder(here)
            for reason, name in skipped:
                self.skipped.add(reason, here + name)
            for entry in files:  # a million times: each microsecond here is a second at the start
                name = entry[0]
                is_named = name[name.rfind(".") + 1 :].lower() in EXTENSIONS
                if is_named or ("." not in name and self._is_image(here + name, entry[1:])):
                    images.append((here + name, *entry[1:]))
                else:
                    self.skipped.add("no image", here + name)
            waiting += [f"{here}{name}/" for name in folders if deep and self._enters(f"{here}{name}/")]
        return [image for here in sorted(found) for image in found[here]]

    def _is_image(self, path: str, place: Entry) -> bool:
        if self.zipped is None and place[0] <= 0:
            return False  # in /proc, reading what seems empty may wait for ever
        try:
            file = self.root / path if self.zipped is None else BytesIO(self.reader([path], np.array([place])).read(0))
            with Image.open(file) as image:
                return image.format not in NOT_DECODED
        except PermissionError:
            raise
        except Exception as error:  # each plugin has its own
            return isinstance(error, Image.DecompressionBombError)

    def _scan(self, folder: str) -> Folder:
        folders, files, skipped = [], [], []
        try:
            descriptor = os.open(self.root / folder, os.O_RDONLY | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            return Folder([], [], [])
        try:  # status by name, not by path: a fifth faster
            for entry in os.scandir(descriptor):
                name = entry.name
                if name[0] == "." or name.lower() in SYSTEM:
                    skipped.append((junk_reason(name) or "", name))
                    continue
                try:
                    if entry.is_dir():
                        folders.append(name)
                    elif stat.S_ISREG((status := entry.stat()).st_mode):
                        files.append((name, *state_of(status)))
                    else:
                        skipped.append(("no regular file", name))
                except OSError:
                    if has_image_suffix(name):  # decoding reports it
                        files.append((name, -1, 0))
                    else:
                        skipped.append(("broken link", name))
        finally:
            os.close(descriptor)
        return Folder(sorted(folders), sorted(files), sorted(skipped))

    def _enters(self, folder: str, is_of_run: bool = False, parent: str | None = None) -> bool:
        """Returns whether to take a folder, which is a class's if `parent` is given."""
        is_of_run = is_of_run or self._is_ours(folder)
        before = folder if is_of_run else self._seen_as(folder)
        if is_of_run or before != folder:
            if parent not in (None, before) and not is_of_run:
                both = f"{folder} and {before} are one folder, by a link"
                raise UserError(f"{self.what}: {both}; move the link elsewhere")
            self.skipped.add("of a run" if is_of_run else "linked twice", folder)
            return False
        return True

    def _seen_as(self, folder: str) -> str:
        """Returns the path by which a folder was met first, and marks it as met."""
        if self.zipped is not None:
            return folder
        status = (self.root / folder).stat()
        return self._visited.setdefault((status.st_dev, status.st_ino), folder)

    def _is_ours(self, folder: str) -> bool:
        return self.zipped is None and any(all((self.root / folder / name).is_file() for name in pair) for pair in OURS)


class FileReader(Reader):
    """Members are files of their own; places are (0,)."""

    def read(self, index: int) -> bytes:
        return read_bounded(self.files[0] / self.members[index])

    def location(self, index: int) -> str:
        return str(self.files[0] / self.members[index])


def file_reader(root: Path, paths: list[str]) -> FileReader:
    return FileReader((root,), paths, np.zeros((len(paths), 1), np.int64))


class ZipReader(Reader):
    """Places are (0, offset of the member's header, compressed size, size, CRC-32)."""

    def read(self, index: int) -> bytes:
        _, offset, stored, size, checksum = self.places[index].tolist()
        require_small(max(stored, size))
        with self.files[0].open("rb") as file:
            header = os.pread(file.fileno(), LOCAL_HEADER.size, offset)
            if len(header) < LOCAL_HEADER.size or not header.startswith(b"PK\3\4"):
                raise OSError("the archive is damaged (no file begins where its list says)")
            _, _, _, method, *_, name_length, extra_length = LOCAL_HEADER.unpack(header)
            content = os.pread(file.fileno(), stored, offset + LOCAL_HEADER.size + name_length + extra_length)
        try:
            if method == zipfile.ZIP_DEFLATED:  # no more, whatever a false size hides
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, size + 1)
            if len(content) != size or zlib.crc32(content) != checksum:
                raise zlib.error("wrong checksum")
        except zlib.error as error:
            raise OSError(f"the archive is damaged ({error})") from error
        return content


def _zip_folders(file: Path) -> dict[str, Folder]:
    files: defaultdict[str, dict[str, Entry]] = defaultdict(dict)
    folders: defaultdict[str, set[str]] = defaultdict(set)
    with reading(f"--data {file}", "download it again"), zipfile.ZipFile(file) as archive:
        total = file.stat().st_size
        for info in archive.infolist():
            if info.flag_bits & IS_ENCRYPTED or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise UserError(f"--data {file}: is encrypted, or compressed in an unusual way; unpack it")
            if info.header_offset + info.compress_size > total:
                raise ValueError("it is truncated, or its list of files is damaged")
            # "./" and Windows' backslashes are no names
            parts = [part for part in _zip_name(file, info).replace("\\", "/").split("/") if part not in ("", ".")]
            if parts and not info.is_dir():  # of one name the last, as programs unpack it
                place = (0, info.header_offset, info.compress_size, info.file_size, info.CRC)
                files["".join(f"{part}/" for part in parts[:-1])][parts[-1]] = place
    for folder in list(files):
        while folder:
            above, slash, name = folder[:-1].rpartition("/")
            folders[above + slash].add(name)
            folder = above + slash
    return {
        folder: Folder(
            sorted(name for name in folders[folder] if not junk_reason(name)),
            sorted((name, *place) for name, place in files[folder].items() if not junk_reason(name)),
            [(reason, name) for name in (*files[folder], *folders[folder]) if (reason := junk_reason(name))],
        )
        for folder in [*files, *folders]
    }


def _zip_name(file: Path, info: zipfile.ZipInfo) -> str:
    """Returns a member's name, of the field for Unicode if it has one."""
    if info.flag_bits & IS_UTF8 or info.filename.isascii():
        return info.filename
    extra = info.extra
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        if kind == UNICODE_PATH:
            return extra[9 : 4 + size].decode()  # after a version and a checksum
        extra = extra[4 + size :]
    try:  # else the encoding is not told
        return info.filename.encode("cp437").decode()
    except UnicodeDecodeError as error:
        raise UserError(f"--data {file}: has names in an old encoding; unpack it (unzip -O GBK, perhaps)") from error


def find_images(root: Path) -> tuple[str, ...]:
    if not root.is_dir():
        raise UserError(f"{root}: there is no such folder; name a folder of images")
    listing = Listing(root, str(root))
    paths = tuple(sorted(path for path, *_ in listing.images("")))
    if not paths:
        raise UserError(f"{root}: contains no images that can be read; name a folder that has some")
    if listing.skipped.counts:
        logger.warning(f"{root}: {len(paths):,} images{listing.skipped}")
    return paths
