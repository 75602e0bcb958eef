"""Writers of small sets in the layouts of CIFAR-10, CIFAR-100, MNIST and Fashion-MNIST."""

import hashlib
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
from torchvision.datasets import CIFAR10, CIFAR100, MNIST, FashionMNIST


def write_cifar(root: Path, description: type[CIFAR10] = CIFAR10, images: int = 6) -> Path:
    """Writes every batch of a set with random pixels, as torchvision.datasets unpacks it; returns the set's folder."""
    random, folder = np.random.default_rng(0), root / str(description.base_folder)
    folder.mkdir(parents=True)
    meta: dict[str, Any] = {description.meta["key"]: [f"class{k}" for k in range(3)]}
    write_pickle(folder / description.meta["filename"], meta, description)
    for file, _ in description.train_list + description.test_list:
        labels = {"fine_labels" if description is CIFAR100 else "labels": (random.permutation(images) % 3).tolist()}
        pixels = random.integers(0, 256, (images, 3072), dtype=np.uint8)
        write_pickle(folder / file, {"data": pixels, **labels, "batch_label": "a batch"}, description)
    return folder


def write_pickle(file: Path, content: object, description: type[CIFAR10] = CIFAR10) -> None:
    """Writes a file of a set, and makes its MD5 the one that torchvision expects."""
    file.write_bytes(pickle.dumps(content, 2))
    md5 = hashlib.md5(file.read_bytes()).hexdigest()
    if file.name == description.meta["filename"]:
        description.meta["md5"] = md5
    for listed in description.train_list + description.test_list:
        listed[1] = md5 if listed[0] == file.name else listed[1]


def idx(values: np.ndarray) -> bytes:
    """Returns an array of bytes in the format IDX."""
    header = struct.pack(f">I{values.ndim}I", 0x800 + values.ndim, *values.shape)
    return header + values.astype(np.uint8).tobytes()


def write_mnist(root: Path, description: type[MNIST] = MNIST, images: int = 20) -> Path:
    """Writes a set with random pixels, as torchvision.datasets unpacks it; returns the folder of its files."""
    random, folder = np.random.default_rng(0), root / description.__name__ / "raw"
    folder.mkdir(parents=True)
    for prefix in ("train", "t10k"):
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(idx(random.integers(0, 256, (images, 28, 28))))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(random.permutation(images) % 10))
    return folder


SETS = {"CIFAR-10": CIFAR10, "CIFAR-100": CIFAR100, "MNIST": MNIST, "Fashion-MNIST": FashionMNIST}


def write_pixel_set(root: Path, name: str) -> Path:
    """Writes a set; returns its folder."""
    description: Any = SETS[name]
    return write_cifar(root, description) if name.startswith("CIFAR") else write_mnist(root, description)
