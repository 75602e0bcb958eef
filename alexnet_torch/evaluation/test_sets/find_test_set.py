"""Finds the images that evaluate --data names: class folders, val/, ImageNet-C, or the validation images of any source.

No image is decoded, and train/ is not needed and not listed.
"""

from pathlib import Path

from alexnet_torch.data.sources.class_folders import read_class_folders, read_split
from alexnet_torch.data.sources.class_names import class_order
from alexnet_torch.data.sources.image_files import source_of_files
from alexnet_torch.data.sources.image_tree import ImageTree
from alexnet_torch.data.sources.junk import PassedOver
from alexnet_torch.data.sources.recognise import open_source
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
"""What sets are called whose folders begin with this name, as their authors distribute them."""


def find_test_set(root: Path) -> TestSet:
    """Lists the images of a test set.

    Args:
        root: a folder of class folders, or one with val/, or one that contains nothing but such a folder; ImageNet-C,
            or one of its corruptions or severities; or any source, of which the validation images are taken.

    Raises:
        UserError: there is nothing, or no validation images; the message says what is missing.
    """
    if not root.exists():
        raise UserError(f"--data {root}: there is no such file or folder; name a folder of class folders, or with val/")
    if not root.is_dir():
        return _of_source(root)
    if corruptions := find_corruptions(root):
        return open_corruptions(root, corruptions)
    if (root / "val").is_dir() and _has_class_folders(root / "val"):
        passed_over = PassedOver()
        val = read_split(root, "val", passed_over)
        source = source_of_files("images of val/", root, class_order(val), {"val": val}, passed_over)
        return TestSet.of_source(source)
    if not (root / "train").is_dir() and _has_class_folders(root):
        return _open_class_folders(root)
    if only := _only_folder(root):
        return find_test_set(only)
    return _of_source(root)


def _of_source(root: Path) -> TestSet:
    source = open_source(root)
    if not any(split.name == "val" for split in source.splits):
        raise UserError(f"--data {root}: {source.form} has no validation images; name a set that has")
    return TestSet.of_source(source)


def _open_class_folders(root: Path) -> TestSet:
    tree = ImageTree(root)
    classes = {name: part for name, part in read_class_folders(tree, "").items() if len(part.files)}
    form = _known_name(root) or "class folders"
    return TestSet.of_source(source_of_files(form, root, class_order(classes), {"val": classes}, tree.passed_over))


def _has_class_folders(folder: Path) -> bool:
    """Returns whether a folder has a subfolder with an image, and no images itself."""
    tree = ImageTree(folder)
    if len(tree.images("", deep=False)):
        return False
    return any(len(tree.images(f"{name}/", deep=False)) for name in tree.subfolders())


def _only_folder(root: Path) -> Path | None:
    """Returns the one folder that a folder consists of, as unpacked archives often are: sketch/ of ImageNet-Sketch."""
    tree = ImageTree(root)
    names = tree.subfolders()
    if len(names) != 1 or names[0] in ("train", "val") or len(tree.images("", deep=False)):
        return None
    return root / names[0]


def _known_name(root: Path) -> str | None:
    """Returns what people call the set, by the folder's name or its parent's."""
    for name in (root.resolve().name.lower(), root.resolve().parent.name.lower()):
        for start, known in KNOWN_SETS.items():
            if name.startswith(start):
                return known
    return None
