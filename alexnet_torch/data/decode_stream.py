"""Centre crops of image files, decoded ahead of need by worker processes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alexnet_torch.data.augment import centre_slice
from alexnet_torch.data.decode import UnreadableImage, decode_file
from alexnet_torch.data.worker_processes import available_cores, map_in_processes

PREFETCH = 2  # batches for each worker that are decoded before they are consumed


@dataclass(frozen=True)
class DecodedBatch:
    """Consecutive files, decoded."""

    images: np.ndarray  # (n, size, size, 3) uint8, centre crops of the readable files
    indices: np.ndarray  # (n,) int64, their positions in the list of files
    bad: tuple[tuple[int, str], ...]  # (index, reason) of each unreadable file


@dataclass(frozen=True)
class _Task:
    first: int  # index of the first file
    files: tuple[Path, ...]
    side: int
    size: int


def decode_centre_crops(
    files: Sequence[Path], side: int, size: int, batch_size: int = 64, workers: int | None = None
) -> Iterator[DecodedBatch]:
    """Yields all files in their order, `batch_size` at a time: the readable ones decoded, the others named.

    Args:
        side: side of the decoded squares, in pixels.
        size: side of their centre crops, in pixels.
        workers: processes; one for each core by default.

    Raises:
        UserError: a worker was killed.
    """
    starts = range(0, len(files), batch_size)
    tasks = [_Task(first, tuple(files[first : first + batch_size]), side, size) for first in starts]
    return map_in_processes(_decode_batch, tasks, workers or available_cores(), PREFETCH)


def _decode_batch(task: _Task) -> DecodedBatch:
    centre = centre_slice(task.side, task.size)
    images, indices, bad = [], [], []
    for index, file in enumerate(task.files, task.first):
        try:
            images.append(decode_file(file, task.side)[centre, centre])
        except UnreadableImage as error:
            bad.append((index, error.reason))
        else:
            indices.append(index)
    stacked = np.stack(images) if images else np.empty((0, task.size, task.size, 3), np.uint8)
    return DecodedBatch(stacked, np.array(indices, np.int64), tuple(bad))
