"""Opens data sets in parquet files as Hugging Face has them: data/train-00000-of-00294.parquet and so on."""

import re
from collections.abc import Sequence
from pathlib import Path

from alexnet_torch.data.sources.archive_reader import ParquetReader
from alexnet_torch.data.sources.class_folders import has_both_splits
from alexnet_torch.data.sources.imagenet_classes import imagenet_classes
from alexnet_torch.data.sources.imagenet_tars import NAME_WITH_WNID
from alexnet_torch.data.sources.junk import PassedOver
from alexnet_torch.data.sources.kept_index import kept_source
from alexnet_torch.data.sources.label_identities import name_classes
from alexnet_torch.data.sources.parquet_rows import class_names, list_rows
from alexnet_torch.data.sources.sample_table import SampleTable
from alexnet_torch.data.sources.shard_numbers import check_complete
from alexnet_torch.data.sources.source import Source, SourceFiles
from alexnet_torch.data.sources.table_source import source_of_tables
from alexnet_torch.errors import UserError

PARTS = re.compile(r"(train|validation|valid|val|test)(?:-.*)?\.parquet")


def is_parquet_set(root: Path) -> bool:
    """Returns whether a path is a parquet file, or a folder with such files of a split in it or in its data/.

    Not a folder that has train/ and val/, too: its parquet files are what those were made from.
    """
    return not has_both_splits(root) and bool(_parts(root))


def open_parquet_set(root: Path) -> Source:
    """Lists the samples of the parquet files in a folder; a file alone is a test set.

    Where there is no validation split, the test split takes its place, if it has labels.

    Raises:
        UserError: pyarrow or a file is missing, a file is damaged, or its content is wrong.
    """
    parts = _parts(root)
    check_complete(file for files in parts.values() for file in files)
    files = [file for name in sorted(parts) for file in parts[name]]
    return kept_source(root, files, lambda listed: _build(root, parts, listed))


def _parts(root: Path) -> dict[str, list[Path]]:
    """Returns the files of each of the splits train, val and test."""
    if root.is_file():
        return {"val": [root]} if root.suffix == ".parquet" else {}
    found: dict[str, list[Path]] = {}
    for folder in (root / "data", root):
        for file in sorted(folder.glob("*.parquet")) if not found else ():
            if match := PARTS.fullmatch(file.name):
                found.setdefault("val" if match[1].startswith("val") else match[1], []).append(file)
    return found


def _build(root: Path, parts: dict[str, list[Path]], files: SourceFiles) -> Source:
    """Lists the rows of the splits, training first."""
    passed_over, tables = PassedOver(), []
    names = _common_names([file for files in parts.values() for file in files])
    for name in ("train", "val", "test"):
        if name not in parts:
            continue
        if name == "test" and "val" in parts:
            for file in parts[name]:
                passed_over.add("of the test split", file.name)
            continue
        tables.append(SampleTable("train" if name == "train" else "val", parts[name], names_repeat=True))
        add_rows(tables[-1], names)
    readable = identify(tables, names)
    return source_of_tables(
        "Hugging Face parquet",
        root,
        tables,
        ParquetReader,
        files,
        passed_over,
        readable,
        val_files="validation-*.parquet",
    )


def _common_names(files: Sequence[Path]) -> list[str] | None:
    """Returns the names of labels 0, 1, ... that all files have; raises a UserError if they differ."""
    names = class_names(files[-1])
    for file in files:
        if class_names(file) != names:
            raise UserError(
                f"{file}: its classes' names are not those of {files[-1]}; move the files of other sets elsewhere"
            )
    return names


def add_rows(table: SampleTable, names: Sequence[str] | None) -> None:
    """Adds the rows of a split's files; the identities of their classes are the labels' numbers.

    Raises:
        UserError: a file is damaged, or a label is not one of the names.
    """
    for number, file in enumerate(table.files):
        for row in list_rows(file):
            place = f"{file}: row {row.row} of row group {row.group}"
            if row.label == -1:
                raise UserError(f"{place} has the label -1, which means none; images without labels cannot be used")
            if not 0 <= row.label < (len(names) if names else 10**18):
                last = f"0 to {len(names) - 1}" if names else "0 or more"
                raise UserError(f"{place} has the label {row.label}, not {last}; write the file again")
            file_name = row.name.rpartition("/")[2] or f"{number:05}-{row.group:05}-{row.row:07}"
            if match := NAME_WITH_WNID.fullmatch(file_name):
                file_name = match[1] + match[3]
            table.add(str(row.label), file_name, f"{row.name or 'row'} {row.row}", (number, row.group, row.row))


def identify(tables: Sequence[SampleTable], names: Sequence[str] | None) -> dict[str, str]:
    """Gives the classes their identities; returns their readable names.

    Identities are WordNet IDs if file names, the classes' names or ImageNet's order of them tell them; else the names;
    and if two names are the same, or there are none, the labels' numbers.
    """
    if names is None:
        name_classes(tables)
        return {}
    if name_classes(tables):
        return {}
    identities = list(names)
    if is_imagenet(names):
        identities = [each.identity for each in imagenet_classes()]
    elif len(set(names)) < len(names):
        return {str(label): name for label, name in enumerate(names)}
    for table in tables:
        table.rename({label: identities[int(label)] for label in table.identities})
    return dict(zip(identities, names, strict=True))


def is_imagenet(names: Sequence[str]) -> bool:
    """Returns whether names are those of ImageNet's 1,000 classes in order: sources spell some differently."""
    ours = [each.name for each in imagenet_classes()]
    same = sum(_first(name) == _first(our) for name, our in zip(names, ours, strict=False))
    return len(names) == len(ours) and same > 900


def _first(name: str) -> str:
    return name.split(",")[0].strip().lower()
