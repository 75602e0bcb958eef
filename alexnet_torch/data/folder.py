"""Lists of image files: those of a folder, nested in any way, and those that a text file names."""

import os
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS

from alexnet_torch.errors import UserError


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
