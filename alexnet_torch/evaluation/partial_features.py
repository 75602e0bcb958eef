"""Features that were computed so far, stored in a folder beside the output until the output is complete."""

import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np

from alexnet_torch.errors import UserError
from alexnet_torch.evaluation.feature_file import FeatureArray
from alexnet_torch.files import atomic_write

SAVE_SECONDS = 30.0
"""At most so much work is lost by kill -9 or a power cut: how often rows and progress are synced to the disk."""

_PROGRESS = "progress.json"


def partial_folder(output: Path) -> Path:
    """Returns the folder of an unfinished output: fc7.npy.partial for fc7.npy."""
    return output.with_name(f"{output.name}.partial")


class PartialFeatures:
    """The rows of each array, in a file of its own, and how far they are; the same command continues from them.

    As a context manager it saves when the block ends with an exception, and then removes the folder if nothing was
    computed.

    Args:
        output: the feature file to make.
        arrays: name and row shape of each array.
        header_lengths: bytes to leave free at the start of each array's file.
        command: JSON values by name that must not change between interruption and continuation.

    Attributes:
        folder: where the rows are.
        parts: the file of each array.
        done: how many files of the list are done, readable or not.
        bad: (index, reason) of each unreadable one.

    Raises:
        UserError: the folder is in use, or of another command.
        OSError: the folder cannot be written.
    """

    def __init__(
        self, output: Path, arrays: Sequence[FeatureArray], header_lengths: Sequence[int], command: Mapping[str, Any]
    ) -> None:
        self.folder, self.arrays, self.header_lengths = partial_folder(output), arrays, header_lengths
        self.done, self.bad = 0, list[tuple[int, str]]()
        self._command = json.loads(json.dumps(dict(command)))
        self._command["header_lengths"] = list(header_lengths)
        self.parts = [self.folder / f"{array.name}.rows" for array in arrays]
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / "lock").open("wb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise UserError(f"--output {output}: another process is writing it; wait, or name another file") from error
        try:
            self._read_progress(output)
            self._files = [self._open(part, length) for part, length in zip(self.parts, header_lengths, strict=True)]
        except BaseException:
            self._lock.close()
            raise
        self._next_save = time.monotonic() + SAVE_SECONDS

    @property
    def rows(self) -> int:
        """The number of rows of each array."""
        return self.done - len(self.bad)

    def _read_progress(self, output: Path) -> None:
        path = self.folder / _PROGRESS
        if not path.exists():
            return
        try:
            progress = json.loads(path.read_text())
            command, done, bad = progress["command"], progress["done"], [(i, why) for i, why in progress["bad"]]
        except (ValueError, KeyError, TypeError) as error:
            fix = f"move {self.folder} elsewhere to start again"
            raise UserError(f"--output {output}: {path} is damaged; {fix}") from error
        if command != self._command:
            names = [n for n in {**command, **self._command} if command.get(n) != self._command.get(n)]
            raise UserError(
                f"--output {output}: {self.folder} has the rows of another command, which differs in "
                f"{', '.join(names)}; finish that command, move the folder elsewhere, or name another file"
            )
        self.done, self.bad = done, bad
        sizes = [part.stat().st_size if part.exists() else 0 for part in self.parts]
        if any(size < self._end(index) for index, size in enumerate(sizes)):  # it was interrupted as it moved them
            self.done, self.bad = 0, []

    def _end(self, index: int) -> int:
        return self.header_lengths[index] + self.rows * self.arrays[index].row_bytes

    def _open(self, part: Path, header_length: int) -> BinaryIO:
        """Opens a part and removes what was written after the last saved progress."""
        file = part.open("r+b" if part.exists() else "w+b")
        file.truncate(self._end(self.parts.index(part)))
        file.seek(max(header_length, self._end(self.parts.index(part))))
        return file

    def restart_at(self, done: int) -> None:
        """Drops the rows of the files from index `done` on; no file before it may be unreadable."""
        assert not any(index < done for index, _ in self.bad)
        self.done, self.bad = done, []
        for index, file in enumerate(self._files):
            file.truncate(self._end(index))
            file.seek(self._end(index))

    def append(self, done: int, features: Sequence[np.ndarray], bad: Sequence[tuple[int, str]]) -> None:
        """Adds the rows of the next files.

        Args:
            done: the index after the last of these files.
            features: (n, *shape) float32 for each array, of the readable ones.
            bad: (index, reason) of each of the others.
        """
        for file, rows in zip(self._files, features, strict=True):
            file.write(np.ascontiguousarray(rows, "<f4").data)
        self.done = done
        self.bad += bad
        if time.monotonic() >= self._next_save:
            self.save()

    def save(self) -> None:
        """Makes all rows so far survive a kill and a power cut."""
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())
        progress = {"command": self._command, "done": self.done, "bad": self.bad}
        atomic_write(self.folder / _PROGRESS, lambda file: file.write(json.dumps(progress).encode()))
        self._next_save = time.monotonic() + SAVE_SECONDS

    def remove(self) -> None:
        """Removes the folder; the output is complete."""
        shutil.rmtree(self.folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is not None and self.rows:
                self.save()
        finally:
            for file in self._files:
                file.close()
            if kind is not None and not self.rows:
                self.remove()
            elif kind is not None:
                print(f"{self.folder}: has {self.rows} rows; the same command continues from them", file=sys.stderr)
            self._lock.close()
