"""Recognises by its content in which form a data set is."""

from collections.abc import Callable
from pathlib import Path

from alexnet_torch.data.sources.archives import list_files
from alexnet_torch.data.sources.classes import in_one_line
from alexnet_torch.data.sources.layouts import find_layout, missing_split, open_folder_set
from alexnet_torch.data.sources.listing import Listing
from alexnet_torch.data.sources.parquet import open_parquet_set, parquet_files
from alexnet_torch.data.sources.prepared_map import is_prepared_map, open_prepared_map
from alexnet_torch.data.sources.source import Source
from alexnet_torch.data.sources.tar_sets import is_tar_set, open_tar_set
from alexnet_torch.data.sources.torchvision_sets import find_sets, open_torchvision_set
from alexnet_torch.errors import UserError
from alexnet_torch.files import explain_os_error


def open_source(root: Path, test: bool = False) -> Source:
    """Lists the samples of a data set in any form without decoding them.

    `test`: only the images to score a network on, as the split "val": validation images, or all of class folders.
    """
    try:
        if not root.exists():
            fix = "name a folder that contains train/ and val/"
            raise UserError(f"--data {root}: there is no such file or folder; {fix}")
        if root.is_file():
            list_files(root, [root])  # refuses a web page
        place = root
        while not (found := _forms(place, test)) and place.is_dir() and len(Listing(place).folder("").folders) == 1:
            place /= Listing(place).folder("").folders[0]  # as archives are often unpacked: photos/photos/train
        if len(found) > 1:
            raise UserError(f"--data {place}: holds two data sets, {found[0][0]} and {found[1][0]}; move one elsewhere")
        if not found:
            missing = missing_split(Listing(root), "train") if root.is_dir() else "is a file; name the folder of images"
            raise UserError(f"--data {root}: {missing}")
        source = found[0][1](place)
    except OSError as error:
        raise UserError(f"--data {root}: {explain_os_error(error)}") from error
    except UserError as error:
        raise UserError(in_one_line(str(error))) from error
    if test and source.splits[-1].name != "val":
        raise UserError(f"--data {root}: {source.without_val or 'has no validation images; name a set that has'}")
    return source


def _forms(root: Path, test: bool) -> list[tuple[str, Callable[[Path], Source]]]:
    """Returns the name of each form that a path has, and how to open it: by a few names, without reading data."""
    layout = find_layout(Listing(root), test) if root.is_dir() else root.suffix.lower() == ".zip"
    forms: list[tuple[object, str, Callable[[Path], Source]]] = [
        (layout, "folders of images", lambda root: open_folder_set(root, test))
    ]
    if not ((root / "train").is_dir() and (root / "val").is_dir()):  # archives beside them were unpacked to those
        forms += [
            (is_tar_set(root), "tars", open_tar_set),
            (parquet_files(root), "parquet files", open_parquet_set),
            (find_sets(root), "CIFAR's or MNIST's files", open_torchvision_set),
            (is_prepared_map(root), "a prepared map", open_prepared_map),
        ]
    return [(name, opened) for is_one, name, opened in forms if is_one]
