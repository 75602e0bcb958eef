"""Folders of images, one for each class: ImageFolder's layout, train/<class>/* and val/<class>/*."""

from collections.abc import Sequence
from pathlib import Path

from alexnet_torch.data.sources.class_names import class_order, normal, some
from alexnet_torch.data.sources.image_files import ClassFiles, source_of_files
from alexnet_torch.data.sources.image_tree import ImageTree
from alexnet_torch.data.sources.junk import PassedOver, junk_reason
from alexnet_torch.data.sources.source import Source, SplitName
from alexnet_torch.errors import UserError

Classes = dict[str, ClassFiles]

NEAR_NAMES = {
    "train": ("training", "tr", "train_images", "trainset"),
    "val": ("valid", "validation", "dev", "test", "testing", "eval", "val_images"),
}
"""What others call train/ and val/: named in a message, never taken without being asked."""


def is_image_folder(root: Path) -> bool:
    """Returns whether a folder has one of train/ and val/: the other is missed later, by a message of its own."""
    return (root / "train").is_dir() or (root / "val").is_dir()


def has_both_splits(root: Path) -> bool:
    """Returns whether a folder has train/ and val/: it is then read as that, whatever else lies beside them."""
    return (root / "train").is_dir() and (root / "val").is_dir()


def open_image_folder(root: Path) -> Source:
    """Lists the images of a folder in ImageFolder's layout, without opening them.

    Raises:
        UserError: the layout is wrong; each mistake has its own message.
    """
    passed_over = PassedOver()
    train = read_split(root, "train", passed_over)
    val = same_names(train, read_split(root, "val", passed_over))
    check_classes(root, list(train), list(val))
    splits: dict[SplitName, Classes] = {"train": train, "val": val}
    return source_of_files("ImageFolder", root, class_order(train), splits, passed_over)


def read_split(root: Path, split: SplitName, passed_over: PassedOver) -> Classes:
    """Returns the image files of each class folder of train/ or val/.

    Raises:
        UserError: there is no such folder, it has no class folders, or one without images.
    """
    if not (root / split).is_dir():
        raise UserError(f"--data {root}: has no folder {split}/; {missing_split(root, split)}")
    tree = ImageTree(root, passed_over)
    classes = read_class_folders(tree, f"{split}/")
    if not classes:
        if len(tree.images(f"{split}/", deep=False)):
            raise UserError(
                f"--data {root}: {split}/ is flat: it contains images directly, without class folders; "
                f"move each image into {split}/<class>/"
            )
        raise UserError(f"--data {root}: {split}/ contains no images; put them into {split}/<class>/")
    if not any(len(part.files) for part in classes.values()):
        raise UserError(f"--data {root}: {split}/ has no images that can be read; put some into {split}/<class>/")
    if empty := [name for name, part in classes.items() if not len(part.files)]:
        raise UserError(f"--data {root}: no images in {split}/ of class {some(empty)}; add some or remove the folder")
    return classes


def read_class_folders(tree: ImageTree, folder: str) -> Classes:
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
                f"--data {tree.root}: {folder} has two folders named {name}, in two ways that Unicode writes it; "
                "move their images into one"
            )
    return {name: ClassFiles(tree.images(f"{folder}{name}/")) for name in names}


def missing_split(root: Path, split: SplitName) -> str:
    """Returns what to do about a missing train/ or val/: a near name is pointed out."""
    for path in sorted(root.iterdir()):
        name = path.name.lower()
        if path.is_dir() and not junk_reason(path.name) and (name == split or name in NEAR_NAMES[split]):
            return f"if {path.name}/ is that, rename it to {split}/"
    if split == "train":
        return "put the training images into train/<class>/"
    return "move some images of each class into val/<class>/, or let --val-split 0.1 choose them"


def same_names(train: Classes, val: Classes) -> Classes:
    """Returns the classes of val/ under the names that train/ has, where only Unicode's way to write them differs."""
    written = {normal(name): name for name in train}
    return {written.get(normal(name), name): files for name, files in val.items()}


def check_classes(root: Path, train: Sequence[str], val: Sequence[str]) -> None:
    """Raises a UserError if two splits have different classes, or there are fewer than two."""
    if set(train) != set(val):
        only_train, only_val = sorted(set(train) - set(val)), sorted(set(val) - set(train))
        raise UserError(
            f"--data {root}: train/ and val/ have different classes: only in train/: {some(only_train)}; "
            f"only in val/: {some(only_val)}; give both the same class folders"
        )
    if len(train) < 2:
        raise UserError(f"--data {root}: has only one class, {train[0]}; add another: one class needs no classifier")
