"""Files that are complete or absent, even after a crash; their errors in one line; text that users wrote."""

import errno
import fcntl
import glob
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from shlex import quote
from typing import Any, BinaryIO

from alexnet_torch.errors import RunError, UserError, describe_memory_error

_OTHER = "name another path"
_FIXES = {
    errno.ENOSPC: "make room on its disk",
    errno.EDQUOT: "make room in your quota",
    errno.EACCES: f"change its permissions, or {_OTHER}",
    errno.ENOENT: "check its path",
    errno.EISDIR: "name a file",
    errno.EMFILE: "raise the limit of open files with ulimit -n",
    errno.EIO: "check its disk",
}


def cache_home() -> Path:
    """Returns the folder for files that can be rebuilt: alexnet_torch in $XDG_CACHE_HOME or ~/.cache."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alexnet_torch"
    except RuntimeError as error:  # a container's user; in /tmp compiled code may be others'
        fix = "set XDG_CACHE_HOME to a folder that only this user can write"
        raise UserError(f"this user has no home folder; {fix}") from error


def explain_os_error(error: OSError) -> str:
    """Returns the file that failed, the system's reason, and what to do about it."""
    named = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    return f"{named}{_reason(error)}; {_FIXES.get(error.errno or 0, _OTHER)}"


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


@contextmanager
def reading(file: Path | str, fix: str) -> Iterator[None]:
    """Turns whatever reading a damaged file raises into a UserError: file or "--option FILE", cause, fix."""
    try:
        yield
    except OSError as error:
        mend = fix if error.errno == errno.ENOENT else _FIXES.get(error.errno or 0, fix)  # it may be intact
        raise UserError(f"{file}: {_reason(error)}; {mend}") from error
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
def importing(path: Path | str, extra: str = "exchange") -> Iterator[None]:
    """Turns a package that the block lacks into a UserError that names its extra, which pyproject.toml lists."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(f"{path}: needs the package {error.name}; pip install 'alexnet_torch[{extra}]'") from error


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Yields a temporary file, and renames it to `path` if the block raises no exception; else removes it."""
    remove_leftovers(path.parent, f".{glob.escape(path.name)}.*.tmp")
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("xb") as file:
            with suppress(OSError):  # of a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield file
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)  # before the file is closed, which ends its lock
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):  # torch.save hides the system's reason behind its own
            raise error.__context__ from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def atomic_write(path: Path, content: bytes) -> None:
    """Writes an `atomic_file`."""
    with atomic_file(path) as file:
        file.write(content)


def write_json(path: Path, content: Mapping[str, Any], indent: int | None = None) -> None:
    """Writes JSON as an `atomic_file`."""
    atomic_write(path, json.dumps(content, indent=indent, allow_nan=False).encode())


def remove_leftovers(folder: Path, pattern: str) -> None:
    """Removes temporary files of processes that were killed; those being written are locked, or still empty."""
    for leftover in folder.glob(pattern):
        with suppress(OSError), leftover.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if file.read(1):
                leftover.unlink()


def sync_folder(folder: Path) -> None:
    """Writes a folder's entries to the disk, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def utf8_text(text: str) -> str:
    """Returns a text with bytes that are not UTF-8, as names of files may have them, as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def require_utf8(path: Path | str, option: str) -> None:
    """Refuses a path that is not UTF-8, which TensorBoard cannot open."""
    if (text := utf8_text(str(path))) != str(path):
        raise UserError(f"{option} {text}: is not UTF-8, as TensorBoard needs; choose another name")


def read_lines(path: Path, option: str, any_bytes: bool = False) -> list[str]:
    """Returns a UTF-8 file's lines that are not empty, stripped; `any_bytes`: with other bytes as in Python's names."""
    with reading(f"{option} {path}", "check its path"):
        text = path.read_text("utf-8-sig", "surrogateescape")
    if "\0" in text or (not any_bytes and utf8_text(text) != text):
        convert = f"iconv -f LATIN1 -t UTF-8 {quote(str(path))} > {quote(f'{path}.utf8')}"
        raise UserError(f"{option} {path}: is not UTF-8 text; convert it, for example with {convert}")
    # not splitlines, which also ends lines at characters that names may have
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if not lines:
        raise UserError(f"{option} {path}: is empty; write one name on each line")
    return lines
