"""CIFAR-10, CIFAR-100, MNIST and Fashion-MNIST where torchvision.datasets puts them; downloads nothing."""

import hashlib
import pickle
from collections import defaultdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_torch.data.sources.archives import Samples, archive_source
from alexnet_torch.data.sources.listing import has_both_splits
from alexnet_torch.data.sources.source import ArchiveReader, ClassSamples, Skipped, Source, SplitName
from alexnet_torch.errors import UserError
from alexnet_torch.files import reading

SETS = {
    "CIFAR-10": ("CIFAR10", ("cifar-10-batches-py", "."), "data_batch_1"),
    "CIFAR-100": ("CIFAR100", ("cifar-100-python", "."), "train"),
    "MNIST": ("MNIST", ("MNIST/raw", "raw", "."), "train-images-idx3-ubyte"),
    "Fashion-MNIST": ("FashionMNIST", ("FashionMNIST/raw", "raw", "."), "train-images-idx3-ubyte"),
}
"""torchvision's class of each set, the folders that it may be in, and one of its files."""
IDX = ("images-idx3-ubyte", "labels-idx1-ubyte")


class PixelReader(ArchiveReader):
    """Places are (file, row). An image is read as a PPM or PGM file: pixels without compression."""

    def read(self, index: int) -> bytes:
        """As for every reader."""
        number, row = self.places[index].tolist()
        file = self.files[number]
        status = file.stat()
        try:
            pixels = _pixels(file, status.st_mtime_ns, status.st_size)[row]  # (H, W) or (H, W, 3) uint8
        except (UserError, IndexError) as error:
            raise OSError(f"it changed since it was listed: {error}") from error
        header: bytes = b"P%d\n%d %d\n255\n" % (5 if pixels.ndim == 2 else 6, *pixels.shape[1::-1])
        return header + bytes(pixels.tobytes())


def is_torchvision_set(root: Path) -> bool:
    """Returns whether a folder holds one of the sets, or is its own folder."""
    return not has_both_splits(root) and bool(_find(root))


def _find(root: Path) -> list[tuple[str, Path]]:
    """Returns the name and the folder of each set in a folder, or of the set that the folder is."""
    found = []
    for name, (of_set, folders, file) in SETS.items():
        for folder in folders:
            path = (root / folder).absolute()
            # the files of MNIST and of Fashion-MNIST have the same names
            other_mnist = "MNIST" in name and ("FashionMNIST" in path.parts) != (of_set == "FashionMNIST")
            other_cifar = name == "CIFAR-100" and not (path / "meta").is_file()
            if any((path / f"{file}{suffix}").is_file() for suffix in ("", ".gz")) and not (other_mnist or other_cifar):
                found.append((name, root / folder))
    return found


def open_torchvision_set(root: Path) -> Source:
    """Lists the images of a set; its test images are the validation split."""
    found = _find(root)
    if len(found) > 1:
        both = " and ".join(name for name, _ in found)
        raise UserError(f"--data {root}: holds {both}; name the folder of one, for example {found[0][1]}")
    name, folder = found[0]
    of_set: Any = _torchvision(SETS[name][0])
    is_cifar = name.startswith("CIFAR")
    if is_cifar:
        files = {"train": [file for file, _ in of_set.train_list], "val": [file for file, _ in of_set.test_list]}
    else:
        files = {"train": [f"train-{IDX[0]}"], "val": [f"t10k-{IDX[0]}"]}
    paths = [folder / file for of_split in files.values() for file in of_split]
    if missing := [path for path in paths if not path.is_file()]:
        raise UserError(f"--data {root}: {name} is incomplete: {missing[0]} is missing; unpack it (gzip -dk) again")
    with reading(folder, "unpack it again"):
        classes = _unpickle(folder / of_set.meta["filename"])[of_set.meta["key"]] if is_cifar else of_set.classes
    names = [each.removeprefix(f"{label} - ") for label, each in enumerate(classes)]
    # the digits are what others call MNIST's classes, too; "T-shirt/top" is no folder
    identities = names if is_cifar else [str(label) for label in range(len(names))]
    splits: dict[SplitName, Samples] = {"train": defaultdict(ClassSamples), "val": defaultdict(ClassSamples)}
    for split, samples in splits.items():
        count = 0
        for file in files[split]:
            for row, label in enumerate(_labels(folder / file)):
                with reading(folder / file, "unpack it again"):
                    of_class = samples[identities[label]]
                key = f"{count:05}.{'ppm' if is_cifar else 'pgm'}"
                of_class.add(key, f"image {row}", paths.index(folder / file), row)
                count += 1
    readable = dict(zip(identities, names, strict=True))
    return archive_source(name, root, splits, PixelReader, paths, Skipped(), names=readable)


def _torchvision(name: str) -> Any:
    from torchvision import datasets  # takes a second

    return getattr(datasets, name)


def _unpickle(file: Path) -> dict[str, Any]:
    """Returns the content of a file of CIFAR after its MD5: a pickle from a stranger could run a program."""
    known: dict[str, str] = {}
    for of_set in map(_torchvision, ("CIFAR10", "CIFAR100")):
        known |= {of_set.meta["filename"]: of_set.meta["md5"], **dict(of_set.train_list), **dict(of_set.test_list)}
    content = file.read_bytes()
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != known[file.name]:
        raise UserError(
            f"{file}: has another MD5 than CIFAR's file: it is damaged, or another; unpack its archive again"
        )
    unpickled: dict[str, Any] = pickle.loads(content, encoding="latin1")
    return unpickled


def _labels(file: Path) -> list[int]:
    """Returns the labels of a file of images, as many as it has."""
    if file.name.endswith(IDX[0]):
        from torchvision.datasets import mnist

        of_labels = file.with_name(file.name.replace(*IDX))
        with reading(of_labels, "unpack it (gzip -dk) or download it again"):
            labels: list[int] = mnist.read_label_file(str(of_labels)).tolist()
    else:
        with reading(file, "unpack it again"):
            batch = _unpickle(file)
            labels = batch["labels"] if "labels" in batch else batch["fine_labels"]
    status = file.stat()
    if len(_pixels(file, status.st_mtime_ns, status.st_size)) != len(labels):
        raise UserError(f"{file}: has not as many images as there are labels, {len(labels):,}; download both again")
    return labels


@lru_cache(maxsize=8)  # CIFAR-10 has six batches of 30 MB
def _pixels(file: Path, changed: int, size: int) -> np.ndarray:
    """Returns a file's images, (n, 28, 28) or (n, 32, 32, 3) uint8."""
    del changed, size
    with reading(file, "unpack it again"):
        if file.name.endswith(IDX[0]):
            from torchvision.datasets import mnist

            pixels: np.ndarray = mnist.read_image_file(str(file)).numpy()
        else:
            pixels = _unpickle(file)["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        return pixels
