"""The outputs of a run while it trains: metrics.jsonl and the progress bar."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from alexnet_torch.files import naming


class MetricsFile:
    """metrics.jsonl: one line of JSON for each report, append-only.

    Args:
        size: bytes to preserve when a run resumes; later lines were written after the checkpoint, and the
            resumed run writes them again.
    """

    def __init__(self, path: Path, size: int = 0) -> None:
        self._path, self._file = path, path.open("r+b" if path.exists() else "w+b")
        self._file.truncate(size)
        self._file.seek(size)

    def write(self, record: dict[str, Any]) -> None:
        """Appends one record."""
        with naming(self._path):
            self._require_path()
            self._file.write(json.dumps(record, allow_nan=False).encode() + b"\n")
            self._file.flush()

    def sync(self) -> int:
        """Puts the file on the disk; returns its size in bytes."""
        with naming(self._path):
            self._require_path()
            os.fsync(self._file.fileno())
            return self._file.tell()

    def _require_path(self) -> None:
        self._path.stat()  # writing to an open file succeeds even after its folder was removed

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class ProgressBar:
    """A bar on a terminal; elsewhere one line for each report, since a log file cannot show a bar."""

    def __init__(self, last_step: int, step: int) -> None:
        self._bar = tqdm(total=last_step, initial=step, unit="step", disable=None, dynamic_ncols=True)

    def advance(self) -> None:
        """Moves the bar by one step."""
        self._bar.update()

    def show_train(self, record: dict[str, Any]) -> None:
        """Shows a training record."""
        text = (
            f"loss {record['loss']:.4f}, error {record['top1_error']:.1%}, lr {record['lr']:.2g}, "
            f"{record['images_per_second']:.0f} images/s, waiting {record['data_wait']:.0%}"
        )
        if self._bar.disable:
            self.print(f"epoch {record['epoch']:.2f}, step {record['step']}: {text}")
        else:
            self._bar.set_postfix_str(text)

    def show_validation(self, record: dict[str, Any], is_best: bool) -> None:
        """Shows a validation record."""
        self.print(
            f"epoch {record['epoch']:g}, step {record['step']}: validation loss {record['loss']:.4f}, "
            f"top-1 error {record['top1_error']:.2%}, top-5 error {record['top5_error']:.2%}"
            + (" (the best so far)" if is_best else "")
        )

    def print(self, text: str) -> None:
        """Prints a line above the bar."""
        if self._bar.disable:
            print(text, flush=True)
        else:
            tqdm.write(text, file=sys.stdout)

    def close(self) -> None:
        """Leaves the bar as it is."""
        self._bar.close()
