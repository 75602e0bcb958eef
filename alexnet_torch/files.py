"""Writes files so that they are complete or absent, even after a crash or a power cut."""

import contextlib
import fcntl
import glob
import os
import uuid
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
    remove_leftovers(path.parent, f".{glob.escape(path.name)}.*.tmp")
    file = _locked_temporary(path)
    temporary = Path(file.name)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)  # before the file is closed, which ends its lock
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def _locked_temporary(path: Path) -> BinaryIO:
    """Opens a new file beside `path`, locked for as long as it is open."""
    while True:
        file = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp").open("xb")
        with contextlib.suppress(OSError):  # of a file system without locks: there nobody removes leftovers either
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # another process took it for a leftover before it was locked


def remove_leftovers(folder: Path, pattern: str) -> None:
    """Removes temporary files of processes that were killed; those that a process still writes are locked and stay."""
    for leftover in folder.glob(pattern):
        with contextlib.suppress(OSError), leftover.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            leftover.unlink()


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
