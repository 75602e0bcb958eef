"""Data sets in tars: ILSVRC-2012's own, Hugging Face's flat ones, and webdataset's shards."""

import json
import os
import re
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

from alexnet_torch.data.sources.archives import Samples, archive_source, by_wnid, check_complete, kept_source
from alexnet_torch.data.sources.classes import class_of_name, some, tells_class
from alexnet_torch.data.sources.listing import junk_path_reason, junk_reason
from alexnet_torch.data.sources.source import ClassSamples, Reader, Skipped, Source, SplitName
from alexnet_torch.errors import UserError
from alexnet_torch.files import reading

BYTES = {"ILSVRC2012_img_train.tar": 147_897_477_120, "ILSVRC2012_img_val.tar": 6_744_924_160}
"""Sizes of the archives at image-net.org. Their MD5 would take minutes at each start."""
SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")  # what is compressed is refused
INFO = "_info.json"
IMAGE_NAME = re.compile(r".*\.(jpe?g|png)", re.IGNORECASE)
CLASS_ARCHIVE = re.compile(r"(?:.*/)?(n\d{8})\.tar")
KEY_AND_KIND = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)")  # the kind starts at the first dot
IMAGE_KINDS = ("jpg", "jpeg", "png", "webp")
SHARDS = "webdataset shards"
PEEKED = 20  # members that tell what an archive is
LONGEST = 2**20  # bytes read at a time, and of a label
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz and zstd


class TarReader(Reader):
    """Places are (file, offset, size) in bytes."""

    def read(self, index: int) -> bytes:
        number, offset, size = self.places[index].tolist()
        with self.files[number].open("rb") as file:
            content = os.pread(file.fileno(), size, offset)
        if len(content) < size:
            raise OSError("the archive is truncated")
        return content


def list_tar(path: Path, inside: tarfile.TarInfo | None = None) -> Iterator[tarfile.TarInfo]:
    """Yields the files, as places in it, of an uncompressed tar or of its member `inside`, by reading only headers."""
    name = f"{path}: {inside.name}" if inside else path
    with reading(name, "download it again"), path.open("rb", buffering=0) as file:
        start, end = (inside.offset_data, inside.offset_data + inside.size) if inside else (0, path.stat().st_size)
        if os.pread(file.fileno(), 6, start).startswith(COMPRESSED):
            raise UserError(f"{name}: is compressed: single images cannot be read; decompress it (gzip -dk)")
        file.seek(start)
        archive = tarfile.TarFile(fileobj=file)
        while info := archive.next():
            archive.members.clear()  # type: ignore[attr-defined]  # it would keep an object for each of a million files
            if info.size < 0 or not info.offset < archive.offset <= end:
                raise tarfile.ReadError(f"{info.name} continues beyond its end")
            if info.isreg() and not info.issparse():
                yield info
            elif not info.isdir():
                fix = "pack files themselves (tar --dereference --hard-dereference)"
                raise UserError(f"{name}: {info.name} is neither a file nor a folder; {fix}")
        # tarfile takes a damaged header for the end, after which are only zeros
        file.seek(archive.offset)
        if archive.offset + tarfile.BLOCKSIZE > end:
            raise tarfile.ReadError("it has no end mark")
        while rest := file.read(min(LONGEST, end - file.tell())):
            if any(rest):
                raise tarfile.ReadError(f"no valid header at byte {archive.offset}")


def tar_files(root: Path) -> dict[SplitName, list[Path]]:
    """Returns the tars of a folder by the split that their names contain; a tar alone is a test set."""
    found: dict[SplitName, list[Path]] = {"train": [], "val": []}
    for file in sorted(root.iterdir()) if root.is_dir() else [root]:
        name = file.name.lower()
        splits: list[SplitName] = [split for split in found if split in name] if root.is_dir() else ["val"]
        if name.endswith(SUFFIXES) and len(splits) == 1 and not junk_reason(name) and file.is_file():
            found[splits[0]].append(file)
    return {split: files for split, files in found.items() if files}


def open_tar_set(root: Path) -> Source:
    splits = tar_files(root)
    files = [file for of_split in splits.values() for file in of_split]
    info = [root / INFO] if (root / INFO).is_file() else []
    return kept_source(root, files + info, lambda: _list(root, splits, files))


