"""What data sets in archives share: their files, numbers, classes by label or name, and a kept index."""

import hashlib
import itertools
import pickle
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from alexnet_torch.data.sources.classes import told_wnid
from alexnet_torch.data.sources.source import (
    ClassSamples,
    Reader,
    Skipped,
    Source,
    SourceFiles,
    SplitName,
    make_source,
    state_of,
)
from alexnet_torch.errors import UserError
from alexnet_torch.files import atomic_write, cache_home

Samples = dict[str, ClassSamples]  # of a split by class
T = TypeVar("T")

VERSION = 6
"""Raised when the list of the same archives changes."""
KEPT_SAMPLES = 10_000
"""Smaller sets are listed in a fraction of a second."""
NUMBERED = re.compile(r"(.*?)(\d+)((?:-of-(\d+))?\.\w+)")  # train-00000-of-00294.parquet
WEB_PAGE = "is a web page; download the file again, logged in if the site asks for it"
STUBS = {
    b"version https://git-lfs": "is a pointer of Git LFS; fetch the file itself (git lfs pull)",
    b"<!doctype html": WEB_PAGE,
    b"<html": WEB_PAGE,
}
"""First bytes, in lower case, of what is often saved in the place of an archive."""


def list_files(root: Path, files: Sequence[Path]) -> SourceFiles:
    """Returns the state of archives in a folder, or of the file that `root` is; refuses what is none."""
    for file in files:
        with file.open("rb") as opened:
            begin = opened.read(64).lstrip().lower()
        for stub, problem in STUBS.items():
            if begin.startswith(stub):
                raise UserError(f"{file}: {problem}")
    states = np.array([state_of(file.stat()) for file in files], np.int64)
    return SourceFiles([file.relative_to(root).as_posix() for file in files], states)


def remembered(kind: str, key: str, build: Callable[[], T], is_large: Callable[[T], bool]) -> T:
    """Returns what `build` returns, which is kept in the user's cache folder if it is large."""
    try:
        path = cache_home() / kind / hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    except UserError:  # without a home folder
        return build()
    with suppress(OSError, AttributeError, ImportError):  # none there, or written by other code
        saved = path.read_bytes()
        if hashlib.sha256(saved[32:]).digest() == saved[:32]:  # else it is damaged, and written again
            value: T = pickle.loads(saved[32:])
            return value
    built = build()
    if is_large(built):
        content = pickle.dumps(built)
        with suppress(OSError):  # a full disk
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(path, hashlib.sha256(content).digest() + content)
    return built


def kept_source(root: Path, files: Sequence[Path], build: Callable[[], Source]) -> Source:
    key = f"{VERSION} {root} {root.resolve()} {list_files(root, files).digest()}"
    return remembered("indexes", key, build, lambda made: sum(map(len, made.splits)) >= KEPT_SAMPLES)


def archive_source(
    form: str,
    root: Path,
    splits: Mapping[SplitName, Samples],
    reader: type[Reader],
    files: Sequence[Path],
    skipped: Skipped,
    val_files: str = "",  # those that validation images would be in
    **facts: Any,
) -> Source:
    """Returns the samples in archives; `facts` are those of `make_source`."""
    for split, by_class in splits.items():
        if not by_class:
            raise UserError(f"--data {root}: no images in the {split} files; download them again")
    if "val" not in splits:
        fix = f"put {val_files} beside it, or let --val-split 0.1 choose some"
        facts["without_val"] = f"has {files[0].name} but no validation images; {fix}"
    return make_source(form, root, splits, partial(reader, tuple(files)), skipped, list_files(root, files), **facts)


def check_complete(files: Iterable[Path]) -> None:
    """Refuses numbered files, from 0 on, that are not all there."""
    groups: defaultdict[tuple[Path, str, str, str], dict[int, str]] = defaultdict(dict)
    for file in files:
        if match := NUMBERED.fullmatch(file.name):
            before, number, after, total = match.groups("")
            groups[file.parent, before, after, total][int(number)] = number
    for (folder, before, after, total), numbers in groups.items():
        if missing := (int(total) if total else max(numbers) + 1) - len(numbers):
            first = next(number for number in itertools.count() if number not in numbers)  # the last may be a date
            name = f"{before}{first:0{len(next(iter(numbers.values())))}}{after}"
            raise UserError(f"{folder}: {missing:,} numbered file(s) missing, the first {name}; download them")


def by_wnid(splits: dict[SplitName, Samples], files: Sequence[Path]) -> dict[SplitName, Samples] | None:
    """Returns samples by WordNet ID, not label; None if most names tell none. Some may be the development kit's."""
    groups = [(label, each) for samples in splits.values() for label, each in samples.items()]
    told = Counter((label, told_wnid(name)) for label, each in groups for name in each.names)
    wnids: dict[str, str] = {}
    labels: dict[str, str] = {}
    for (label, wnid), _ in told.most_common():
        if wnid:
            wnids.setdefault(label, wnid)
            labels.setdefault(wnid, label)
    wnids = {label: wnid for label, wnid in wnids.items() if labels[wnid] == label}  # else they are groups of classes
    if 2 * sum(told[pair] for pair in wnids.items()) <= told.total():
        return None
    for label, each in groups:
        for name, member, number in zip(each.names, each.members, each.places[::3], strict=True):
            if label not in wnids or told_wnid(name) not in (None, wnids[label]):
                known = wnids.get(label, "no known class")
                what = f"has the label {label}, but other images with that label are of {known}"
                raise UserError(f"{files[number]}: {member}: {what}; make the files again with a label for each class")
    return {split: {wnids[label]: each for label, each in samples.items()} for split, samples in splits.items()}
