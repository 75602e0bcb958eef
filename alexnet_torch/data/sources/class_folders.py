"""Folders of images, one for each class: ImageFolder's layout, train/<class>/* and val/<class>/*, or <class>/*."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from alexnet_torch.data.sources.class_names import class_order, normal, some
from alexnet_torch.data.sources.image_files import ClassFiles, group_by_class, source_of_files
from alexnet_torch.data.sources.imagenet_tars import NAME_WITH_WNID, VALIDATION_NAME, class_of_name
from alexnet_torch.data.sources.junk import PassedOver, junk_reason
from alexnet_torch.data.sources.source import Source, SplitName
from alexnet_torch.data.sources.tree import ImageFiles, Tree
from alexnet_torch.errors import UserError

Classes = dict[str, ClassFiles]

NEAR_NAMES = {
    "train": ("training", "tr", "train_images", "trainset"),
    "val": ("valid", "validation", "dev", "test", "testing", "eval", "val_images"),
}
"""What others call train/ and val/: named in a message, never taken without being asked."""


def is_image_folder(tree: Tree) -> bool:
    """Returns whether there is one of train/ and val/: the other is missed later, by a message of its own."""
    return tree.is_folder("train") or tree.is_folder("val")


def has_both_splits(root: Path) -> bool:
    """Returns whether a folder has train/ and val/: it is then read as that, whatever else lies beside them."""
    return (root / "train").is_dir() and (root / "val").is_dir()


def open_image_folder(tree: Tree) -> Source:
    """Lists the images in ImageFolder's layout, without opening them; without val/, those of train/.

    A flat val/ is taken if the images' names tell their classes, as ILSVRC-2012's do.

    Raises:
        UserError: the layout is wrong; each mistake has its own message.
    """
    train = read_split_of(tree, "train")
    if not tree.is_folder("val"):
        form, missing = "ImageFolder without val/", missing_split(tree, "val")
        alone = source_of_files(form, tree.root, class_order(train), {"train": train}, tree.passed_over)
        return replace(alone, without_val=f"has no folder val/; {missing}")
    val, form = same_names(train, read_split_of(tree.again(), "val", train)), "ImageFolder"
    if any(part.keys is not None for part in val.values()):
        form = "ImageFolder with ILSVRC-2012's flat val/"
    check_classes(tree.what, list(train), list(val))
    splits: dict[SplitName, Classes] = {"train": train, "val": val}
    return source_of_files(form, tree.root, class_order(train), splits, tree.passed_over)


def is_class_folders(tree: Tree) -> bool:
    """Returns whether there are class folders with images in them, and no train/ or val/ among them."""
    tree = replace_passed_over(tree)
    names = tree.subfolders()
    if any(name.lower() in (*NEAR_NAMES["train"], *NEAR_NAMES["val"], "train", "val") for name in names):
        return False
    return len(names) > 1 and any(len(tree.images(f"{name}/", deep=False)) for name in names)


def open_class_folders(tree: Tree) -> Source:
    """Lists the images of class folders; all are training images.

    Raises:
        UserError: a class has no images.
    """
    classes = read_class_folders(tree, "")
    check_not_empty(tree.what, "", classes)
    source = source_of_files("class folders", tree.root, class_order(classes), {"train": classes}, tree.passed_over)
    fix = (
        "let --val-split 0.1 choose validation images, or move the class folders into train/ and some images into val/"
    )
    return replace(source, without_val=f"has class folders, but no train/ and val/; {fix}")


def is_flat_validation(tree: Tree) -> bool:
    """Returns whether there are ILSVRC-2012's validation images and no folders."""
    tree = replace_passed_over(tree)
    if tree.subfolders():
        return False
    return any(VALIDATION_NAME.fullmatch(name) for name in tree.images("", deep=False).names)


def open_flat_validation(tree: Tree) -> Source:
    """Lists ILSVRC-2012's validation images in one folder: a test set.

    Raises:
        UserError: an image's name tells no class.
    """
    classes = _by_name(tree, tree.images("", deep=False))
    return source_of_files(
        "ILSVRC-2012's validation images", tree.root, class_order(classes), {"val": classes}, tree.passed_over
    )


