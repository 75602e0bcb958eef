"""Opens data sets in tars: ILSVRC-2012's own archives, Hugging Face's flat ones, and webdataset's shards."""

from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

from alexnet_torch.data.sources.archive_reader import TarReader
from alexnet_torch.data.sources.class_folders import has_both_splits
from alexnet_torch.data.sources.devkit import DEVKIT, check_devkit
from alexnet_torch.data.sources.imagenet_tars import (
    CLASS_ARCHIVE,
    NAME_WITH_WNID,
    VALIDATION_NAME,
    add_class_archives,
    add_flat_archives,
)
from alexnet_torch.data.sources.junk import PassedOver, junk_path_reason, junk_reason
from alexnet_torch.data.sources.kept_index import kept_source
from alexnet_torch.data.sources.label_identities import name_classes
from alexnet_torch.data.sources.sample_table import SampleTable
from alexnet_torch.data.sources.shard_info import INFO, check_info
from alexnet_torch.data.sources.shard_numbers import check_complete
from alexnet_torch.data.sources.source import Source, SourceFiles, SplitName
from alexnet_torch.data.sources.table_source import source_of_tables
from alexnet_torch.data.sources.tar_members import list_tar
from alexnet_torch.data.sources.webdataset import KEY_AND_KIND, add_shards
from alexnet_torch.errors import UserError

Add = Callable[[SampleTable, PassedOver], None]

BYTES = {"ILSVRC2012_img_train.tar": 147_897_477_120, "ILSVRC2012_img_val.tar": 6_744_924_160}
"""Sizes of the archives at image-net.org. Their MD5 would take minutes at each start."""

SHARDS = "webdataset shards"
READ: dict[str, Add] = {
    "archives of classes": add_class_archives,
    "flat archives": add_flat_archives,
    SHARDS: add_shards,
}

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
"""What is compressed is refused, with what to do."""

PEEKED = 20  # members that tell what an archive is


def is_tar_set(root: Path) -> bool:
    """Returns whether a path is a tar, or a folder of tars for training or validation.

    Not a folder that has train/ and val/, too: its tars are what those were unpacked from.
    """
    if root.is_dir():
        return not has_both_splits(root) and any(_tars(root).values())
    return root.is_file() and root.name.lower().endswith(SUFFIXES)


def open_tar_set(root: Path) -> Source:
    """Lists the samples of the tars in a folder; a tar alone is a test set.

    Raises:
        UserError: an archive is missing, damaged or of an unknown kind, or its content is wrong.
    """
    tars: dict[SplitName, list[Path]] = _tars(root) if root.is_dir() else {"train": [], "val": [root]}
    splits = {name: files for name, files in tars.items() if files}
    beside = [root / name for name in (DEVKIT, INFO) if (root / name).is_file()]
    return kept_source(root, [*tars["train"], *tars["val"], *beside], lambda files: _build(root, splits, beside, files))


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


def _build(root: Path, splits: dict[SplitName, list[Path]], beside: Sequence[Path], files: SourceFiles) -> Source:
    """Lists the archives of each split, training first; `beside` are files that describe them."""
    notes = [note for file in beside if file.name == DEVKIT for note in check_devkit(file)]
    passed_over, tables, kinds = PassedOver(), [], []
    _pass_over_others(root, splits, passed_over)
    for split, archives in splits.items():
        found = {_kind(file) for file in archives}
        if len(found) > 1:
            raise UserError(
                f"--data {root}: its {split} archives are of different kinds: {', '.join(sorted(found))}; "
                "move those of one kind elsewhere"
            )
        kinds.append(found.pop())
        # the number in a name of one file may be a year
        if root.is_dir() and (kinds[-1] == SHARDS or len(archives) > 1):
            check_complete(archives)
        tables.append(SampleTable(split, archives))
    if len(set(kinds)) == 2 and SHARDS in kinds:
        raise UserError(
            f"--data {root}: has {kinds[0]} to train on and {kinds[1]} to validate; give both splits in one form"
        )
    for table, kind in zip(tables, kinds, strict=True):
        READ[kind](table, passed_over)
    if SHARDS in kinds:
        for file in beside:
            if file.name == INFO:
                check_info(file, tables)
        form = "webdataset shards" if name_classes(tables) else "webdataset shards with classes by number"
        return source_of_tables(form, root, tables, TarReader, files, passed_over, val_files="shards named *val*.tar")
    notes += [_size_note(file) for table in tables for file in table.files if _size_note(file)]
    form, val_files = "ILSVRC-2012 in tars", "ILSVRC2012_img_val.tar"
    return source_of_tables(form, root, tables, TarReader, files, passed_over, notes=notes, val_files=val_files)


def _pass_over_others(root: Path, splits: dict[SplitName, list[Path]], passed_over: PassedOver) -> None:
    """Counts the tars of a folder that belong to no split, such as ILSVRC2012_img_test.tar."""
    taken = {root / DEVKIT, *(file for archives in splits.values() for file in archives)}
    for file in sorted(root.iterdir()) if root.is_dir() else ():
        if file not in taken and file.name.lower().endswith(SUFFIXES) and file.is_file():
            passed_over.add(junk_reason(file.name) or "of no split", file.name)


def _size_note(file: Path) -> str:
    """Returns a warning about an archive of an official name that has not the official size; else an empty text."""
    size, official = file.stat().st_size, BYTES.get(file.name)
    if official in (None, size):
        return ""
    return f"{file}: has {size:,} bytes, and image-net.org's file {official:,}: it is another file, or a part of it"


def _kind(file: Path) -> str:
    """Returns the kind of an archive, a key of READ, by its first members.

    Raises:
        UserError: it is none of them, or damaged.
    """
    with closing(list_tar(file)) as members:
        names = [member.name for member in islice(members, PEEKED) if not junk_path_reason(member.name)]
    if any(CLASS_ARCHIVE.fullmatch(name) for name in names):
        return "archives of classes"
    matches = [KEY_AND_KIND.fullmatch(name) for name in names]
    if any(match and match[2].lower() in ("cls", "json") for match in matches):
        return SHARDS
    base_names = [name.rpartition("/")[2] for name in names]
    if any(VALIDATION_NAME.fullmatch(name) or NAME_WITH_WNID.fullmatch(name) for name in base_names):
        return "flat archives"
    example = f"such as {names[0]}" if names else "no files"
    raise UserError(
        f"{file}: contains {example}: neither webdataset's samples, as x.jpg and x.cls, nor <wnid>.tar, nor images "
        "named as ILSVRC-2012's; unpack it (tar -xf) and name the folder"
    )
