"""Reads image rows of parquet files as Hugging Face writes them, a page at a time."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_torch.errors import UserError
from alexnet_torch.files import explain_missing_package

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

ROWS_READ = 16
"""Rows taken at a time. pyarrow decodes a page at a time, of up to 1,024 rows: 110 MB of ImageNet's JPEGs.

A row group can have all rows of its file; those of Hugging Face's imagenet-1k have 100.
"""


@dataclass(frozen=True)
class ParquetRow:
    """Where an image is, and what else its row has."""

    group: int  # row group of the file
    row: int  # row in the group
    label: int  # -1: none, as in ImageNet's test split
    name: str  # the image's file name; "" if the row has none


def list_rows(file: Path) -> Iterator[ParquetRow]:
    """Yields the rows of a file in order, without reading the images.

    Raises:
        UserError: pyarrow is missing, the file is truncated or damaged, it has no columns `image` and `label` of
            Hugging Face's types, or a row has no label.
    """
    with _reading(file):
        opened = _open(file)
        has_path = _check_columns(file, opened)
    columns = ["label", "image.path"] if has_path else ["label"]
    for group in range(opened.num_row_groups):
        with _reading(file):
            table = opened.read_row_group(group, columns, use_threads=False)
            labels = table.column("label").to_pylist()
            images = table.column("image").to_pylist() if has_path else [None] * len(labels)
        for row, (label, image) in enumerate(zip(labels, images, strict=True)):
            if label is None:
                raise UserError(f"{file}: row {row} of row group {group} has no label; write the file again with one")
            yield ParquetRow(group, row, label, (image or {}).get("path") or "")


def class_names(file: Path) -> list[str] | None:
    """Returns the names of the labels 0, 1, ... in a file's metadata; None if it names none.

    Raises:
        UserError: as for `list_rows`, or the metadata is not what Hugging Face writes.
    """
    with _reading(file):
        metadata = (_open(file).schema_arrow.metadata or {}).get(b"huggingface")
    if metadata is None:
        return None
    try:
        names = json.loads(metadata)["info"]["features"]["label"].get("names")
        return None if names is None else [str(name) for name in names]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file}: its metadata does not describe the column label as Hugging Face does ({error!r}); "
            "write the file again with the package datasets"
        ) from error


def read_image(file: Path, group: int, row: int) -> bytes:
    """Returns the bytes of the image in a row; rows of a group are best read in their order.

    Raises:
        OSError: the file cannot be opened.
        UserError: it is damaged, or the row has no bytes.
    """
    status = file.stat()  # a file that was replaced is opened again
    return _opened_group(file, group, status.st_mtime_ns, status.st_size).read(row)


class _RowGroup:
    """Reads the images of one row group: forward, and from its start again to go back."""

    def __init__(self, file: Path, group: int) -> None:
        self._file, self._group = file, group
        self._start()

    def _start(self) -> None:
        with _reading(self._file):
            opened = _open(self._file)
            self._batches = opened.iter_batches(ROWS_READ, [self._group], ["image.bytes"], use_threads=False)
        self._first = 0
        self._images: Any = ()  # of rows from `first` on, a column of pyarrow's

    def read(self, row: int) -> bytes:
        if row < self._first:
            self._start()
        while row >= self._first + len(self._images):
            try:
                with _reading(self._file):
                    batch = next(self._batches, None)
                if batch is None:
                    raise UserError(f"{self._file}: row group {self._group} has no row {row}; download it again")
            except UserError:
                self._start()  # where an iterator goes on after an error is not defined
                raise
            self._first += len(self._images)
            self._images = batch.column("image")
        image = self._images[row - self._first].as_py()
        if not image or not image["bytes"]:
            raise UserError(
                f"{self._file}: row {row} of row group {self._group} has no bytes; "
                "write the file again with the images inside (datasets: embed_table_storage)"
            )
        return bytes(image["bytes"])


@lru_cache(maxsize=2)
def _opened_group(file: Path, group: int, changed: int, size: int) -> _RowGroup:
    """Returns the reader of a row group, which this process keeps for the next row."""
    del changed, size
    return _RowGroup(file, group)


def _open(file: Path) -> "ParquetFile":
    from pyarrow import parquet

    # buffered: else each column of a row group is read into memory as a whole
    return parquet.ParquetFile(file, buffer_size=2**20, pre_buffer=False)


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Turns what pyarrow raises for a damaged file, or its absence, into a UserError."""
    with explain_missing_package(file, "parquet"):
        from pyarrow import ArrowException
    try:
        yield
    except (ArrowException, OSError, ValueError, MemoryError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(f"{file}: is truncated or damaged ({reason}); download or copy it again") from error


def _check_columns(file: Path, opened: "ParquetFile") -> bool:
    """Checks the types of the columns; returns whether the images have file names."""
    from pyarrow import types

    schema = opened.schema_arrow
    found = ", ".join(f"{field.name} ({field.type})" for field in schema) or "none"
    expected = "image (struct<bytes: binary, path: string>) and label (int64)"
    problem = UserError(
        f"{file}: has the columns {found}; Hugging Face's image sets have {expected}: rename or convert them"
    )
    if not {"image", "label"} <= set(schema.names) or not types.is_struct(schema.field("image").type):
        raise problem
    parts = {part.name: part.type for part in schema.field("image").type}
    if not types.is_integer(schema.field("label").type) or not (
        "bytes" in parts and (types.is_binary(parts["bytes"]) or types.is_large_binary(parts["bytes"]))
    ):
        raise problem
    return "path" in parts
