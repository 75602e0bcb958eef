"""Writes files so that they are complete or absent, even after a crash or a power cut."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def cache_home() -> Path:
    """Returns the folder for files that can be rebuilt: alexnet_torch in $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alexnet_torch"


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Yields a temporary file, and renames it to `path` if the block raises no exception.

    Raises:
        OSError: for example the disk is full or the folder was removed; no temporary file stays.
    """
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):  # of a process that was killed
        leftover.unlink()
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
    """Calls `write` with a temporary file, and renames it to `path`.

    Raises:
        OSError: as for `atomic_file`.
    """
    with atomic_file(path) as file:
        try:
            write(file)
        except RuntimeError as error:  # torch.save turns a failed write into this
            raise OSError(f"{path}: {error}") from error


def sync_folder(folder: Path) -> None:
    """Writes a folder's entries to the disk, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
