"""The data sets that are laid out in folders, on disk or in a zip file."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from alexnet_torch.data.sources.class_folders import (
    is_class_folders,
    is_flat_validation,
    is_image_folder,
    open_class_folders,
    open_flat_validation,
    open_image_folder,
    replace_passed_over,
)
from alexnet_torch.data.sources.image_tree import ImageTree
from alexnet_torch.data.sources.kaggle import is_kaggle, open_kaggle
from alexnet_torch.data.sources.looked_files import LookedFiles
from alexnet_torch.data.sources.source import Source
from alexnet_torch.data.sources.tiny_imagenet import is_tiny_imagenet, open_tiny_imagenet
from alexnet_torch.data.sources.tree import Tree
from alexnet_torch.data.sources.zip_tree import ZipTree
from alexnet_torch.errors import UserError


@dataclass(frozen=True)
class Layout:
    """One way to lay out a data set in folders."""

    recognise: Callable[[Tree], bool]
    open: Callable[[Tree], Source]


LAYOUTS = (
    Layout(is_kaggle, open_kaggle),
    Layout(is_tiny_imagenet, open_tiny_imagenet),
    Layout(is_image_folder, open_image_folder),
    Layout(is_flat_validation, open_flat_validation),
    Layout(is_class_folders, open_class_folders),
)
"""In the order in which they are tried: Tiny ImageNet also looks like ImageFolder whose val/ has one class, images."""


def is_folder_set(root: Path) -> bool:
    """Returns whether a folder has one of the layouts."""
    return root.is_dir() and _layout(ImageTree(root)) is not None


def open_folder_set(root: Path) -> Source:
    """Lists the samples of a folder that has one of the layouts; errors as for the layout."""
    looked = LookedFiles(root)
    tree = ImageTree(root, is_image=looked.is_image)
    layout = _layout(tree)
    assert layout is not None
    source = layout.open(tree)
    looked.save()
    return source


def is_zip(root: Path) -> bool:
    """Returns whether a path is a zip file by its name."""
    return root.is_file() and root.suffix.lower() == ".zip"


def open_zip(root: Path) -> Source:
    """Lists the samples of a zip file whose folders have one of the layouts, within one folder or not.

    Raises:
        UserError: the file is damaged, has none of the layouts, or something is missing or wrong.
    """
    tree = ZipTree(root)
    while (layout := _layout(tree)) is None:
        folders = replace_passed_over(tree).subfolders()
        if len(folders) != 1:
            raise UserError(f"--data {root}: contains neither train/ and val/ nor class folders; unpack it and look")
        tree = tree.below(f"{folders[0]}/")
    return tree.source(layout.open(tree))


def _layout(tree: Tree) -> Layout | None:
    return next((layout for layout in LAYOUTS if layout.recognise(tree)), None)
