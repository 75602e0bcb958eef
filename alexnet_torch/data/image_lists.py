"""Lists of image files: those of a folder, nested in any way, and those that a text file names."""

import logging
from pathlib import Path

from alexnet_torch.data.sources.listing import Listing
from alexnet_torch.errors import UserError
from alexnet_torch.files import read_lines

logger = logging.getLogger(__name__)


def find_images(root: Path) -> tuple[str, ...]:
    """Returns the sorted paths of the images in a folder and its subfolders, relative to it, with "/" as separator.

    Args:
        root: the folder.

    Raises:
        UserError: there is no folder, it cannot be read, or it has no image.
    """
    if not root.is_dir():
        raise UserError(f"{root}: there is no such folder; name a folder of images")
    listing = Listing(root, str(root))
    paths = tuple(sorted(path for path, *_ in listing.images("")))
    if not paths:
        raise UserError(f"{root}: contains no images that can be read; name a folder that has some")
    if listing.skipped.counts:
        logger.warning(f"{root}: {len(paths):,} images{listing.skipped}")
    return paths


def read_file_list(file: Path) -> tuple[str, ...]:
    """Returns the lines of a text file, each the path of an image, in their order; empty lines are left out.

    Raises:
        UserError: the file cannot be read, is not text, or names nothing.
    """
    names = tuple(read_lines(file, "--files", any_bytes=True))
    if not names:
        raise UserError(f"--files {file}: names no images; write the path of an image on each line")
    return names
