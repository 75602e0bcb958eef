"""A folder of images in ImageFolder's layout: train/<class>/* and val/<class>/*; or nested in any way."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from alexnet_torch.errors import UserError


@dataclass(frozen=True)
class Split:
    """One split's image files.

    Attributes:
        name: "train" or "val".
        paths: relative to the folder, in ImageFolder's order.
        labels: (n,) int64, indices into the folder's classes.
    """

    name: str
    paths: tuple[str, ...]
    labels: np.ndarray


@dataclass(frozen=True)
class Folder:
    """A folder's two splits, over the same classes in the same order."""

    root: Path
    classes: tuple[str, ...]
    train: Split
    val: Split


def scan_folder(root: Path) -> Folder:
    """Lists the images of a folder, without opening them.

    Raises:
        UserError: the folder is not of that layout; each way of not being so has its own message.
    """
    if not root.exists():
        raise UserError(f"--data {root}: there is no such folder; name one with train/ and val/ in it")
    if not root.is_dir():
        raise UserError(f"--data {root}: is a file; name the folder that has train/ and val/ in it")
    try:
        classes, train = _split(root, "train")
        val_classes, val = _split(root, "val")
    except PermissionError as error:
        raise UserError(f"--data {root}: {error.filename} may not be read; give yourself the right to") from error
    if classes != val_classes:
        only_train, only_val = (
            sorted(set(classes) - set(val_classes)),
            sorted(set(val_classes) - set(classes)),
        )
        raise UserError(
            f"--data {root}: the classes of train/ and val/ differ: only in train/: {_names(only_train)}; "
            f"only in val/: {_names(only_val)}; give both the same class folders"
        )
    if len(classes) < 2:
        raise UserError(f"--data {root}: there is one class, {classes[0]}, and so nothing to tell apart; add another")
    return Folder(root, classes, train, val)


def find_images(root: Path) -> tuple[str, ...]:
    """The images of a folder and of all folders in it, relative to it, with "/" between folders, sorted.

    Files whose names do not end as ImageFolder's do are none.

    Raises:
        UserError: there is no such folder, or no image in it.
    """
    if not root.is_dir():
        raise UserError(f"{root}: there is no such folder; name a folder of images")
    found = []

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror}); give yourself the right to") from error

    for folder, _, names in os.walk(root, followlinks=True, onerror=refuse):
        inside = Path(folder).relative_to(root).as_posix()
        prefix = "" if inside == "." else f"{inside}/"
        found += [prefix + name for name in names if name.lower().endswith(IMG_EXTENSIONS)]
    if not found:
        raise UserError(f"{root}: holds no images; their names must end in {', '.join(IMG_EXTENSIONS)}")
    return tuple(sorted(found))


def _split(root: Path, name: str) -> tuple[tuple[str, ...], Split]:
    folder = root / name
    if not folder.is_dir():
        mend = "put the training images into" if name == "train" else "move some images of each class into"
        raise UserError(f"--data {root}: has no {name}/ folder; {mend} {name}/<class>/")
    if not any(entry.is_dir() for entry in folder.iterdir()):
        if any(entry.suffix.lower() in IMG_EXTENSIONS for entry in folder.iterdir()):
            raise UserError(
                f"--data {root}: {name}/ is flat: images lie in it directly, without their classes; "
                f"move each into {name}/<class>/"
            )
        raise UserError(f"--data {root}: {name}/ holds no images; put them into {name}/<class>/")
    found = ImageFolder(str(folder), allow_empty=True)
    labels = np.array(found.targets, dtype=np.int64)
    if not len(labels):
        raise UserError(f"--data {root}: {name}/ holds no images; its files must end in {', '.join(IMG_EXTENSIONS)}")
    counts = np.bincount(labels, minlength=len(found.classes))
    if empty := [found.classes[i] for i in np.flatnonzero(counts == 0)]:
        raise UserError(f"--data {root}: no images in {name}/ of class {_names(empty)}; add some or remove the folder")
    start = len(str(folder)) + 1  # sliced off, since a Path for each of a million files takes ten seconds
    paths = tuple(f"{name}/{path[start:]}" for path, _ in found.samples)
    return tuple(found.classes), Split(name, paths, labels)


def _names(classes: list[str]) -> str:
    """Up to five names, since a thousand make no message."""
    more = f" and {len(classes) - 5} more" if len(classes) > 5 else ""
    return (", ".join(classes[:5]) or "none") + more
