"""Folders of images: ImageFolder's layout, train/<class>/* and val/<class>/*; or nested in any way."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from alexnet_torch.errors import UserError


@dataclass(frozen=True)
class Split:
    """The image files of one split."""

    name: str  # "train" or "val"
    paths: tuple[str, ...]  # relative to the folder, in ImageFolder's order
    labels: np.ndarray  # (n,) int64, indices into the folder's classes

    @property
    def map_name(self) -> str:
        """The name of the split's memory map in a prepared folder."""
        return f"{self.name}.u8"


@dataclass(frozen=True)
class Folder:
    """A folder's two splits, which have the same classes in the same order."""

    root: Path
    classes: tuple[str, ...]
    train: Split
    val: Split

    @property
    def splits(self) -> tuple[Split, Split]:
        """Both splits, training first."""
        return self.train, self.val


def scan_folder(root: Path) -> Folder:
    """Lists the images of a folder without opening them.

    Raises a UserError if it does not have that layout; each mistake has its own message.
    """
    if not root.exists():
        raise UserError(f"--data {root}: there is no such folder; name a folder that contains train/ and val/")
    if not root.is_dir():
        raise UserError(f"--data {root}: is a file; name the folder that contains train/ and val/")
    try:
        classes, train = _scan_split(root, "train")
        val_classes, val = _scan_split(root, "val")
    except PermissionError as error:
        raise UserError(f"--data {root}: no permission to read {error.filename}; change its permissions") from error
    if classes != val_classes:
        only_train, only_val = sorted(set(classes) - set(val_classes)), sorted(set(val_classes) - set(classes))
        raise UserError(
            f"--data {root}: train/ and val/ have different classes: only in train/: {_names(only_train)}; "
            f"only in val/: {_names(only_val)}; give both the same class folders"
        )
    if len(classes) < 2:
        raise UserError(f"--data {root}: has only one class, {classes[0]}; add another: one class needs no classifier")
    return Folder(root, classes, train, val)


def find_images(root: Path) -> tuple[str, ...]:
    """Returns the sorted paths of the images in a folder and its subfolders, relative to it, with "/" as separator.

    Only files with the suffixes of ImageFolder are images. Raises a UserError if there is no folder, or no image.
    """
    if not root.is_dir():
        raise UserError(f"{root}: there is no such folder; name a folder of images")
    paths = []

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror}); change its permissions") from error

    for folder, _, names in os.walk(root, followlinks=True, onerror=refuse):
        relative = Path(folder).relative_to(root).as_posix()
        prefix = "" if relative == "." else f"{relative}/"
        paths += [prefix + name for name in names if name.lower().endswith(IMG_EXTENSIONS)]
    if not paths:
        raise UserError(f"{root}: contains no images; their names must end in {', '.join(IMG_EXTENSIONS)}")
    return tuple(sorted(paths))


def read_file_list(file: Path) -> tuple[str, ...]:
    """Returns the lines of a text file, each the path of an image, in their order; empty lines are left out.

    Raises:
        UserError: the file cannot be read, is not text, or names nothing.
    """
    try:
        lines = file.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(f"--files {file}: cannot be read ({reason}); name a text file of image paths") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise UserError(f"--files {file}: names no images; write the path of an image on each line")
    return names


def _scan_split(root: Path, name: str) -> tuple[tuple[str, ...], Split]:
    """Returns the classes and the files of a split."""
    folder = root / name
    if not folder.is_dir():
        fix = "put the training images into" if name == "train" else "move some images of each class into"
        raise UserError(f"--data {root}: has no folder {name}/; {fix} {name}/<class>/")
    if not any(entry.is_dir() for entry in folder.iterdir()):
        if any(entry.suffix.lower() in IMG_EXTENSIONS for entry in folder.iterdir()):
            raise UserError(
                f"--data {root}: {name}/ is flat: it contains images directly, without class folders; "
                f"move each image into {name}/<class>/"
            )
        raise UserError(f"--data {root}: {name}/ contains no images; put them into {name}/<class>/")
    listed = ImageFolder(str(folder), allow_empty=True)
    labels = np.array(listed.targets, dtype=np.int64)
    if not len(labels):
        raise UserError(f"--data {root}: {name}/ has no images; file names must end in {', '.join(IMG_EXTENSIONS)}")
    counts = np.bincount(labels, minlength=len(listed.classes))
    if empty := [listed.classes[i] for i in np.flatnonzero(counts == 0)]:
        raise UserError(f"--data {root}: no images in {name}/ of class {_names(empty)}; add some or remove the folder")
    start = len(str(folder)) + 1  # sliced off: creating a Path for each of a million files takes ten seconds
    paths = tuple(f"{name}/{path[start:]}" for path, _ in listed.samples)
    return tuple(listed.classes), Split(name, paths, labels)


def _names(classes: list[str]) -> str:
    """Returns up to five class names: a thousand are too many for a message."""
    more = f" and {len(classes) - 5} more" if len(classes) > 5 else ""
    return (", ".join(classes[:5]) or "none") + more
