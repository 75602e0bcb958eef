"""Lists and reads data sets in tars: ILSVRC-2012's own, Hugging Face's flat ones, and webdataset's shards."""

import json
import os
import re
import tarfile
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import IO, Any, cast

from alexnet_torch.data.sources.archives import Samples, archive_source, by_wnid, check_complete, kept_source
from alexnet_torch.data.sources.classes import class_of_name, some, tells_class
from alexnet_torch.data.sources.listing import junk_path_reason, junk_reason
from alexnet_torch.data.sources.source import ArchiveReader, ClassSamples, Skipped, Source, SplitName
from alexnet_torch.errors import UserError
from alexnet_torch.files import reading

BYTES = {"ILSVRC2012_img_train.tar": 147_897_477_120, "ILSVRC2012_img_val.tar": 6_744_924_160}
"""Sizes of the archives at image-net.org. Their MD5 would take minutes at each start."""
SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")  # what is compressed is refused
DEVKIT, INFO = "ILSVRC2012_devkit_t12.tar.gz", "_info.json"
IMAGE_NAME = re.compile(r".*\.(jpe?g|png)", re.IGNORECASE)
CLASS_ARCHIVE = re.compile(r"(?:.*/)?(n\d{8})\.tar")
KEY_AND_KIND = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)")  # webdataset's rule: the kind starts at the name's first dot
IMAGE_KINDS = ("jpg", "jpeg", "png", "webp")
LONGEST_LABEL = 2**20  # bytes of a .cls or .json
SHARDS = "webdataset shards"
PEEKED = 20  # members that tell what an archive is

LONGEST_READ = 2**20  # bytes: a damaged header must not read the archive into memory
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz and zstd


