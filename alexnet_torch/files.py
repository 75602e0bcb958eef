"""Files that appear complete or not at all."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def cache_home() -> Path:
    """Where this project keeps what it can make again: $XDG_CACHE_HOME or ~/.cache, alexnet_torch."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alexnet_torch"


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to fill, which appears under `path` when the block ends well: complete, or not at all.

    Raises:
        OSError: the disk is full, the folder gone, or the like; nothing is left behind.
    """
    for left in path.parent.glob(f".{path.name}.*.tmp"):  # by a process that was killed
        left.unlink()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def atomic_write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Has `write` fill a file that appears under `path` complete or not at all, even after a power cut.

    Raises:
        OSError: the disk is full, the folder gone, or the like; nothing is left behind.
    """
    with replacing(path) as file:
        try:
            write(file)
        except RuntimeError as error:  # what torch.save makes of a failed write
            raise OSError(f"{path}: {error}") from error


def sync_folder(folder: Path) -> None:
    """Makes a folder's entries, such as a rename, survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
