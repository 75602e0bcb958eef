"""CIFAR-10, CIFAR-100, MNIST and Fashion-MNIST where torchvision.datasets puts them; downloads nothing."""

from collections import defaultdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_torch.data.sources.archives import Samples, archive_source
from alexnet_torch.data.sources.source import ClassSamples, Reader, Skipped, Source, SplitName
from alexnet_torch.errors import UserError
from alexnet_torch.files import reading

SETS = {
    "cifar-10-batches-py": ("CIFAR-10", "CIFAR10"),
    "cifar-100-python": ("CIFAR-100", "CIFAR100"),
    "MNIST/raw": ("MNIST", "MNIST"),
    "FashionMNIST/raw": ("Fashion-MNIST", "FashionMNIST"),
}
"""The folder of each set, its name, and torchvision's."""


class PixelReader(Reader):
    """Places are (0, whether it is for training, row). An image is read as a PPM or PGM file."""

    def read(self, index: int) -> bytes:
        _, is_train, row = self.places[index].tolist()
        try:
            pixels = np.asarray(_opened(self.files[0].parent, bool(is_train)).data[row])  # (H, W) or (H, W, 3) uint8
        except (UserError, IndexError) as error:
            raise OSError(f"it changed: {error}") from error
        header: bytes = b"P%d\n%d %d\n255\n" % (5 if pixels.ndim == 2 else 6, *pixels.shape[1::-1])
        return header + bytes(pixels.tobytes())


def find_sets(root: Path) -> list[Path]:
    return [path for path in (root, root / "raw", *(root / each for each in SETS)) if path.is_dir() and _key(path)]


def open_torchvision_set(root: Path) -> Source:
    folder, *others = find_sets(root)
    if others:
        raise UserError(f"--data {root}: holds two sets, {folder} and {others[0]}; name the folder of one")
    _opened.cache_clear()
    splits: dict[SplitName, Samples] = {"train": defaultdict(ClassSamples), "val": defaultdict(ClassSamples)}
    for split, samples in splits.items():
        images = _opened(folder, split == "train")
        with reading(folder, "unpack it again"):
            names = [each.removeprefix(f"{label} - ") for label, each in enumerate(images.classes)]
            # others, too, call MNIST's classes by digits; "T-shirt/top" is no folder
            identities = names if "cifar" in folder.name else [str(label) for label in range(len(names))]
            suffix = "ppm" if images.data[0].ndim == 3 else "pgm"
            for row, label in enumerate(np.asarray(images.targets).tolist()):
                samples[identities[label]].add(f"{row:05}.{suffix}", f"image {row}", 0, split == "train", row)
            if len(images.data) != len(images.targets):
                raise ValueError(f"it has {len(images.data):,} images and {len(images.targets):,} labels")
    files = sorted(path for path in folder.iterdir() if path.is_file())
    readable = dict(zip(identities, names, strict=True))
    return archive_source(SETS[_key(folder)][0], root, splits, PixelReader, files, Skipped(), names=readable)


def _key(folder: Path) -> str:
    return next((key for key in SETS if f"/{folder.as_posix()}".endswith(f"/{key}")), "")


@lru_cache(maxsize=2)
def _opened(folder: Path, is_train: bool) -> Any:
    """Returns torchvision's data set; it compares the MD5 of pickles before it reads them."""
    from torchvision import datasets  # takes a second

    key = _key(folder)
    with reading(folder, "download or unpack it again (gzip -dk)"):
        return getattr(datasets, SETS[key][1])(str(folder.parents[key.count("/")]), train=is_train)
