"""Data sets in parquet files as Hugging Face has them: data/train-00000-of-00294.parquet and so on."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from alexnet_torch.data.decode import UnreadableImage
from alexnet_torch.data.sources.archives import Samples, archive_source, by_wnid, check_complete, kept_source
from alexnet_torch.data.sources.classes import NAME_WITH_WNID, imagenet_classes
from alexnet_torch.data.sources.source import ClassSamples, Reader, Skipped, Source, SplitName
from alexnet_torch.errors import UserError
from alexnet_torch.files import importing, reading

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

PARTS = re.compile(r"(train|validation|valid|val|test)(?:-.*)?\.parquet")
ROWS_READ = 16  # at a time; pyarrow decodes a page, up to 1,024 rows
_lock = Lock()  # threads share the iterators over row groups


class ParquetReader(Reader):
    """Places are (file, row group, row in the group); rows of a group are best read in their order."""

    def read(self, index: int) -> bytes:
        number, group, row = self.places[index].tolist()
        file, status = self.files[number], self.files[number].stat()  # a file that was replaced is opened again
        try:
            with _lock, _reading(file):
                image = _opened_group(file, group, status.st_mtime_ns, status.st_size).image(row)
                if not image or not image["bytes"]:
                    raise ValueError("the row has no bytes; datasets' embed_table_storage writes the images into it")
        except UserError as error:
            _opened_group.cache_clear()  # an iterator is undefined after an error
            raise UnreadableImage(self.location(index), str(error)) from error
        return bytes(image["bytes"])


def open_parquet_set(root: Path) -> Source:
    """Lists the parquet files in a folder; a file alone is a test set, a test split may validate."""
    parts, skipped = parquet_files(root), Skipped()
    check_complete(file for files in parts.values() for file in files)
    for file in parts.pop("test", ()) if "val" in parts else ():
        skipped.add("of the test split", file.name)
    val = parts.get("val", []) + parts.get("test", [])
    archives: dict[SplitName, list[Path]] = {"train": parts.get("train", []), "val": val}
    files = [file for of_split in archives.values() for file in of_split]
    return kept_source(root, files, lambda: _list(root, archives, files, skipped))


def parquet_files(root: Path) -> dict[str, list[Path]]:
    if root.is_file():
        return {"val": [root]} if root.suffix == ".parquet" else {}
    found: dict[str, list[Path]] = {}
    for folder in (root / "data", root):
        for file in sorted(folder.glob("*.parquet")) if not found else ():
            if match := PARTS.fullmatch(file.name):
                found.setdefault("val" if match[1].startswith("val") else match[1], []).append(file)
    return found


def _list(root: Path, archives: dict[SplitName, list[Path]], files: list[Path], skipped: Skipped) -> Source:
    """Lists rows; classes by WordNet ID if names tell it, else by name, and if two are the same or none by number."""
    names = class_names(files[0])
    if others := [file for file in files if class_names(file) != names]:
        raise UserError(f"{others[0]}: its classes' names are not those of {files[0]}; move other sets elsewhere")
    splits: dict[SplitName, Samples] = {split: defaultdict(ClassSamples) for split in archives if archives[split]}
    for split, samples in splits.items():
        for file in archives[split]:
            _add_rows(file, files.index(file), samples, names)
    readable: dict[str, str] = {}
    if by_id := by_wnid(splits, files):
        splits = by_id
    elif names is not None:
        identities = names if len(set(names)) == len(names) else [str(label) for label in range(len(names))]
        if _is_imagenet(names):
            identities = [each.identity for each in imagenet_classes()]
        splits = {split: {identities[int(label)]: each for label, each in of.items()} for split, of in splits.items()}
        readable = dict(zip(identities, names, strict=True))
    found = root, splits, ParquetReader, files, skipped, "validation-*.parquet"
    return archive_source("Hugging Face parquet", *found, names=readable, names_repeat=True)


def _is_imagenet(names: Sequence[str]) -> bool:
    """Returns whether names are ImageNet's in order: sources spell some differently."""
    ours = (each.name for each in imagenet_classes())
    same = [a.lower().split(",")[0].strip() == b.lower().split(",")[0] for a, b in zip(names, ours, strict=False)]
    return len(names) == 1000 and sum(same) > 900


def _add_rows(file: Path, number: int, samples: Samples, names: Sequence[str] | None) -> None:
    with _reading(file):
        opened = _open(file)
        kinds = {field.name: str(field.type) for field in opened.schema_arrow}
        kind = kinds.get("image", "")
        if "bytes: " not in kind or "binary" not in kind or "int" not in kinds.get("label", ""):
            must = "Hugging Face's image (struct<bytes: binary, path: string>) and label (int64)"
            raise UserError(f"{file}: has the columns {kinds or 'none'}; rename or convert them to {must}")
        columns = ["label", "image.path"] if "path: " in kind else ["label"]
        for group in range(opened.num_row_groups):
            table = opened.read_row_group(group, columns, use_threads=False)
            labels = table.column("label").to_pylist()
            images = table.column("image").to_pylist() if len(columns) > 1 else [None] * len(labels)
            for row, (label, image) in enumerate(zip(labels, images, strict=True)):
                if label is None or not 0 <= label < (len(names) if names else 10**18):
                    where = f"row {row} of row group {group}"
                    raise UserError(f"{file}: {where} has the label {label}, which is no class; correct it")
                path = (image or {}).get("path") or ""
                name = path.rpartition("/")[2] or f"{number:05}-{group:05}-{row:07}"
                if match := NAME_WITH_WNID.fullmatch(name):
                    name = match[1] + match[3]
                samples[str(label)].add(name, f"{path or 'row'} {row}", number, group, row)


def class_names(file: Path) -> list[str] | None:
    with _reading(file):
        metadata = (_open(file).schema_arrow.metadata or {}).get(b"huggingface")
        names = json.loads(metadata)["info"]["features"]["label"].get("names") if metadata else None
        return None if names is None else [str(name) for name in names]


class _RowGroup:
    """Reads one row group: forward, and from its start again to go back."""

    def __init__(self, file: Path, group: int) -> None:
        self._start = lambda: _open(file).iter_batches(ROWS_READ, [group], ["image.bytes"], use_threads=False)
        self._batches, self._first = self._start(), 0
        self._images: Any = ()  # of rows from `first` on

    def image(self, row: int) -> Any:
        if row < self._first:
            self._batches, self._first, self._images = self._start(), 0, ()
        while row >= self._first + len(self._images):
            self._first += len(self._images)
            self._images = next(self._batches).column("image")
        return self._images[row - self._first].as_py()


@lru_cache(maxsize=2)
def _opened_group(file: Path, group: int, changed: int, size: int) -> _RowGroup:
    del changed, size
    return _RowGroup(file, group)


def _open(file: Path) -> "ParquetFile":
    from pyarrow import parquet

    # else each column of a row group is read as a whole
    return parquet.ParquetFile(file, buffer_size=2**20, pre_buffer=False)


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    with importing(file, "parquet"):
        import pyarrow  # noqa: F401
    with reading(file, "download or copy it again"):
        yield