def _list(root: Path, archives: dict[SplitName, list[Path]], files: list[Path]) -> Source:
    skipped, splits = Skipped(), dict[SplitName, Samples]()
    for file in sorted(root.iterdir()) if root.is_dir() else ():
        if file.name.lower().endswith(SUFFIXES) and file not in files:
            skipped.add(junk_reason(file.name) or "of no split", file.name)
    kinds = {file: _kind(file) for file in files}
    is_sharded = SHARDS in kinds.values()
    if is_sharded and len(set(kinds.values())) > 1:
        found = ", ".join(sorted(set(kinds.values())))
        raise UserError(f"--data {root}: its archives are of different kinds: {found}; move one kind elsewhere")
    for split, of_split in archives.items():
        if root.is_dir() and (is_sharded or len(of_split) > 1):  # the number in one name may be a year
            check_complete(of_split)
        splits[split] = defaultdict(ClassSamples)
        for file in of_split:
            READ[kinds[file]](file, files.index(file), splits[split], skipped)
    if not is_sharded:
        val_file = "ILSVRC2012_img_val.tar"
        notes = [
            f"{file}: has {size:,} bytes, and image-net.org's file {BYTES[file.name]:,}: it is another, or a part of it"
            for file in files
            if (size := file.stat().st_size) != BYTES.get(file.name, size)
        ]
        return archive_source("ILSVRC-2012 in tars", root, splits, TarReader, files, skipped, val_file, notes=notes)
    if (root / INFO).is_file():
        _check_info(root / INFO, splits)
    named = by_wnid(splits, files)
    form = "webdataset shards" if named else "webdataset shards with classes by number"
    return archive_source(form, root, named or splits, TarReader, files, skipped, "shards named *val*.tar")


def _kind(file: Path) -> str:
    names = [member.name for member in islice(list_tar(file), PEEKED) if not junk_path_reason(member.name)]
    if any(CLASS_ARCHIVE.fullmatch(name) for name in names):
        return "archives of classes"
    if any((match := KEY_AND_KIND.fullmatch(name)) and match[2].lower() in ("cls", "json") for name in names):
        return SHARDS
    if any(tells_class(name.rpartition("/")[2]) for name in names):
        return "flat archives"
    known = "webdataset's samples, as x.jpg and x.cls, nor <wnid>.tar, nor images named as ILSVRC-2012's"
    raise UserError(f"{file}: contains {some(names[:1])}: neither {known}; unpack it (tar -xf) and name the folder")


def _add_class_archives(file: Path, number: int, samples: Samples, skipped: Skipped) -> None:
    for archive in list_tar(file):
        if match := CLASS_ARCHIVE.fullmatch(archive.name):
            for member in _images(list_tar(file, archive), skipped):
                name, path = member.name.rpartition("/")[2], f"{archive.name}/{member.name}"
                samples[match[1]].add(name, path, number, member.offset_data, member.size)
        else:
            skipped.add(junk_path_reason(archive.name) or "no class's archive", archive.name)


def _add_flat_archive(file: Path, number: int, samples: Samples, skipped: Skipped) -> None:
    for member in _images(list_tar(file), skipped):
        wnid, name = class_of_name(member.name.rpartition("/")[2], f"{file}: {member.name}")
        samples[wnid].add(name, member.name, number, member.offset_data, member.size)


def _images(members: Iterable[tarfile.TarInfo], skipped: Skipped) -> Iterator[tarfile.TarInfo]:
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

    with file.open("rb", buffering=0) as opened:
        for key, group in groupby(keyed(), itemgetter(0)):
            members: dict[str, tarfile.TarInfo] = {}
            for _, kind, member in group:
                if members.setdefault(kind, member) is not member:
                    raise UserError(f"{file}: contains {member.name} twice; make the shard again")
            image = next((members[kind] for kind in IMAGE_KINDS if kind in members), None)
            about = members.get("cls") or members.get("json")
            content = os.pread(opened.fileno(), min(about.size, LONGEST), about.offset_data) if about else b""
            label = _label(content)
            if image is None or label is None:
                lacks = "image, .jpg or .png" if image is None else "class's number in .cls or .json"
                raise UserError(f"{file}: {key}.{{{','.join(members)}}} has no {lacks}; make the shard again")
            name = image.name.rpartition("/")[2]
            samples[str(label)].add(name, image.name, number, image.offset_data, image.size)


def _label(content: bytes) -> int | None:
    """Returns the number in a .cls, or "label" (or "cls") of a .json; None if it has none."""
    value: object = None
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        value = int(content) if content.strip().isdigit() else json.loads(content)
        if isinstance(value, dict):
            value = value["label"] if "label" in value else value["cls"]
    return value if type(value) is int and 0 <= value < 10**18 else None  # int64


def _check_info(file: Path, splits: dict[SplitName, Samples]) -> None:
    """Compares the number of samples with the description that timm's sets have beside them."""
    with reading(file, "download it again, or move it elsewhere"):
        described = json.loads(file.read_bytes())["splits"]
        for split, samples in splits.items():
            about: dict[str, Any] = described.get("validation" if split == "val" else split, {})
            count = sum(len(each.names) for each in samples.values())
            if (told := about.get("num_samples", count)) != count:
                raise UserError(f"{file}: names {told:,} samples to {split}, not {count:,}; download the shards again")


READ: dict[str, Callable[[Path, int, Samples, Skipped], None]] = {
    "archives of classes": _add_class_archives,
    "flat archives": _add_flat_archive,
    SHARDS: _add_shard,
}
