"""What data sets in archives share: their files, complete numbers, classes by label or name, and a kept index."""

import hashlib
import itertools
import pickle
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import numpy as np

from alexnet_torch.data.sources.classes import imagenet_indices, told_wnid
from alexnet_torch.data.sources.source import (
    ArchiveReader,
    ClassSamples,
    Skipped,
    Source,
    SourceFiles,
    SplitName,
    make_source,
)
from alexnet_torch.errors import UserError
from alexnet_torch.files import atomic_write, remembered_file

Samples = dict[str, ClassSamples]
"""The samples of a split by class; places begin with the index of the file among all archives."""
T = TypeVar("T")

VERSION = 4
"""Raised when the list of the same archives changes."""
KEPT_SAMPLES = 10_000
"""Smaller sets are listed in a fraction of a second."""

OF_TOTAL = re.compile(r"(.*?)(\d+)-of-(\d+)(\D*)")  # train-00000-of-00294.parquet
NUMBERED = re.compile(r"(.*?)(\d+)(\.\w+)")  # imagenet1k-train-0000.tar
WEB_PAGE = "is a web page; download the file again, logged in if the site asks for it"
STUBS = {
    b"version https://git-lfs": "is a pointer of Git LFS; fetch the file itself (git lfs pull)",
    **dict.fromkeys((b"<!doctype html", b"<html"), WEB_PAGE),
}
"""First bytes, in lower case, of what is often saved in the place of an archive."""


def list_files(root: Path, files: Sequence[Path]) -> SourceFiles:
    """Returns the state of archives in a folder, or of the one file that `root` is; refuses what is no archive."""
    for file in files:
        with file.open("rb") as opened:
            begin = opened.read(64).lstrip().lower()
        for stub, problem in STUBS.items():
            if begin.startswith(stub):
                raise UserError(f"{file}: {problem}")
    status = [file.stat() for file in files]
    return SourceFiles(
        [file.relative_to(root).as_posix() for file in files],
        np.array([each.st_size for each in status], np.int64),
        np.array([each.st_mtime_ns for each in status], np.int64),
    )


def remembered(kind: str, key: str, build: Callable[[], T], is_large: Callable[[T], bool]) -> T:
    """Returns what `build` returns, from the user's cache folder if it was kept there under this key.

    What is large is kept: listing a million members of archives takes a minute, reading their list a second.
    """
    path = remembered_file(kind, hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:32])
    if path is None:
        return build()
    with suppress(OSError):
        saved = path.read_bytes()
        if hashlib.sha256(saved[32:]).digest() == saved[:32]:  # else it is damaged, and written again
            value: T = pickle.loads(saved[32:])
            return value
    built = build()
    if is_large(built):
        content = pickle.dumps(built)
        with suppress(OSError):  # the disk is full or read-only: the next start builds it again
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(path, lambda file: file.write(hashlib.sha256(content).digest() + content))
    return built


def kept_source(root: Path, files: Sequence[Path], build: Callable[[], Source]) -> Source:
    """Returns the source that `build` makes of archives; a large one is kept until a file changes."""
    key = f"{VERSION} {root} {root.resolve()} {list_files(root, files).digest()}"
    return remembered("indexes", key, build, lambda made: sum(map(len, made.splits)) >= KEPT_SAMPLES)


def archive_source(
    form: str,
    root: Path,
    splits: Mapping[SplitName, Samples],
    reader: type[ArchiveReader],
    files: Sequence[Path],
    skipped: Skipped,
    val_files: str = "",
    names: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    names_repeat: bool = False,
) -> Source:
    """Returns a source of the samples in archives; `val_files` are those that validation images would be in."""
    for split, by_class in splits.items():
        if not by_class:
            raise UserError(f"--data {root}: no images in the {split} files; download them again")
    identities = next(iter(splits.values())).keys()
    known = sum(identity in imagenet_indices() for identity in identities)
    fix = f"has {files[0].name} but no validation images; put {val_files} beside it, or let --val-split 0.1 choose some"
    return make_source(
        f"{form}, {known:,} of ImageNet's 1,000 classes" if 0 < known < 1000 else form,
        root,
        splits,
        lambda members, places: reader(tuple(files), members, places),
        skipped,
        list_files(root, files),
        names,
        notes,
        "" if "val" in splits else fix,
        names_repeat,
    )


def check_complete(files: Iterable[Path]) -> None:
    """Refuses numbered files, which begin with 0, that are not all there.

    Names may tell the total, as train-00000-of-00294.parquet. A last file that is missing is found out only then.
    """
    groups: dict[tuple[Path, str, str, str], dict[int, str]] = {}
    for file in sorted(files):
        if match := OF_TOTAL.fullmatch(file.name):
            before, number, total, after = match.groups()
        elif match := NUMBERED.fullmatch(file.name):
            (before, number, after), total = match.groups(), ""
        else:
            continue
        numbers = groups.setdefault((file.parent, before, after, total), {})
        if int(number) in numbers or (total and int(number) >= int(total)):
            raise UserError(f"{file}: its number does not fit the files beside it; move those of other sets elsewhere")
        numbers[int(number)] = number
    for (folder, before, after, total), numbers in groups.items():
        count = (int(total) if total else max(numbers) + 1) - len(numbers)
        if count:  # before a search for the first: the number may be a date
            first = next(number for number in itertools.count() if number not in numbers)
            width = len(next(iter(numbers.values())))
            name = f"{before}{first:0{width}}{'-of-' + total if total else ''}{after}"
            more = f", and {count - 1:,} more of its kind are" if count > 1 else " is"
            raise UserError(f"{folder}: {name}{more} missing; download them")


def by_wnid(splits: dict[SplitName, Samples], files: Sequence[Path]) -> dict[SplitName, Samples] | None:
    """Returns samples, which are by numbered label, by WordNet ID; None if the images' names do not tell these.

    The names n01440764_10026.JPEG and ILSVRC2012_val_00000001.JPEG do. They tell nothing if fewer than half of the
    images have such names, or if for most of them labels and WordNet IDs differ, as with groups of classes. A label
    that contradicts most others is refused: some may be the development kit's.
    """
    groups = [(label, each) for samples in splits.values() for label, each in samples.items()]
    told = Counter((label, told_wnid(name)) for label, each in groups for name in each.names)
    wnid_of: dict[str, str] = {}
    label_of: dict[str, str] = {}
    for (label, wnid), _ in told.most_common():
        if wnid is not None:
            wnid_of.setdefault(label, wnid)
            label_of.setdefault(wnid, label)
    agreeing = {(label, wnid) for label, wnid in wnid_of.items() if label_of[wnid] == label}
    if 2 * sum(told[pair] for pair in agreeing) <= told.total():
        return None
    for label, each in groups:
        for index, name in enumerate(each.names):
            found = told_wnid(name)
            if (label, found) not in agreeing and (found is not None or label not in wnid_of):
                file = files[each.places[index * len(each.places) // len(each.names)]]
                raise UserError(
                    f"{file}: {each.members[index]}: has the label {label}, but other images with that label are of "
                    f"{wnid_of.get(label, 'no known class')}, and others of {found} have the label "
                    f"{label_of.get(found or '')}; make the files again with one label for each class"
                )
    return {split: {wnid_of[label]: each for label, each in samples.items()} for split, samples in splits.items()}
