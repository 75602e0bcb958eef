"""The file of evaluate --csv: for each image its file, its label, and the five most probable classes."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from alexnet_torch.errors import UserError
from alexnet_torch.files import atomic_file, explain_os_error

GUESSES = 5


class GuessTable:
    """Writes a row for each image: file, label, five guesses, most probable first, and their probabilities.

    Networks of fewer than five classes have as many guesses as classes.

    Args:
        path: the file's, for messages.
        file: written as UTF-8; bytes of file names that are not UTF-8 stay as they are.
        classes: the model's, in the order of its logits.
    """

    def __init__(self, path: Path, file: BinaryIO, classes: Sequence[str]) -> None:
        self._path, self._file, self._classes = path, file, classes
        count = range(1, min(GUESSES, len(classes)) + 1)
        self._write([["file", "label", *(f"guess{i}" for i in count), *(f"probability{i}" for i in count)]])

    def add(self, files: Sequence[str], labels: Tensor, log_probs: Tensor) -> None:
        """Writes the rows of a batch; raises a UserError if the disk is full.

        Args:
            files: (n) names.
            labels: (n,) int64, indices into the classes.
            log_probs: (n, classes).
        """
        top = log_probs.topk(min(GUESSES, len(self._classes)), dim=1)  # both (n, 5)
        rows = zip(files, labels.tolist(), top.indices.tolist(), torch.exp(top.values).tolist(), strict=True)
        self._write(
            [file, self._classes[label], *(self._classes[i] for i in guesses), *(f"{p:.6g}" for p in probabilities)]
            for file, label, guesses, probabilities in rows
        )

    def _write(self, rows: Iterable[list[str]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        with _write_errors(self._path):
            self._file.write(text.getvalue().encode("utf-8", "surrogateescape"))


@contextmanager
def guess_table(path: Path | None, classes: Sequence[str]) -> Iterator[GuessTable | None]:
    """Yields a table that becomes the file at `path` if the block raises no exception; None without a path.

    Raises:
        UserError: the file cannot be written: found before the block, unless the disk becomes full.
    """
    if path is None:
        yield None
        return
    if path.is_dir():
        raise UserError(f"--csv {path}: is a folder; name a file")
    stack = ExitStack()
    with _write_errors(path):
        file = stack.enter_context(atomic_file(path))
    with stack:  # an error of the block is not the file's
        yield GuessTable(path, file, classes)
        with _write_errors(path):
            stack.close()


@contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"--csv {path}: {explain_os_error(error)}") from error
