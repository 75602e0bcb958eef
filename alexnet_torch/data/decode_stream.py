"""Files decoded ahead of need, in their order, by worker processes."""

import concurrent.futures as futures
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from alexnet_torch.data.decode import UnreadableImage, decode_file
from alexnet_torch.data.decode_pass import SERIAL_CHUNKS
from alexnet_torch.data.worker_processes import available_cores, context, live_with_parent
from alexnet_torch.errors import UserError

AHEAD = 2  # batches for each worker that are decoded before they are asked for


@dataclass(frozen=True)
class DecodedBatch:
    """Consecutive files, decoded.

    Attributes:
        images: (n, size, size, 3) uint8, of those that can be read.
        indices: (n,) int64, which files they are.
        bad: (index, reason) of each of the others.
    """

    images: np.ndarray
    indices: np.ndarray
    bad: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class _Task:
    first: int
    files: tuple[Path, ...]
    side: int
    size: int


def decode_centre_crops(
    files: Sequence[Path], side: int, size: int, batch_size: int = 64, workers: int | None = None
) -> Iterator[DecodedBatch]:
    """All files in their order, `batch_size` at a time, those that cannot be read among them.

    Args:
        files: of images.
        side: of the decoded squares, in pixels.
        size: of the centre crops that are taken of them.
        batch_size: files in a batch; the last one has what is left.
        workers: processes; all cores by default. A few batches are decoded sooner than workers start.

    Raises:
        UserError: a worker was killed.
    """
    starts = range(0, len(files), batch_size)
    tasks = (_Task(first, tuple(files[first : first + batch_size]), side, size) for first in starts)
    workers = min(workers or available_cores(), len(starts))
    if workers <= 1 or len(starts) <= SERIAL_CHUNKS:
        yield from map(_decode, tasks)
        return
    with futures.ProcessPoolExecutor(workers, context(__name__), initializer=live_with_parent) as pool:
        running = deque(pool.submit(_decode, task) for task in islice(tasks, AHEAD * workers))
        try:
            while running:
                batch = running.popleft().result()
                running.extend(pool.submit(_decode, task) for task in islice(tasks, 1))
                yield batch
        except BrokenProcessPool as error:
            raise UserError(
                "a decoding process was killed, for want of memory perhaps; run again "
                '(from a script of your own: under if __name__ == "__main__")'
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _decode(task: _Task) -> DecodedBatch:
    edge = (task.side - task.size) // 2  # as augment.centre_crops
    inner = slice(edge, edge + task.size)
    images, indices, bad = [], [], []
    for index, file in enumerate(task.files, task.first):
        try:
            images.append(decode_file(file, task.side)[inner, inner])
        except UnreadableImage as error:
            bad.append((index, error.reason))
        else:
            indices.append(index)
    stacked = np.stack(images) if images else np.empty((0, task.size, task.size, 3), np.uint8)
    return DecodedBatch(stacked, np.array(indices, np.int64), tuple(bad))
