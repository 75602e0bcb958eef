"""Finds the images that evaluate --data names: class folders, val/, ImageNet-C, or the validation images of any source.

No image is decoded. Of a folder with val/ in ImageFolder's layout, train/ is not needed and not listed.
"""

import re
from dataclasses import replace
from pathlib import Path

from alexnet_torch.data.cache_location import cache_folder
from alexnet_torch.data.sources.class_folders import (
    check_not_empty,
    is_image_folder,
    read_class_folders,
    read_split_of,
)
from alexnet_torch.data.sources.class_names import class_order
from alexnet_torch.data.sources.image_files import source_of_files
from alexnet_torch.data.sources.image_tree import ImageTree
from alexnet_torch.data.sources.imagenet_classes import WNID
from alexnet_torch.data.sources.kaggle import is_kaggle
from alexnet_torch.data.sources.names import Names
from alexnet_torch.data.sources.recognise import open_source
from alexnet_torch.data.sources.source import Source
from alexnet_torch.data.sources.tiny_imagenet import is_tiny_imagenet
from alexnet_torch.data.sources.val_split import ValSplit, with_validation
from alexnet_torch.errors import UserError
from alexnet_torch.evaluation.test_sets.corrupted_sets import find_corruptions, open_corruptions
from alexnet_torch.evaluation.test_sets.test_set import TestSet

KNOWN_SETS = {
    "imagenetv2": "ImageNet-V2",
    "imagenet-v2": "ImageNet-V2",
    "imagenet-a": "ImageNet-A",
    "imagenet-r": "ImageNet-R",
    "imagenet-sketch": "ImageNet-Sketch",
    "sketch": "ImageNet-Sketch",
}
"""What sets are called whose folders begin with this word, as their authors distribute them."""


def find_test_set(root: Path, val_split: ValSplit | None = None, cache: str = "auto") -> TestSet:
    """Lists the images of a test set.

    Args:
        root: a folder of class folders, or one with val/, or one that contains nothing but such a folder; ImageNet-C,
            or one of its corruptions or severities; or any source, of which the validation images are taken.
        val_split: how the models' training chose its validation images among the set's: only these are taken.
        cache: where the digests of a divided set's files are kept, as for `prepare`.

    Raises:
        UserError: there is nothing, or no validation images; the message says what is missing.
    """
    if not root.exists():
        raise UserError(f"--data {root}: there is no such file or folder; name a folder of class folders, or with val/")
    if val_split:
        return TestSet.of_source(with_validation(open_source(root), val_split, cache_folder(cache)))
    if not root.is_dir():
        return _of_source(root)
    if corruptions := find_corruptions(root):
        return open_corruptions(root, corruptions)
    tree = ImageTree(root)
    if is_image_folder(tree) and not is_kaggle(tree) and not is_tiny_imagenet(tree):
        return _open_val(root) if tree.is_folder("val") else _of_source(root)
    names = ImageTree(root).subfolders()
    if len(names) == 1 and not _image_count(root):
        # the one class of a set; or the folder that a set is in, as archives are often unpacked
        return _open_class_folders(root) if _image_count(root / names[0]) else find_test_set(root / names[0])
    return _of_source(root)


def _open_val(root: Path) -> TestSet:
    """Lists val/ of ImageFolder's layout, or ILSVRC-2012's flat val/."""
    if not ImageTree(root / "val").subfolders():
        return find_test_set(root / "val")
    tree = ImageTree(root)
    val = read_split_of(tree, "val")
    return TestSet.of_source(source_of_files("images of val/", root, class_order(val), {"val": val}, tree.passed_over))


def _open_class_folders(root: Path) -> TestSet:
    """Lists a folder of one class folder, which is too few for a source to train on."""
    tree = ImageTree(root)
    classes = read_class_folders(tree, "")
    check_not_empty(tree.what, "", classes)
    source = source_of_files("class folders", root, class_order(classes), {"train": classes}, tree.passed_over)
    return TestSet.of_source(_as_validation(source))


def _of_source(root: Path) -> TestSet:
    source = open_source(root)
    if any(split.name == "val" for split in source.splits):
        return TestSet.of_source(source)
    if source.form.startswith("class folders"):  # which are not divided: all of them are the test set
        return TestSet.of_source(_as_validation(source))
    raise UserError(f"--data {root}: {source.without_val or 'has no validation images; name a set that has'}")


def _as_validation(source: Source) -> Source:
    """Returns a source whose training images are validation images."""
    (split,) = source.splits
    keys = Names.of(f"val/{key.partition('/')[2]}" for key in split.keys)
    form = _known_name(source) or source.form
    return replace(source, form=form, splits=(replace(split, name="val", keys=keys),))


def _image_count(folder: Path) -> int:
    """Returns how many images a folder has, without its subfolders."""
    return len(ImageTree(folder).images("", deep=False))


def _known_name(source: Source) -> str | None:
    """Returns what people call the set, by its folder's name or its parent's, if its classes are ImageNet's."""
    if not all(WNID.fullmatch(each) or each.isdigit() for each in source.identities):
        return None
    root = source.root.absolute()
    for name in (root.name.lower(), root.parent.name.lower()):
        for start, known in KNOWN_SETS.items():
            if re.match(rf"{start}(?![a-z0-9])", name):
                return known
    return None
