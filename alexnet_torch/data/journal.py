"""The folder that a decoding pass fills: its lock, its disk space, and a journal to continue an interrupted pass."""

import fcntl
import json
import logging
import os
import shutil
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np

from alexnet_torch.data.pixel_sums import PixelSums
from alexnet_torch.files import atomic_write

logger = logging.getLogger(__name__)

JOURNAL, DIGEST = "journal.npz", "listing.txt"
JOURNAL_SECONDS = 5.0


@contextmanager
def lock_folder(target: Path) -> Iterator[None]:
    """Holds a lock beside a folder, so that only one process builds it."""
    with target.with_name(f".{target.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info(f"waiting for another process that is building {target}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def open_partial(partial: Path, digest: str) -> None:
    """Creates the folder of a pass, or keeps it if an interrupted pass with the same digest left it."""
    if partial.exists():
        if (partial / DIGEST).exists() and (partial / DIGEST).read_text() == digest:
            logger.info(f"continuing the interrupted {partial}")
            return
        logger.info(f"starting {partial} again: the files or settings changed since it was interrupted")
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    atomic_write(partial / DIGEST, lambda file: file.write(digest.encode()))


def close_partial(folder: Path) -> None:
    """Removes the journal from a complete folder, already renamed: killed before that, a pass would start again."""
    for name in (JOURNAL, DIGEST):
        (folder / name).unlink()


def allocate_map(path: Path, size: int) -> None:
    """Reserves the disk space of a memory map or of digests now; deletes the journal if the file was missing
    or incomplete."""
    if not path.exists() or path.stat().st_size != size:
        (path.parent / JOURNAL).unlink(missing_ok=True)
    # neither appending nor write-only: where a file system cannot allocate, the C library then refuses
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        os.posix_fallocate(descriptor, 0, size)
    finally:
        os.close(descriptor)


class Journal:
    """The finished chunks of a pass and their sums, saved so that an interrupted pass continues from there.

    A journal that the pass's folder has already is continued, if its digest of files and settings is the same.
    """

    def __init__(self, folder: Path, digest: str, chunks: int, side: int) -> None:
        self._folder, self._digest = folder, digest
        self.done, self.sums = np.zeros(chunks, bool), PixelSums.zeros(side)
        self._saved_at = time.monotonic()
        if (folder / JOURNAL).exists():
            try:
                self._load()
            except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                logger.info(f"{folder / JOURNAL} is damaged ({error}): all images are decoded again")

    def _load(self) -> None:
        with np.load(self._folder / JOURNAL) as saved:  # NumPy checks the CRC-32 of each array
            if str(saved["listing"]) == self._digest:
                bad = [(split, row, reason) for split, row, reason in json.loads(str(saved["bad"]))]
                sums = PixelSums(saved["pixels"], saved["products"], int(saved["images"]), bad)
                self.done, self.sums = saved["done"], sums

    def add(self, number: int, sums: PixelSums) -> None:
        """Adds a finished chunk; saves the journal if the last save was some seconds ago."""
        self.done[number] = True
        self.sums.add(sums)
        if time.monotonic() - self._saved_at > JOURNAL_SECONDS:
            self.save()

    def save(self) -> None:
        """Saves the journal, after the pixels, digests and checksums of the chunks that it calls finished."""
        for path in (path for ending in ("u8", "digests", "sums") for path in self._folder.glob(f"*.{ending}")):
            with path.open("rb") as file:
                os.fsync(file.fileno())
        content, sums = BytesIO(), {**vars(self.sums), "bad": json.dumps(self.sums.bad)}
        np.savez(content, listing=self._digest, done=self.done, **sums)
        atomic_write(self._folder / JOURNAL, lambda file: file.write(content.getbuffer()))
        self._saved_at = time.monotonic()
