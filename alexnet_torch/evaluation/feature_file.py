"""A file of many images' features, .npy or .safetensors, written block by block.

The number of rows is known only at the end, since some files may be unreadable. So the header for all
files, which is the longest possible one, is written first; the final header, padded to the same length,
replaces it after the last row.
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
from alexnet_torch.files import atomic_file, atomic_write

SUFFIXES = (".npy", ".safetensors")
MAX_SAFETENSORS_HEADER = 100_000_000  # bytes that the safetensors library reads


@dataclass(frozen=True)
class FeatureMetadata:
    """Description of a feature file and its rows.

    Attributes:
        source: the model, stage and folder, as JSON values by name.
        files: of each row, relative to the folder.
        classes: the folders that contain the files, sorted.
        labels: (rows,) int32, each file's index into `classes`; -1 if it is in no subfolder.
        skipped: files that could not be read.
    """

    source: dict[str, Any]
    files: tuple[str, ...]
    classes: tuple[str, ...]
    labels: np.ndarray
    skipped: tuple[str, ...] = ()

    def select(self, rows: np.ndarray) -> "FeatureMetadata":
        """Returns the metadata of these rows only, with the files of the other rows as skipped."""
        selected = np.zeros(len(self.files), bool)
        selected[rows] = True
        files = tuple(file for file, used in zip(self.files, selected, strict=True) if used)
        skipped = tuple(file for file, used in zip(self.files, selected, strict=True) if not used)
        return FeatureMetadata(self.source, files, self.classes, self.labels[selected], skipped)

    def json_values(self) -> dict[str, Any]:
        """Returns everything except the labels, as JSON values by name."""
        return {**self.source, "files": self.files, "classes": self.classes, "skipped": self.skipped}


def folder_classes(files: Iterable[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """Returns the folders that contain the files, sorted, and each file's index into them: (n,) int32, -1 for none.

    Args:
        files: relative paths, with "/" between folders.
    """
    folders = [file.rpartition("/")[0] for file in files]
    classes = tuple(sorted(set(folders) - {""}))
    index = {"": -1, **{name: i for i, name in enumerate(classes)}}
    return classes, np.array([index[folder] for folder in folders], np.int32)


def data_bytes(rows: int, shape: tuple[int, ...]) -> int:
    """Returns the size in bytes of `rows` float32 arrays of this shape and their labels."""
    return rows * (4 * math.prod(shape) + 4)


def write_features(
    path: Path, metadata: FeatureMetadata, shape: tuple[int, ...], blocks: Iterable[tuple[np.ndarray, np.ndarray]]
) -> FeatureMetadata:
    """Writes features block by block; the file appears complete or not at all.

    A .npy file is one float32 array (rows, *shape); the metadata and labels are in a .json file of the same
    name. A .safetensors file has tensors "features" and "labels"; the rest is in its metadata: strings
    unchanged, other values as JSON.

    Args:
        path: ends in .npy or .safetensors.
        metadata: of all files.
        shape: of one file's features.
        blocks: (n,) int64 row numbers, ascending, and their (n, *shape) float32 features; files whose rows
            are in no block are skipped.

    Returns:
        the metadata of the rows that were written.

    Raises:
        UserError: the file names do not fit into a safetensors header.
        OSError: the file cannot be written.
    """
    written = [np.empty(0, np.int64)]
    with atomic_file(path) as file:
        header_length = len(_header(path, metadata, shape))
        file.write(bytes(header_length))
        for rows, features in blocks:
            written.append(rows)
            file.write(np.ascontiguousarray(features, "<f4").data)
        final = metadata.select(np.concatenate(written))
        _write_metadata(file, path, final, shape, header_length)
    return final


def _write_metadata(
    file: BinaryIO, path: Path, metadata: FeatureMetadata, shape: tuple[int, ...], header_length: int
) -> None:
    header = _header(path, metadata, shape, header_length)
    assert len(header) == header_length
    if path.suffix == ".safetensors":
        file.write(metadata.labels.astype("<i4").tobytes())
    else:
        full_shape = [len(metadata.files), *shape]
        values = {"shape": full_shape, **metadata.json_values(), "labels": metadata.labels.tolist()}
        path.unlink(missing_ok=True)  # so that an old array is never beside the new names
        atomic_write(path.with_suffix(".json"), lambda json_file: json_file.write(json.dumps(values).encode()))
    file.seek(0)
    file.write(header)


def _header(path: Path, metadata: FeatureMetadata, shape: tuple[int, ...], length: int = 0) -> bytes:
    full_shape = [len(metadata.files), *shape]
    if path.suffix == ".safetensors":
        return _safetensors_header(metadata, full_shape, length)
    return _npy_header(full_shape)


def _npy_header(shape: list[int]) -> bytes:
    """Returns a header whose length does not depend on the number of rows: numpy leaves room for the first axis."""
    header = BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": tuple(shape)})
    return header.getvalue()


def _safetensors_header(metadata: FeatureMetadata, shape: list[int], length: int) -> bytes:
    """Returns 8 bytes of length, then JSON, padded with spaces to `length` or, if that is 0, to a multiple of 8."""
    strings = {
        name: value if isinstance(value, str) else json.dumps(value) for name, value in metadata.json_values().items()
    }
    end = 4 * math.prod(shape)
    tensors = {
        "features": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]},
        "labels": {"dtype": "I32", "shape": shape[:1], "data_offsets": [end, end + 4 * shape[0]]},
    }
    text = json.dumps({"__metadata__": strings, **tensors}).encode()
    text = text.ljust((length or 8 + -(-len(text) // 8) * 8) - 8)
    if len(text) > MAX_SAFETENSORS_HEADER:
        raise UserError(
            f"--output: the names of {len(metadata.files)} files need {len(text) / 1e6:.0f} MB, but a .safetensors "
            f"header has {MAX_SAFETENSORS_HEADER / 1e6:.0f} MB at most; name a .npy file"
        )
    return len(text).to_bytes(8, "little") + text
