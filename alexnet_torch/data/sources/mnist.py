"""Opens MNIST and Fashion-MNIST as torchvision.datasets leaves them on disk: files of pixels in the format IDX."""

import os
from pathlib import Path

import numpy as np

from alexnet_torch.data.sources.archive_reader import ArchiveReader
from alexnet_torch.data.sources.file_listing import list_files
from alexnet_torch.data.sources.junk import PassedOver
from alexnet_torch.data.sources.sample_table import SampleTable
from alexnet_torch.data.sources.source import Source
from alexnet_torch.data.sources.table_source import source_of_tables
from alexnet_torch.errors import UserError

FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SETS = {"MNIST": ("MNIST", DIGITS), "Fashion-MNIST": ("FashionMNIST", FASHION)}
"""torchvision's name of each set's folder, and its names of the classes."""
FILES = {"train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")}
FILES["val"] = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
SIDE, CLASSES = 28, 10
HEADER = {3: 16, 1: 8}  # bytes before the values of an array of images, and of labels


class IdxReader(ArchiveReader):
    """Places are (file, row, 0). An image is read as a PGM file: pixels without compression."""

    def read(self, index: int) -> bytes:
        """Returns an image as a file; raises OSError if it cannot be read."""
        number, row, _ = self.places[index].tolist()
        descriptor = os.open(self.files[number], os.O_RDONLY)
        try:
            pixels = os.pread(descriptor, SIDE * SIDE, HEADER[3] + row * SIDE * SIDE)
        finally:
            os.close(descriptor)
        if len(pixels) < SIDE * SIDE:
            raise OSError("the file is truncated")
        return b"P5\n%d %d\n255\n" % (SIDE, SIDE) + pixels


def find_mnist(root: Path) -> list[tuple[str, Path]]:
    """Returns the name and the folder of each set in a folder, or of the set that the folder is."""
    found = []
    for name, (own, _) in SETS.items():
        folders = [root / own / "raw"]
        is_fashion = "FashionMNIST" in (root.name, root.parent.name)  # the files of both have the same names
        folders += [root / "raw", root] if is_fashion == (own == "FashionMNIST") else []
        found += [(name, folder) for folder in folders if _has_files(folder)]
    return found


def _has_files(folder: Path) -> bool:
    """Returns whether a folder has the images of one of the splits, packed or not."""
    return any((folder / f"{images}{suffix}").is_file() for images, _ in FILES.values() for suffix in ("", ".gz"))


def open_mnist(root: Path, name: str, folder: Path) -> Source:
    """Lists the images of a set; its test images are the validation split.

    Raises:
        UserError: a file is missing, packed or damaged, or a label is out of range.
    """
    tables, files = [], []
    for split, file_names in FILES.items():
        images, labels = (folder / file for file in file_names)
        for file in (images, labels):
            if not file.is_file():
                packed = file.with_name(f"{file.name}.gz")
                fix = f"is packed; run gzip -dk {packed}" if packed.is_file() else "is missing; download it"
                raise UserError(f"--data {root}: {name} is incomplete: {file} {fix}")
        count, values = _check_idx(images, 3), _check_idx(labels, 1)
        if count != values:
            raise UserError(f"{images}: has {count:,} images, and {labels.name} {values:,} labels; download both again")
        table = SampleTable("train" if split == "train" else "val", [images])
        for row, label in enumerate(np.fromfile(labels, np.uint8, offset=HEADER[1]).tolist()):
            if label >= CLASSES:
                raise UserError(f"{labels}: image {row} has the label {label}, not 0 to 9; download it again")
            table.add(str(label), f"{row:05}.pgm", f"image {row}", (0, row, 0))
        tables.append(table)
        files += [images, labels]
    # the digits are what others call these classes, too, and keep the data set's order; "T-shirt/top" is no folder
    names = {str(label): text for label, text in enumerate(SETS[name][1])}
    return source_of_tables(name, root, tables, IdxReader, list_files(root, files), PassedOver(), names)


def _check_idx(file: Path, dimensions: int) -> int:
    """Returns the length of an array of bytes; raises a UserError if the file is not one of the right shape."""
    with file.open("rb") as opened:
        content = opened.read(HEADER[dimensions])
    header = np.frombuffer(content, ">u4").tolist() if len(content) == HEADER[dimensions] else []
    shape = [SIDE, SIDE] if dimensions == 3 else []
    if header[:1] != [0x800 + dimensions] or header[2:] != shape:
        raise UserError(
            f"{file}: does not begin as {'images of 28x28 pixels' if shape else 'labels'} in IDX do; unpack it again"
        )
    expected = HEADER[dimensions] + header[1] * (SIDE * SIDE if shape else 1)
    size = file.stat().st_size
    if size != expected:
        raise UserError(
            f"{file}: has {size:,} bytes instead of {expected:,}: it is truncated or damaged; unpack it again"
        )
    return int(header[1])