class TarReader(ArchiveReader):
    """Places are (file, offset, size) in bytes."""

    def read(self, index: int) -> bytes:
        number, offset, size = self.places[index].tolist()
        with self.files[number].open("rb") as file:
            content = os.pread(file.fileno(), size, offset)
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

    Only headers are read. With `start` and `size` in bytes, the archive is a member of another.
    """
    with path.open("rb") as file:
        region = Region(file.fileno(), start, os.fstat(file.fileno()).st_size - start if size is None else size)
        if region.read(6).startswith(COMPRESSED):
            raise UserError(
                f"{path}: is compressed, so that single images cannot be read; decompress it (gzip -dk), or unpack it"
            )
        region.seek(0)
        try:
            yield from _members(path, region)
        except (tarfile.TarError, ValueError, OverflowError, LookupError, RecursionError, EOFError) as error:
            cause = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(f"{path}: is damaged: it has no valid header ({cause}); download it again") from error


def _members(path: Path, region: Region) -> Generator[tarfile.TarInfo]:
    archive, end = tarfile.TarFile(fileobj=cast(IO[bytes], region), mode="r"), -1
    while (info := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]  # it would keep an object for each of a million files
        if info.offset_data + info.size > region.size:
            raise UserError(f"{path}: is truncated: {info.name} continues beyond its end; download it again")
        if info.size < 0 or archive.offset <= end:
            raise tarfile.ReadError(f"a member of {info.size} bytes, {info.name}")
        end = archive.offset
        if info.isreg() and not info.issparse():
            info.offset_data += region.start
            yield info
        elif not info.isdir():
            raise UserError(
                f"{path}: the member {info.name} is neither a file nor a folder; pack files themselves "
                "(tar --dereference --hard-dereference)"
            )
    region.seek(archive.offset)
    mark = region.read(tarfile.BLOCKSIZE)
    if len(mark) < tarfile.BLOCKSIZE:
        raise UserError(f"{path}: is truncated: it has no end mark; download it again")
    if any(mark) or any(any(block) for block in iter(lambda: region.read(LONGEST_READ), b"")):
        raise tarfile.ReadError(f"at byte {archive.offset}")  # or zeros over a header, or a second archive behind


def is_tar_set(root: Path) -> bool:
    """Returns whether a path is a tar, or a folder of tars for training or validation."""
    return any(_tars(root).values()) if root.is_dir() else root.name.lower().endswith(SUFFIXES)


def open_tar_set(root: Path) -> Source:
    """Lists the samples of the tars in a folder; a tar alone is a test set."""
    tars: dict[SplitName, list[Path]] = _tars(root) if root.is_dir() else {"train": [], "val": [root]}
    splits = {name: files for name, files in tars.items() if files}
    info = [root / INFO] if (root / INFO).is_file() else []
    return kept_source(root, [*tars["train"], *tars["val"], *info], lambda: _list(root, splits))


def _tars(root: Path) -> dict[SplitName, list[Path]]:
    """Returns the tars of a folder by what their names contain."""
    found: dict[SplitName, list[Path]] = {"train": [], "val": []}
    for file in sorted(root.iterdir()):
        name = file.name.lower()
        if name.endswith(SUFFIXES) and not junk_reason(name) and file.is_file():
            splits = [split for split in found if split in name]
            if len(splits) == 2:
                raise UserError(f"{file}: its name contains train and val; name it by its split")
            for split in splits:
                found[split].append(file)
    return found


def _list(root: Path, archives: dict[SplitName, list[Path]]) -> Source:
    """Lists the archives of each split, training first."""
    files, skipped = [file for of_split in archives.values() for file in of_split], Skipped()
    for file in sorted(root.iterdir()) if root.is_dir() else ():
        if file.name.lower().endswith(SUFFIXES) and file not in files and file.name != DEVKIT:
            skipped.add(junk_reason(file.name) or "of no split", file.name)
    kinds = {file: _kind(file) for file in files}
    is_sharded = SHARDS in kinds.values()
    if is_sharded and len(set(kinds.values())) > 1:
        found = ", ".join(sorted(set(kinds.values())))
        raise UserError(f"--data {root}: its archives are of different kinds: {found}; move one kind elsewhere")
    splits: dict[SplitName, Samples] = {}
    for split, of_split in archives.items():
        if root.is_dir() and (is_sharded or len(of_split) > 1):  # the number in a name of one file may be a year
            check_complete(of_split)
        splits[split] = defaultdict(ClassSamples)
        for file in of_split:
            READ[kinds[file]](file, files.index(file), splits[split], skipped)
    if is_sharded:
        if (root / INFO).is_file():
            _check_info(root / INFO, archives, splits)
        named = by_wnid(splits, files)
        form = "webdataset shards" if named else "webdataset shards with classes by number"
        return archive_source(form, root, named or splits, TarReader, files, skipped, "shards named *val*.tar")
    notes = [
        f"{file}: has {size:,} bytes, and image-net.org's file {BYTES[file.name]:,}: it is another, or a part of it"
        for file in files
        if (size := file.stat().st_size) != BYTES.get(file.name, size)
    ]
    form, val_files = "ILSVRC-2012 in tars", "ILSVRC2012_img_val.tar"
    return archive_source(form, root, splits, TarReader, files, skipped, val_files, notes=notes)


def _kind(file: Path) -> str:
    """Returns the kind of an archive, a key of READ."""
    with closing(list_tar(file)) as members:
        names = [member.name for member in islice(members, PEEKED) if not junk_path_reason(member.name)]
    if any(CLASS_ARCHIVE.fullmatch(name) for name in names):
        return "archives of classes"
    if any((match := KEY_AND_KIND.fullmatch(name)) and match[2].lower() in ("cls", "json") for name in names):
        return SHARDS
    if any(tells_class(name.rpartition("/")[2]) for name in names):
        return "flat archives"
    raise UserError(
        f"{file}: contains {some(names[:1])}: neither webdataset's samples, as x.jpg and x.cls, nor <wnid>.tar, nor "
        "images named as ILSVRC-2012's; unpack it (tar -xf) and name the folder"
    )


def _add_class_archives(file: Path, number: int, samples: Samples, skipped: Skipped) -> None:
    """Adds the samples of an archive that contains one archive for each class, <wnid>.tar."""
    for archive in list_tar(file):
        if reason := junk_path_reason(archive.name):
            skipped.add(reason, archive.name)
            continue
        match = CLASS_ARCHIVE.fullmatch(archive.name)
        if not match:
            raise UserError(f"{file}: contains {archive.name} among the archives of classes; pack it again without")
        try:
            for member in _images(list_tar(file, archive.offset_data, archive.size), skipped):
                name, path = member.name.rpartition("/")[2], f"{archive.name}/{member.name}"
                samples[match[1]].add(name, path, number, member.offset_data, member.size)
        except UserError as error:
            raise UserError(f"{error} (in its member {archive.name})") from error


def _add_flat_archive(file: Path, number: int, samples: Samples, skipped: Skipped) -> None:
    """Adds the samples of an archive without folders, whose names tell the classes."""
    for member in _images(list_tar(file), skipped):
        wnid, name = class_of_name(member.name.rpartition("/")[2], f"{file}: {member.name}")
        samples[wnid].add(name, member.name, number, member.offset_data, member.size)


def _images(members: Iterable[tarfile.TarInfo], skipped: Skipped) -> Iterator[tarfile.TarInfo]:
    """Yields the members that are images by their names."""
    for member in members:
        if reason := junk_path_reason(member.name) or (None if IMAGE_NAME.fullmatch(member.name) else "no image"):
            skipped.add(reason, member.name)
        else:
            yield member


def _add_shard(file: Path, number: int, samples: Samples, skipped: Skipped) -> None:
    """Adds the samples of a shard, in which consecutive members with the same key, as x.jpg and x.cls, are one."""

    def keyed() -> Iterator[tuple[str, str, tarfile.TarInfo]]:
        for member in list_tar(file):
            match = KEY_AND_KIND.fullmatch(member.name)
            if (reason := junk_path_reason(member.name)) or not match:
                skipped.add(reason or "without a kind", member.name)
            else:
                yield match[1], match[2].lower(), member

    with file.open("rb") as opened:
        for key, group in groupby(keyed(), itemgetter(0)):
            members: dict[str, tarfile.TarInfo] = {}
            for _, kind, member in group:
                if members.setdefault(kind, member) is not member:
                    raise UserError(f"{file}: contains {member.name} twice; make the shard again")
            kind = next((kind for kind in IMAGE_KINDS if kind in members), "")
            if not kind:
                raise UserError(
                    f"{file}: the sample {key} has no image, .jpg or .png, but only {', '.join(members)}; make the "
                    "shard again"
                )
            image, label = members[kind], _label(file, opened.fileno(), key, members)
            name = f"{key.rpartition('/')[2]}.{kind}"
            samples[str(label)].add(name, image.name, number, image.offset_data, image.size)


def _label(file: Path, descriptor: int, key: str, members: dict[str, tarfile.TarInfo]) -> int:
    """Returns the label of a sample: the number in its .cls, or "label" (or "cls") of its .json."""
    member = members.get("cls") or members.get("json")
    if member is None:
        raise UserError(f"{file}: the sample {key} has no label, as a member .cls or .json; make the shard again")
    content = os.pread(descriptor, min(member.size, LONGEST_LABEL), member.offset_data)
    value: object = None
    with suppress(ValueError, KeyError, TypeError, RecursionError):  # then it is None
        value = int(content) if content.strip().isdigit() else json.loads(content)
        if isinstance(value, dict):
            value = value["label"] if "label" in value else value["cls"]
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 10**18:  # int64
        raise UserError(f"{file}: {member.name} contains {content[:40]!r}, not a class's number; make the shard again")
    return value


def _check_info(file: Path, archives: dict[SplitName, list[Path]], splits: dict[SplitName, Samples]) -> None:
    """Compares shards with the description that timm's sets have beside them."""
    with reading(file, "download it again, or move it elsewhere"):
        described = json.loads(file.read_bytes())["splits"]
        for split, samples in splits.items():
            about: dict[str, Any] = described.get("validation" if split == "val" else split, {})
            missing = sorted({*about.get("filenames", [])} - {each.name for each in archives[split]})
            if missing:
                raise UserError(f"{file}: names {some(missing)}, missing here; download them")
            count = sum(len(each.names) for each in samples.values())
            if (told := about.get("num_samples", count)) != count:
                raise UserError(f"{file}: names {told:,} samples to {split}, not {count:,}; download the shards again")


READ: dict[str, Callable[[Path, int, Samples, Skipped], None]] = {
    "archives of classes": _add_class_archives,
    "flat archives": _add_flat_archive,
    SHARDS: _add_shard,
}
