"""The claim of a run's folder: an exclusive lock, so that one process at a time writes a run."""

import contextlib
import errno
import fcntl
import os
import platform
import sys
import time
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

from alexnet_torch.errors import UserError
from alexnet_torch.files import explain_os_error, naming
from alexnet_torch.run_folder import LOCK

_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of file systems that have no locks
_POLL = 0.1  # seconds


class RunClaim:
    """Holds a run's folder for this process, from `take` to the end of the `with` block or of the process.

    The lock is the operating system's, on a file in the folder: it ends with the process, however that ends.

    Attributes:
        folder: the claimed folder; None before `take`.
    """

    def __init__(self) -> None:
        self.folder: Path | None = None
        self._descriptor: int | None = None
        self._created: list[Path] = []  # innermost first

    def take(self, folder: Path, patience: float = 0.0) -> None:
        """Claims a folder, which is created if missing.

        Args:
            folder: the run's.
            patience: seconds to wait for another process that has claimed it.

        Raises:
            UserError: another process has claimed it, which the message names, or it cannot be written.
        """
        try:
            self._create(folder)
            self._lock(folder, time.monotonic() + patience)
        except OSError as error:
            self.release()
            raise UserError(f"--output {folder}: {explain_os_error(error)}") from error

    def take_new(self, folder: Path) -> Path:
        """Claims a folder that does not exist yet: this one, or else FOLDER-2, FOLDER-3, ... Returns it."""
        for number in count(1):
            candidate = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
            try:
                self._create(candidate.parent)
                candidate.mkdir()
            except FileExistsError:
                continue
            except OSError as error:
                self.release()
                raise UserError(f"--output {candidate}: {explain_os_error(error)}") from error
            self._created.insert(0, candidate)
            self.take(candidate)
            return candidate
        raise AssertionError

    def _create(self, folder: Path) -> None:
        missing = []
        while not folder.exists():
            missing.append(folder)
            folder = folder.parent
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            self._created.insert(0, path)

    def _lock(self, folder: Path, deadline: float) -> None:
        while self._descriptor is None:
            descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = os.pread(descriptor, 1000, 0).decode(errors="replace").strip() or "another process"
                os.close(descriptor)
                if time.monotonic() >= deadline:
                    raise UserError(
                        f"--output {folder}: {holder} is writing this run; wait until it has ended, or name another "
                        "folder"
                    ) from error
                time.sleep(_POLL)
                continue
            except OSError as error:
                if error.errno not in _WITHOUT_LOCKS:
                    os.close(descriptor)
                    raise
                print(f"{folder}: its disk has no file locks; start no second run in this folder", file=sys.stderr)
            if _is_file(descriptor, folder / LOCK):
                self._descriptor, self.folder = descriptor, folder
            else:  # its last holder removed it as this process opened it
                os.close(descriptor)
        holder = f"process {os.getpid()} on {platform.node()}, started {time.strftime('%Y-%m-%d %H:%M:%S')},"
        with naming(folder / LOCK):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, holder.encode(errors="replace"), 0)

    def release(self) -> None:
        """Gives the claim back; removes folders that `take` created and nothing was written into."""
        if self._descriptor is not None and self.folder is not None:
            if _is_file(self._descriptor, self.folder / LOCK):  # the folder may have been moved meanwhile
                with contextlib.suppress(OSError):  # for example a disk that became read-only: the file says nothing
                    (self.folder / LOCK).unlink()
            os.close(self._descriptor)
        for path in self._created:
            with contextlib.suppress(OSError):  # it has files now
                path.rmdir()
        self._descriptor, self.folder, self._created = None, None, []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def is_claimed(folder: Path) -> bool:
    """Returns whether a process, of this machine or of one with the same disk, is writing a run's folder now."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
        return True  # such a disk has no locks, but the file is there while a process writes the run
    finally:
        os.close(descriptor)
    return False


def _is_file(descriptor: int, path: Path) -> bool:
    """Returns whether an open file is the one that a path names."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False