def read_split_of(tree: Tree, split: SplitName, classes: Mapping[str, object] | None = None) -> Classes:
    """Returns the image files of each class of train/ or val/.

    Args:
        tree: has the split's folder.
        split: its name.
        classes: of the training images; those of others are passed over if the folder is flat, as ILSVRC-2012's val/.

    Raises:
        UserError: there is no such folder, it has no class folders, or one without images.
    """
    if not tree.is_folder(split):
        raise UserError(f"{tree.what}: has no folder {split}/; {missing_split(tree, split)}")
    is_flat = not replace_passed_over(tree).subfolders(f"{split}/")
    by_class = {} if is_flat else read_class_folders(tree, f"{split}/")
    if not by_class:
        files = tree.images(f"{split}/", deep=False)
        if len(files) and classes is not None and all(map(_tells_class, files.names)):
            named = _by_name(tree, files)
            for identity in named.keys() - classes.keys():
                for path in named.pop(identity).files.paths:
                    tree.passed_over.add("of other classes", path)
            return named
        if len(files):
            raise UserError(
                f"{tree.what}: {split}/ is flat: it contains images directly, without class folders; "
                f"move each image into {split}/<class>/"
            )
        raise UserError(f"{tree.what}: {split}/ contains no images; put them into {split}/<class>/")
    check_not_empty(tree.what, f"{split}/", by_class)
    return by_class


def read_class_folders(tree: Tree, folder: str) -> Classes:
    """Returns the image files in each subfolder of a folder ("" or one that ends in "/"), by the subfolder's name.

    Raises:
        UserError: two names differ only in how Unicode writes them.
    """
    names = tree.subfolders(folder)
    written: dict[str, str] = {}
    for name in names:
        other = written.setdefault(normal(name), name)
        if other != name:
            raise UserError(
                f"{tree.what}: {folder} has two folders named {name}, in two ways that Unicode writes it; "
                "move their images into one"
            )
    classes = {name: ClassFiles(tree.images(f"{folder}{name}/")) for name in names}
    for name in [name for name, part in classes.items() if not len(part.files) and tree.holds_runs(f"{folder}{name}/")]:
        del classes[name]  # for example runs/, in which the runs are passed over
    return classes


def replace_passed_over(tree: Tree) -> Tree:
    """Returns a tree to look at only: what it passes over is not counted."""
    looked = tree.again()
    return replace(looked, passed_over=PassedOver())  # type: ignore[type-var]  # every tree is a dataclass


def missing_split(tree: Tree, split: SplitName) -> str:
    """Returns what to do about a missing train/ or val/: a near name is pointed out."""
    for name in replace_passed_over(tree).subfolders():
        if not junk_reason(name) and (name.lower() == split or name.lower() in NEAR_NAMES[split]):
            return f"if {name}/ is that, rename it to {split}/"
    if split == "train":
        return "put the training images into train/<class>/"
    return "move some images of each class into val/<class>/, or let --val-split 0.1 choose them"


def same_names(train: Classes, val: Classes) -> Classes:
    """Returns the classes of val/ under the names that train/ has, where only Unicode's way to write them differs."""
    written = {normal(name): name for name in train}
    return {written.get(normal(name), name): files for name, files in val.items()}


def check_not_empty(what: str, folder: str, classes: Classes) -> None:
    """Raises a UserError if a class folder of a folder ("" for the data set's own) has no images."""
    place = folder or "the folder"
    if not any(len(part.files) for part in classes.values()):
        raise UserError(f"{what}: {place} has no images that can be read; put some into {folder}<class>/")
    if empty := [name for name, part in classes.items() if not len(part.files)]:
        raise UserError(f"{what}: no images in {place} of class {some(empty)}; add some, or move it elsewhere")


def check_classes(what: str, train: Sequence[str], val: Sequence[str]) -> None:
    """Raises a UserError if two splits have different classes, or there are fewer than two."""
    if set(train) != set(val):
        only_train, only_val = sorted(set(train) - set(val)), sorted(set(val) - set(train))
        raise UserError(
            f"{what}: train/ and val/ have different classes: only in train/: {some(only_train)}; "
            f"only in val/: {some(only_val)}; give both the same class folders"
        )
    if len(train) < 2:
        raise UserError(f"{what}: has only one class, {train[0]}; add another: one class needs no classifier")


def _tells_class(name: str) -> bool:
    return bool(VALIDATION_NAME.fullmatch(name) or NAME_WITH_WNID.fullmatch(name))


def _by_name(tree: Tree, files: ImageFiles) -> Classes:
    """Returns files by the class that their names tell."""
    return group_by_class(files, (class_of_name(name, f"{tree.root}: {files.folder}{name}") for name in files.names))
