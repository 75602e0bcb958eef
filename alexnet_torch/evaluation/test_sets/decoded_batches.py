"""Reads a test set once for all networks: worker processes decode each image to every square that a network needs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import overload

import numpy as np
from PIL import Image

from alexnet_torch.data.decode import UnreadableImage, decode_bytes
from alexnet_torch.data.prepared_images import Samples
from alexnet_torch.data.sources.source import SourceSplit
from alexnet_torch.data.worker_processes import available_cores, map_in_processes
from alexnet_torch.evaluation.test_sets.stored_squares import read_squares

PREFETCH = 2  # batches for each worker that are decoded before they are consumed


@dataclass(frozen=True)
class DecodedBatch:
    """Consecutive samples of a split, decoded."""

    squares: dict[int, np.ndarray]  # by side: (n, side, side, 3) uint8, of the readable samples
    indices: np.ndarray  # (n,) int64, their positions in the split
    labels: np.ndarray  # (n,) int64
    keys: tuple[str, ...]  # (n) their names
    bad: tuple[tuple[int, str], ...]  # (index, message) of each unreadable sample


@dataclass(frozen=True)
class _Task:
    first: int  # index of the first sample
    samples: SourceSplit
    sides: tuple[int, ...]
    expected_side: int | None


class _Tasks(Sequence[_Task]):
    """The tasks of a split, each made when it is its turn: together they would hold each name a second time."""

    def __init__(self, split: SourceSplit, sides: tuple[int, ...], expected_side: int | None, batch_size: int) -> None:
        self._split, self._sides, self._expected_side, self._batch_size = split, sides, expected_side, batch_size

    def __len__(self) -> int:
        return -(-len(self._split) // self._batch_size)

    @overload
    def __getitem__(self, index: int) -> _Task: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[_Task]: ...
    def __getitem__(self, index: int | slice) -> _Task | Sequence[_Task]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        first = index * self._batch_size
        rows = np.arange(first, min(first + self._batch_size, len(self._split)))
        return _Task(first, self._split.take(rows), self._sides, self._expected_side)


def decoded_batches(
    split: SourceSplit,
    sides: Sequence[int],
    stored: Mapping[int, Samples],
    expected_side: int | None = None,
    batch_size: int = 64,
    workers: int | None = None,
) -> Iterator[DecodedBatch]:
    """Yields all samples in their order, `batch_size` at a time: the readable ones decoded, the others named.

    Args:
        split: of any source.
        sides: of the decoded squares, in pixels: each image is read once and decoded to each.
        stored: by side, the same samples decoded before; these are only read.
        expected_side: the height and width that every image must have; None: any.
        workers: processes; one for each core by default.

    Raises:
        UserError: a worker was killed, or what is stored is damaged.
    """
    missing = tuple(side for side in sides if side not in stored)
    if missing:
        tasks = _Tasks(split, missing, expected_side, batch_size)
        batches = map_in_processes(_decode_batch, tasks, workers or available_cores(), PREFETCH)
    else:
        starts = range(0, len(split), batch_size)
        batches = (_undecoded(split, np.arange(first, min(first + batch_size, len(split)))) for first in starts)
    for batch in batches:
        batch.squares.update({side: read_squares(samples, batch.indices) for side, samples in stored.items()})
        yield batch


def _undecoded(split: SourceSplit, indices: np.ndarray) -> DecodedBatch:
    return DecodedBatch({}, indices, split.labels[indices], tuple(split.keys.take(indices)), ())


def _decode_batch(task: _Task) -> DecodedBatch:
    split = task.samples
    squares: dict[int, list[np.ndarray]] = {side: [] for side in task.sides}
    good, bad = [], []
    for row in range(len(split)):
        try:
            content, name = split.read(row), split.reader.location(row)
            if task.expected_side is not None:
                _check_size(content, task.expected_side, name)
            decoded = [decode_bytes(content, side, name) for side in task.sides]
        except UnreadableImage as error:
            bad.append((task.first + row, str(error)))
            continue
        good.append(row)
        for side, square in zip(task.sides, decoded, strict=True):
            squares[side].append(square)
    rows = np.array(good, np.int64)
    return DecodedBatch(
        {side: np.stack(each) if each else np.empty((0, side, side, 3), np.uint8) for side, each in squares.items()},
        rows + task.first,
        split.labels[rows],
        tuple(split.keys[row] for row in good),
        tuple(bad),
    )


def image_size(content: bytes) -> tuple[int, int] | None:
    """Returns an image file's width and height without decoding it; None if it cannot be read."""
    try:
        with Image.open(BytesIO(content)) as image:
            return image.size
    except Exception:  # of a damaged file, Pillow's decoders raise almost any exception
        return None


def _check_size(content: bytes, side: int, name: str) -> None:
    size = image_size(content)
    if size not in (None, (side, side)):  # None: decoding says why
        raise UnreadableImage(name, f"has {size[0]}x{size[1]} pixels, not {side}x{side} as the others of the set")
