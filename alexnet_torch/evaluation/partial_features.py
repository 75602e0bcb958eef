"""The rows of features so far, in a folder beside their file, from which the same command continues."""

import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_torch.errors import UserError
from alexnet_torch.files import atomic_write, reading
from alexnet_torch.run_folder import claimed

logger = logging.getLogger(__name__)

SAVE_SECONDS = 30.0  # at most so much work is lost by kill -9 or a power cut

Shapes = Mapping[str, tuple[int, ...]]  # of arrays, by name


class PartialRows:
    """A .npy file of each array, with room for the rows of all images, and how far they are.

    Attributes:
        parts: the file of each array.
        done: how many images are done, readable or not.
        bad: (index, reason) of each unreadable one.
    """

    def __init__(self, folder: Path, shapes: Shapes, command: Mapping[str, Any], skip_bad: bool) -> None:
        self.folder, self._shapes, self._command = folder, shapes, json.loads(json.dumps(command))
        self.parts = {name: folder / f"{name}.npy" for name in shapes}
        self.done, self.bad, self._saved = 0, list[tuple[int, str]](), time.monotonic()
        if (path := folder / "progress.json").exists():
            self._continue(json.loads(path.read_text()))
        if self.bad and not skip_bad:  # since then, the user may have repaired them
            self.done, self.bad = 0, []
        for name, part in self.parts.items():
            total = shapes[name][0]
            if not part.exists() or len(np.load(part, mmap_mode="r")) not in (total, self.rows):  # or was being moved
                np.lib.format.open_memmap(part, "w+", "<f4", shapes[name])  # a sparse file
                self.done, self.bad = 0, []

    def _continue(self, progress: dict[str, Any]) -> None:
        was, self.done, self.bad = progress["command"], progress["done"], [(i, why) for i, why in progress["bad"]]
        if names := [name for name in {**was, **self._command} if was.get(name) != self._command.get(name)]:
            raise UserError(
                f"--output: {self.folder} has the rows of another command, which differs in {', '.join(names)}; "
                "finish that command, move the folder elsewhere, or name another file"
            )

    @property
    def rows(self) -> int:
        """The number of rows of each array so far."""
        return self.done - len(self.bad)

    def open(self, files: ExitStack) -> None:
        """Opens the files of the arrays, until `files` is closed."""
        self._files = {name: files.enter_context(part.open("r+b")) for name, part in self.parts.items()}

    def append(self, count: int, features: Mapping[str, np.ndarray], bad: Sequence[tuple[int, str]]) -> None:
        """Adds the rows (n, ...) of the next images, of which some are bad: (index, reason)."""
        for name, rows in features.items():
            self._files[name].seek((self.rows - self._shapes[name][0]) * rows[0].nbytes, os.SEEK_END)
            self._files[name].write(np.ascontiguousarray(rows, "<f4").data)
        self.done += count
        self.bad += bad
        if time.monotonic() > self._saved + SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Makes all rows so far survive a kill and a power cut."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        progress = json.dumps({"command": self._command, "done": self.done, "bad": self.bad}).encode()
        atomic_write(self.folder / "progress.json", lambda file: file.write(progress))
        self._saved = time.monotonic()

    def finish(self) -> None:
        """Cuts the files to their rows; NumPy leaves room for any number of them in the header."""
        for name, file in self._files.items():
            shape = (self.rows, *self._shapes[name][1:])
            file.seek(0)
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
            file.truncate(file.tell() + int(np.prod(shape)) * 4)
        self.save()


@contextmanager
def partial_rows(
    output: Path, shapes: Shapes, command: Mapping[str, Any], skip_bad: bool = False
) -> Iterator[PartialRows]:
    """Yields the rows so far; saves them if the block fails, removes them if it does not.

    Args:
        output: the file to make, fc7.npy; the folder is fc7.npy.partial.
        shapes: of the arrays with the rows of all images.
        command: JSON values that must be the same to continue.
        skip_bad: keep what was unreadable, instead of a new start.
    """
    with claimed(output.with_name(f"{output.name}.partial")) as folder, ExitStack() as files:
        with reading(f"--output: {folder}", "move it elsewhere to start again"):
            partial = PartialRows(folder, shapes, command, skip_bad)
        partial.open(files)
        try:
            yield partial
        except BaseException:
            if partial.rows:
                partial.save()
                logger.info(f"{folder}: has {partial.rows} rows; the same command continues from them")
            else:
                shutil.rmtree(folder)
            raise
        shutil.rmtree(folder)
