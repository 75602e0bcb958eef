"""A file of many images' features, .npy, .safetensors or .h5, made of parts that were written row by row.

Each array has a part: a file of its rows. The number of rows is known only at the end, since some files may be
unreadable. So a part that becomes the file itself starts with room for the longest possible header, that of all
files; `write_feature_file` writes the final header there, padded to the same length.
"""

import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_torch.errors import UserError
from alexnet_torch.files import atomic_write, explain_missing_package, sync_folder, utf8_text

SUFFIXES = (".npy", ".safetensors", ".h5")
MAX_SAFETENSORS_HEADER = 100_000_000  # bytes that the safetensors library reads
HDF5_REQUIREMENTS = "hdf5"
_COPIED = 1 << 24  # bytes copied at a time


@dataclass(frozen=True)
class FeatureArray:
    """One array of a feature file.

    Attributes:
        name: "features" for a single array, else for example "conv5" or "conv5.tower0".
        shape: of one row.
    """

    name: str
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """The size of one row of float32 values."""
        return 4 * math.prod(self.shape)


@dataclass(frozen=True)
class FeatureMetadata:
    """Description of a feature file and its rows.

    Attributes:
        source: the model, stages and folder, as JSON values by name.
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

    def without(self, rows: Iterable[int]) -> "FeatureMetadata":
        """Returns the metadata without these rows, whose files become the skipped ones."""
        readable = np.ones(len(self.files), bool)
        readable[list(rows)] = False
        files = tuple(file for file, ok in zip(self.files, readable, strict=True) if ok)
        skipped = tuple(file for file, ok in zip(self.files, readable, strict=True) if not ok)
        return FeatureMetadata(self.source, files, self.classes, self.labels[readable], skipped)

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


def bytes_on_disk(path: Path, rows: int, arrays: Sequence[FeatureArray]) -> int:
    """Returns the space that parts, labels and the file need together, in bytes, without headers."""
    sizes = [rows * array.row_bytes for array in arrays]
    copied = {".npy": 0, ".safetensors": sum(sizes[1:]), ".h5": sum(sizes)}  # from parts into the file
    return sum(sizes) + copied[path.suffix] + 4 * rows


def header_lengths(path: Path, metadata: FeatureMetadata, arrays: Sequence[FeatureArray]) -> list[int]:
    """Returns how many bytes to leave free at the start of each array's part.

    Raises:
        UserError: the file names do not fit into a safetensors header.
    """
    rows = len(metadata.files)
    if path.suffix == ".npy":
        return [len(_npy_header((rows, *array.shape))) for array in arrays]
    first = len(_safetensors_header(metadata, arrays)) if path.suffix == ".safetensors" else 0
    return [first] + [0] * (len(arrays) - 1)


def array_paths(path: Path, arrays: Sequence[FeatureArray]) -> list[Path]:
    """Returns the .npy file of each array: `path` itself for one, else for example FILE.conv5.npy for FILE.npy."""
    return [path if len(arrays) == 1 else path.with_suffix(f".{array.name}.npy") for array in arrays]


def write_feature_file(
    path: Path, metadata: FeatureMetadata, arrays: Sequence[FeatureArray], parts: Sequence[Path]
) -> None:
    """Makes the file of finished parts; it appears complete or not at all. The parts are moved or changed.

    A .npy file is one float32 array (rows, *shape); several arrays have a file each, see `array_paths`. The metadata
    and labels are in a .json file of the same name. A .safetensors or .h5 file has the arrays and "labels"; the rest
    is in its metadata or attributes, strings unchanged and other values as JSON. In .h5, "files" and "classes" are
    arrays of strings.

    Args:
        path: ends in .npy, .safetensors or .h5.
        metadata: of the rows in the parts.
        arrays: name and row shape of each array.
        parts: the file of each array: the bytes of `header_lengths`, then the rows, float32 little-endian.

    Raises:
        OSError: a file cannot be written.
    """
    writers = {".npy": _write_npy, ".safetensors": _write_safetensors, ".h5": _write_hdf5}
    writers[path.suffix](path, metadata, arrays, parts)
    sync_folder(path.parent)


def _write_npy(path: Path, metadata: FeatureMetadata, arrays: Sequence[FeatureArray], parts: Sequence[Path]) -> None:
    shapes, paths = [(len(metadata.files), *array.shape) for array in arrays], array_paths(path, arrays)
    for part, shape in zip(parts, shapes, strict=True):
        with part.open("r+b") as file:
            file.write(_npy_header(shape))
    described: dict[str, Any] = {"shape": shapes[0]}
    if len(arrays) > 1:
        named = zip(arrays, paths, shapes, strict=True)
        described = {"arrays": {array.name: {"file": p.name, "shape": shape} for array, p, shape in named}}
    values = {**described, **metadata.json_values(), "labels": metadata.labels.tolist()}
    for array_path in paths:
        array_path.unlink(missing_ok=True)  # so that an old array is never beside the new names
    atomic_write(path.with_suffix(".json"), lambda file: file.write(json.dumps(values).encode()))
    for part, array_path in zip(parts, paths, strict=True):
        part.replace(array_path)


def _write_safetensors(
    path: Path, metadata: FeatureMetadata, arrays: Sequence[FeatureArray], parts: Sequence[Path]
) -> None:
    with parts[0].open("r+b") as file:
        length = file.seek(0, os.SEEK_END) - len(metadata.files) * arrays[0].row_bytes
        for part in parts[1:]:
            with part.open("rb") as rows:
                shutil.copyfileobj(rows, file, _COPIED)
        file.write(metadata.labels.astype("<i4").tobytes())
        file.seek(0)
        file.write(_safetensors_header(metadata, arrays, length))
        file.flush()
        os.fsync(file.fileno())
    parts[0].replace(path)


def _write_hdf5(path: Path, metadata: FeatureMetadata, arrays: Sequence[FeatureArray], parts: Sequence[Path]) -> None:
    with explain_missing_package(path, HDF5_REQUIREMENTS):
        import h5py  # not at the top: an optional package
    rows, complete = len(metadata.files), parts[0].with_name("complete.h5")
    strings = h5py.string_dtype()
    values = metadata.json_values()
    with h5py.File(complete, "w") as file:
        for array, part in zip(arrays, parts, strict=True):
            dataset = file.create_dataset(array.name, (rows, *array.shape), "<f4")
            mapped = np.memmap(part, "<f4", "r", shape=(rows, *array.shape))
            step = max(1, _COPIED // array.row_bytes)
            for first in range(0, rows, step):
                dataset[first : first + step] = mapped[first : first + step]
        file.create_dataset("labels", data=metadata.labels.astype("<i4"))
        for name in ("files", "classes"):  # too long for attributes
            encoded = [value.encode("utf-8", "surrogateescape") for value in values.pop(name)]  # their own bytes
            file.create_dataset(name, data=np.array(encoded, object), dtype=strings)
        for name, value in _strings(values).items():
            file.attrs[name] = value
    with complete.open("rb") as written:
        os.fsync(written.fileno())
    complete.replace(path)


def _strings(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: utf8_text(value) if isinstance(value, str) else json.dumps(value) for name, value in values.items()}


def _npy_header(shape: tuple[int, ...]) -> bytes:
    """Returns a header whose length does not depend on the number of rows: numpy leaves room for the first axis."""
    header = BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return header.getvalue()


def _safetensors_header(metadata: FeatureMetadata, arrays: Sequence[FeatureArray], length: int = 0) -> bytes:
    """Returns 8 bytes of length, then JSON, padded with spaces to `length` or, if that is 0, to a multiple of 8."""
    rows, end, tensors = len(metadata.files), 0, dict[str, Any]()
    for array in arrays:
        start, end = end, end + rows * array.row_bytes
        tensors[array.name] = {"dtype": "F32", "shape": [rows, *array.shape], "data_offsets": [start, end]}
    tensors["labels"] = {"dtype": "I32", "shape": [rows], "data_offsets": [end, end + 4 * rows]}
    text = json.dumps({"__metadata__": _strings(metadata.json_values()), **tensors}).encode()
    text = text.ljust((length or 8 + -(-len(text) // 8) * 8) - 8)
    assert length in (0, 8 + len(text))
    if len(text) > MAX_SAFETENSORS_HEADER:
        raise UserError(
            f"--output: the names of {rows} files need {len(text) / 1e6:.0f} MB, but a .safetensors "
            f"header has {MAX_SAFETENSORS_HEADER / 1e6:.0f} MB at most; name a .npy file"
        )
    return len(text).to_bytes(8, "little") + text
