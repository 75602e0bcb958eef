"""Opens CIFAR-10 and CIFAR-100 as torchvision.datasets leaves them on disk: pickled batches of pixels."""

import hashlib
import io
import pickle
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_torch.data.sources.archive_reader import ArchiveReader
from alexnet_torch.data.sources.file_listing import list_files
from alexnet_torch.data.sources.junk import PassedOver
from alexnet_torch.data.sources.sample_table import SampleTable
from alexnet_torch.data.sources.source import Source, SplitName
from alexnet_torch.data.sources.table_source import source_of_tables
from alexnet_torch.errors import UserError

SIDE = 32


@dataclass(frozen=True)
class CifarSet:
    """The files of a set, and their MD5 as torchvision.datasets has them."""

    folder: str
    train: dict[str, str]
    test: dict[str, str]
    meta: str
    names: str  # key of the classes' names in `meta`
    labels: str  # key of the labels in a batch


SETS = {
    "CIFAR-10": CifarSet(
        "cifar-10-batches-py",
        {
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        },
        {"test_batch": "40351d587109b95175f43aff81a1287e"},
        "batches.meta",
        "label_names",
        "labels",
    ),
    "CIFAR-100": CifarSet(
        "cifar-100-python",
        {"train": "16019d7e3df5f24257cddd939b257f8d"},
        {"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        "meta",
        "fine_label_names",
        "fine_labels",
    ),
}

ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
    *((f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
}
"""What an array needs: other names in a pickle could run a program."""


class CifarReader(ArchiveReader):
    """Places are (file, row, 0). An image is read as a PPM file: pixels without compression."""

    def read(self, index: int) -> bytes:
        """Returns an image as a file; raises OSError if the batch cannot be read."""
        number, row, _ = self.places[index].tolist()
        file = self.files[number]
        status, key = file.stat(), next(each.labels for each in SETS.values() if file.name in each.train | each.test)
        try:
            pixels = _pixels(file, key, status.st_mtime_ns, status.st_size)[row]  # (3072) uint8: three planes
        except (UserError, IndexError) as error:
            raise OSError(f"it changed since it was listed: {error}") from error
        image: bytes = pixels.reshape(3, SIDE, SIDE).transpose(1, 2, 0).tobytes()
        return b"P6\n%d %d\n255\n" % (SIDE, SIDE) + image


def find_cifar(root: Path) -> list[tuple[str, Path]]:
    """Returns the name and the folder of each set in a folder, or of the set that the folder is."""
    found = []
    for name, files in SETS.items():
        for folder in (root, root / files.folder):
            if (folder / files.meta).is_file() and any((folder / file).is_file() for file in files.train | files.test):
                found.append((name, folder))
    return found


def open_cifar(root: Path, name: str, folder: Path) -> Source:
    """Lists the images of a set; its test images are the validation split.

    Raises:
        UserError: a file is missing or damaged, or a label is out of range.
    """
    expected = SETS[name]
    meta = folder / expected.meta
    names = _unpickle(meta).get(expected.names)
    if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
        raise _damaged(meta, f"it has no list {expected.names}")
    tables, notes = [], []
    splits: dict[SplitName, dict[str, str]] = {"train": expected.train, "val": expected.test}
    for split, md5_of in splits.items():
        table = SampleTable(split, [folder / file for file in md5_of])
        for number, (file, md5) in enumerate(zip(table.files, md5_of.values(), strict=True)):
            if not file.is_file():
                raise UserError(f"--data {root}: {name} is incomplete: {file} is missing; unpack its archive again")
            found = hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
            if found != md5:
                notes.append(f"{file}: has the MD5 {found}, not the official {md5}")
            for row, label in enumerate(_labels(file, expected.labels, len(names))):
                place = (number, row, 0)
                table.add(names[label], f"{len(table):05}.ppm", f"image {row}", place)
        tables.append(table)
    files = [meta, *tables[0].files, *tables[1].files]
    return source_of_tables(name, root, tables, CifarReader, list_files(root, files), PassedOver(), notes=notes)


def _labels(file: Path, key: str, classes: int) -> list[int]:
    """Returns the labels of a batch, as many as it has images."""
    labels, _ = _read_batch(file, key)
    for row, label in enumerate(labels):
        if type(label) is not int or not 0 <= label < classes:
            raise UserError(f"{file}: image {row} has the label {label!r}, not 0 to {classes - 1}; unpack it again")
    return labels


@lru_cache(maxsize=8)  # CIFAR-10 has six batches of 30 MB
def _pixels(file: Path, key: str, changed: int, size: int) -> np.ndarray:
    """Returns a batch's pixels, (n, 3072) uint8."""
    del changed, size
    return _read_batch(file, key)[1]


def _read_batch(file: Path, key: str) -> tuple[list[Any], np.ndarray]:
    """Returns a batch's (n) labels and (n, 3072) uint8 pixels; raises a UserError if it has other content."""
    batch = _unpickle(file)
    labels, pixels = batch.get(key), batch.get("data")
    if not isinstance(labels, list) or not isinstance(pixels, np.ndarray) or not _fit(labels, pixels):
        raise _damaged(file, f"it has not as many {key} as rows of 3,072 bytes of data")
    return labels, pixels


def _fit(labels: list[Any], pixels: np.ndarray) -> bool:
    return pixels.dtype == np.uint8 and pixels.shape == (len(labels), 3 * SIDE * SIDE)


def _unpickle(file: Path) -> dict[str, Any]:
    """Returns the dictionary that a file contains; raises a UserError if it contains anything else."""
    try:
        with file.open("rb") as opened:
            value = _Unpickler(io.BufferedReader(opened), encoding="latin1").load()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error}); check its permissions") from error
    except Exception as error:  # a damaged pickle can raise any
        raise _damaged(file, (str(error) or type(error).__name__).splitlines()[0]) from error
    if not isinstance(value, dict):
        raise _damaged(file, "it contains no dictionary")
    return value


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no array")
        return super().find_class(module, name)


def _damaged(file: Path, reason: str) -> UserError:
    return UserError(f"{file}: is truncated or damaged ({reason}); unpack its archive again")
