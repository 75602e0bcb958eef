"""What --data names: the built-in digits, or a data set whose form its content tells."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from alexnet_torch.data.cache import MANIFEST, SAMPLES, open_prepared_map
from alexnet_torch.data.sources.archives import list_files
from alexnet_torch.data.sources.classes import in_one_line
from alexnet_torch.data.sources.layouts import find_layout, missing_split, open_folder_set
from alexnet_torch.data.sources.listing import Listing
from alexnet_torch.data.sources.parquet import open_parquet_set, parquet_files
from alexnet_torch.data.sources.source import Source
from alexnet_torch.data.sources.tar_sets import open_tar_set, tar_files
from alexnet_torch.data.sources.torchvision_sets import find_sets, open_torchvision_set
from alexnet_torch.errors import UserError
from alexnet_torch.files import cache_home, explain_os_error, writing

VALIDATION_EVERY = 5  # of the digits


def data_folder(data: str) -> Path:
    return digits_folder() if data == "digits" else Path(data).expanduser()


def digits_folder(root: Path | None = None) -> Path:
    """Writes scikit-learn's 1,797 handwritten digits (UCI optdigits, 8x8) as image files, once; every fifth to val/."""
    root = root or cache_home() / "digits"
    if root.is_dir():
        return root
    from sklearn.datasets import load_digits  # takes a second

    root.parent.mkdir(parents=True, exist_ok=True)
    with writing(f"--data {root}"), tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as name:
        counts, made = [0] * 10, Path(name) / "digits"
        for image, label in zip(*load_digits(return_X_y=True), strict=True):
            counts[label] += 1
            folder = made / ("train" if counts[label] % VALIDATION_EVERY else "val") / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            grey = np.rint(image.reshape(8, 8) * (255 / 16)).astype(np.uint8)
            Image.fromarray(grey).save(folder / f"{counts[label]:04d}.png")
        try:
            made.rename(root)
        except OSError:
            if not root.is_dir():  # otherwise another process was faster
                raise
    return root


def open_source(root: Path, test: bool = False) -> Source:
    """Lists a data set in any form without decoding it.

    `test`: only the images to score a network on, as the split "val": validation images, or all of class folders.
    """
    try:
        if not root.exists():
            raise UserError(f"--data {root}: there is no such file or folder; name one that contains train/ and val/")
        if root.is_file():
            list_files(root, [root])  # refuses a web page
        place = root
        while not (found := _forms(place, test)) and place.is_dir() and len(Listing(place).folder("").folders) == 1:
            place /= Listing(place).folder("").folders[0]  # photos/photos/train
        if len(found) > 1:
            raise UserError(f"--data {place}: holds two data sets, {found[0][0]} and {found[1][0]}; move one elsewhere")
        if not found:
            missing = missing_split(Listing(root), "train") if root.is_dir() else "is a file; name the folder of images"
            raise UserError(f"--data {root}: {missing}")
        source = found[0][1](place)
        if test and source.splits[-1].name != "val":
            raise UserError(f"--data {root}: {source.without_val or 'has no validation images; name a set that has'}")
        return source
    except OSError as error:
        raise UserError(f"--data {root}: {explain_os_error(error)}") from error
    except UserError as error:
        raise UserError(in_one_line(str(error))) from error


def _forms(root: Path, test: bool) -> list[tuple[str, Callable[[Path], Source]]]:
    """Returns the forms that a path has by a few names, and how to open each."""
    layout = find_layout(Listing(root), test) if root.is_dir() else root.suffix.lower() == ".zip"
    forms: list[tuple[object, str, Callable[[Path], Source]]] = [
        (layout, "folders of images", lambda root: open_folder_set(root, test))
    ]
    if not ((root / "train").is_dir() and (root / "val").is_dir()):  # archives beside them were unpacked to those
        is_map = (root / MANIFEST).is_file() and (root / SAMPLES).is_file()
        forms += [
            (tar_files(root), "tars", open_tar_set),
            (parquet_files(root), "parquet files", open_parquet_set),
            (find_sets(root), "CIFAR's or MNIST's files", open_torchvision_set),
            (is_map, "a prepared map", open_prepared_map),
        ]
    return [(name, opened) for is_one, name, opened in forms if is_one]
