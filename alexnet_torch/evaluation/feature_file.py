"""One file of many images' features, .npy or .safetensors, written a block at a time.

How many rows there will be is known at the end alone, since files may turn out unreadable. So the
header is written first for all files, which takes the most room that it can need, and again, padded
to the same length, when the rows are there.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from alexnet_torch.errors import UserError
from alexnet_torch.files import atomic_write, replacing

KINDS = (".npy", ".safetensors")
SAFETENSORS_HEADER_BYTES = 100_000_000
"""The longest header that the safetensors library reads."""


@dataclass(frozen=True)
class Listing:
    """What the rows of a feature file are of.

    Attributes:
        facts: what else to say of the rows, JSON values by name.
        files: relative to the folder, a row each.
        classes: the folders that they lie in, sorted.
        labels: (rows,) int32, each file's index into `classes`; -1 where it lies in no subfolder.
        skipped: files that could not be read.
    """

    facts: dict[str, Any]
    files: tuple[str, ...]
    classes: tuple[str, ...]
    labels: np.ndarray
    skipped: tuple[str, ...] = ()

    def keep(self, rows: np.ndarray) -> "Listing":
        """The listing with these rows alone, the others skipped."""
        kept = np.zeros(len(self.files), bool)
        kept[rows] = True
        files = [tuple(f for f, k in zip(self.files, kept, strict=True) if k == which) for which in (True, False)]
        return Listing(self.facts, files[0], self.classes, self.labels[kept], files[1])

    def described(self) -> dict[str, Any]:
        """All but the labels, JSON values by name."""
        return {**self.facts, "files": self.files, "classes": self.classes, "skipped": self.skipped}


def folder_classes(files: Iterable[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """The folders that files lie in, sorted, and each file's index among them: (n,) int32, -1 for none.

    Args:
        files: relative paths, with "/" between folders.
    """
    folders = [file.rpartition("/")[0] for file in files]
    classes = tuple(sorted(set(folders) - {""}))
    number = {"": -1, **{name: index for index, name in enumerate(classes)}}
    return classes, np.array([number[folder] for folder in folders], np.int32)


def data_bytes(rows: int, row: tuple[int, ...]) -> int:
    """The bytes of `rows` float32 arrays of shape `row`, and their labels."""
    return rows * (4 * math.prod(row) + 4)


def write_features(
    path: Path, listing: Listing, row: tuple[int, ...], blocks: Iterable[tuple[np.ndarray, np.ndarray]]
) -> Listing:
    """Writes features as they come; the file appears complete or not at all.

    A .npy file is one array (rows, *row) of float32, with a .json of the same name beside it for
    all else. A .safetensors file holds "features" and "labels", and all else in its metadata: strings
    as they are, other values as JSON.

    Args:
        path: ends in .npy or .safetensors.
        listing: of all files.
        row: shape of one file's features.
        blocks: (n,) int64 rows of the listing, ascending, and their (n, *row) float32 features; rows that
            no block has are skipped files.

    Returns:
        the listing of what was written.

    Raises:
        UserError: the names take more room than a safetensors header has.
        OSError: the file cannot be written.
    """
    kept = [np.empty(0, np.int64)]
    with replacing(path) as file:
        reserved = len(_header(path, listing, row))
        file.write(bytes(reserved))
        for rows, features in blocks:
            kept.append(rows)
            file.write(np.ascontiguousarray(features, "<f4").data)
        done = listing.keep(np.concatenate(kept))
        _finish(file, path, done, row, reserved)
    return done


def _finish(file: BinaryIO, path: Path, done: Listing, row: tuple[int, ...], reserved: int) -> None:
    header = _header(path, done, row, reserved)
    assert len(header) == reserved
    if path.suffix == ".safetensors":
        file.write(done.labels.astype("<i4").tobytes())
    else:
        described = {"shape": [len(done.files), *row], **done.described(), "labels": done.labels.tolist()}
        path.unlink(missing_ok=True)  # an array of before is never beside the names of now
        atomic_write(path.with_suffix(".json"), lambda beside: beside.write(json.dumps(described).encode()))
    file.seek(0)
    file.write(header)


def _header(path: Path, listing: Listing, row: tuple[int, ...], length: int = 0) -> bytes:
    shape = [len(listing.files), *row]
    return _safetensors_header(listing, shape, length) if path.suffix == ".safetensors" else _npy_header(shape)


def _npy_header(shape: list[int]) -> bytes:
    """Of the same length whatever the rows: numpy leaves room for the first axis to grow."""
    header = BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": tuple(shape)})
    return header.getvalue()


def _safetensors_header(listing: Listing, shape: list[int], length: int) -> bytes:
    """The length as 8 bytes, then JSON, padded with spaces so that all is `length` and a multiple of 8."""
    values = listing.described()
    metadata = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
    end = 4 * math.prod(shape)
    tensors = {
        "features": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]},
        "labels": {"dtype": "I32", "shape": shape[:1], "data_offsets": [end, end + 4 * shape[0]]},
    }
    text = json.dumps({"__metadata__": metadata, **tensors}).encode()
    text = text.ljust((length or 8 + -(-len(text) // 8) * 8) - 8)
    if len(text) > SAFETENSORS_HEADER_BYTES:
        raise UserError(
            f"--output: the names of {len(listing.files)} files take {len(text) / 1e6:.0f} MB, and a .safetensors "
            f"header at most {SAFETENSORS_HEADER_BYTES / 1e6:.0f}; name a .npy file"
        )
    return len(text).to_bytes(8, "little") + text
