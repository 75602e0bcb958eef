"""Files that are complete or absent, even after a crash; their errors in one line; text that users wrote."""

import errno
import fcntl
import glob
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shlex import quote
from typing import BinaryIO

from alexnet_torch.errors import RunError, UserError, describe_memory_error

_FIXES = {
    errno.ENOSPC: "make room on its disk",
    errno.EDQUOT: "make room in your quota",
    errno.EACCES: "change its permissions, or name another path",
    errno.EPERM: "change its permissions, or name another path",
    errno.EROFS: "its disk is read-only; name another path",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: "part of its path is a file; name another path",
    errno.EISDIR: "it is a folder; name a file",
    errno.ENOENT: "check its path",
    errno.ELOOP: "its links lead in a circle; name another path",
    errno.EMFILE: "raise the limit of open files with ulimit -n",
    errno.EIO: "check its disk",
}


def cache_home() -> Path:
    """Returns the folder for files that can be rebuilt: alexnet_torch in $XDG_CACHE_HOME or ~/.cache."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alexnet_torch"
    except RuntimeError as error:  # a container's user without name and HOME; in /tmp compiled code may be others'
        raise UserError(
            "this user has no home folder for decoded images and compiled code; set XDG_CACHE_HOME to a folder that "
            "only this user can write"
        ) from error


def describe_os_error(error: OSError) -> str:
    """Returns the file that failed and its own reason, or only the reason where the system names no file."""
    reason = error.strerror or str(error) or type(error).__name__
    return f"{os.fsdecode(error.filename)}: {reason}" if isinstance(error.filename, str | bytes) else reason


def explain_os_error(error: OSError) -> str:
    """Returns the file that failed, its own reason, and what to do about this reason."""
    return f"{describe_os_error(error)}; {_FIXES.get(error.errno or 0, 'name another path')}"


def is_inside(error: OSError, folder: Path) -> bool:
    """Returns whether the file that failed is a folder or in it."""
    name = error.filename if isinstance(error.filename, str | bytes) else ""
    return bool(name) and Path(os.fsdecode(name)).absolute().is_relative_to(folder.absolute())


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Names the file in an OSError of the block that has no name, as those of writing to an open file."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


@contextmanager
def reading(file: Path | str, fix: str) -> Iterator[None]:
    """Turns whatever reading a damaged file raises into a UserError: file or "--option FILE", cause, fix."""
    try:
        yield
    except OSError as error:
        mend = fix if error.errno == errno.ENOENT else _FIXES.get(error.errno or 0, fix)  # it may be intact
        raise UserError(f"{file}: {error.strerror or str(error) or type(error).__name__}; {mend}") from error
    except Exception as error:  # parsers raise almost anything on damaged files
        if isinstance(error, RunError) or describe_memory_error(error):
            raise
        cause = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{file}: is damaged ({cause}); {fix}") from error


@contextmanager
def writing(option: str) -> Iterator[None]:
    """Turns an OSError of the block into a UserError that begins with the option, such as "--output runs/x"."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{option}: {explain_os_error(error)}") from error


@contextmanager
def explain_missing_package(path: Path | str, extra: str = "exchange") -> Iterator[None]:
    """Turns a package that the block lacks into a UserError that names its extra, which pyproject.toml lists."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(f"{path}: needs the package {error.name}; pip install 'alexnet_torch[{extra}]'") from error


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Yields a temporary file, and renames it to `path` if the block raises no exception; else removes it."""
    remove_leftovers(path.parent, f".{glob.escape(path.name)}.*.tmp")
    with naming(path):
        file = _locked_temporary(path)
    temporary = Path(file.name)
    try:
        with naming(path), file:
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
        with suppress(OSError):  # of a file system without locks: there nobody removes leftovers either
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # another process took it for a leftover before it was locked


def remove_leftovers(folder: Path, pattern: str) -> None:
    """Removes temporary files of processes that were killed; those that a process still writes are locked and stay."""
    for leftover in folder.glob(pattern):
        with suppress(OSError), leftover.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            leftover.unlink()


def atomic_write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Calls `write` with a temporary file, and renames it to `path`."""
    with atomic_file(path) as file:
        try:
            write(file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # torch.save hides the system's reason behind its own
                raise error.__context__ from error
            raise


def sync_folder(folder: Path) -> None:
    """Writes a folder's entries to the disk, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def utf8_text(text: str) -> str:
    """Returns a text in which bytes that are not UTF-8, as names of files may have them, are written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def require_utf8(path: Path | str, option: str) -> None:
    """Refuses a path that is not UTF-8, which TensorBoard cannot open."""
    if utf8_text(str(path)) != str(path):
        raise UserError(f"{option} {utf8_text(str(path))}: is not UTF-8, as TensorBoard needs; choose another name")


def read_lines(path: Path, option: str, any_bytes: bool = False) -> list[str]:
    """Returns a UTF-8 file's lines that are not empty, stripped; `any_bytes`: with other bytes as in Python's names."""
    try:
        text = path.read_text("utf-8-sig", "surrogateescape" if any_bytes else "strict")
    except UnicodeDecodeError:
        text = "\0"
    except OSError as error:
        raise UserError(f"{option} {explain_os_error(error)}") from error
    if "\0" in text:
        convert = f"iconv -f LATIN1 -t UTF-8 {quote(str(path))} > {quote(f'{path}.utf8')}"
        raise UserError(f"{option} {path}: is not UTF-8 text; convert it, for example with {convert}")
    # not splitlines, which also ends lines at characters that names may have
    return [line.strip() for line in text.split("\n") if line.strip()]
