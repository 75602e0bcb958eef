"""Reads the crops of a split ahead of need: threads from the memory map, or worker processes from the files."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from alexnet_torch.data.augment import Crops, copy_crop
from alexnet_torch.data.decode import UnreadableImage, decode_bytes
from alexnet_torch.data.image_map import load_native
from alexnet_torch.data.prepared_images import PreparedImages, Samples
from alexnet_torch.data.worker_processes import map_ahead, map_in_workers
from alexnet_torch.data.worker_server import new_memory
from alexnet_torch.errors import UserError

PREFETCH = 3  # batches read before they are consumed
MAP_THREADS = 2  # that read a map: with the next batches requested ahead, more are of no use


def crops_from_map(
    samples: Samples, crops: Crops, size: int, batches: Sequence[np.ndarray], threads: int, pinned: bool
) -> Iterator[Tensor]:
    """Yields the crops of each batch of sample indices, (N, size, size, 3) uint8, read by threads.

    Raises:
        UserError: the map was damaged or truncated after it was made.
    """
    images = samples.images
    assert images is not None
    load_native()  # in this thread, once: else each of the others would compile it

    # lazily, so in the thread that uses the batches and frees them: it gets the freed memory again, and the others
    # would get new pages from the system, whose first use takes twice as long as the copy
    empty = (torch.empty((len(rows), size, size, 3), dtype=torch.uint8, pin_memory=pinned) for rows in batches)

    def read(task: tuple[int, Tensor]) -> Tensor:
        number, batch = task
        if number + threads < len(batches):  # the batches until then are being read
            ahead = batches[number + threads]
            images.read_ahead(samples.rows[ahead], crops[ahead], size)
        images.read(samples.rows[batches[number]], crops[batches[number]], batch.numpy())
        return batch

    return map_ahead(ThreadPoolExecutor(threads, "batches"), read, enumerate(empty), PREFETCH)


class FileCrops:
    """The crops of a split, decoded from the files a batch at a time."""

    def __init__(self, prepared: PreparedImages, samples: Samples, crops: Crops, size: int) -> None:
        self._side, self._split = prepared.side, samples.split
        self._crops, self._size = crops, size

    def read(self, indices: np.ndarray) -> np.ndarray | str:
        """Returns a batch, (N, H, W, 3) uint8; or an error message."""
        out = torch.empty((len(indices), self._size, self._size, 3), dtype=torch.uint8)
        for i, index in enumerate(indices.tolist()):
            try:
                image = decode_bytes(self._split.read(index), self._side, self._split.reader.location(index))
            except UnreadableImage as error:
                return str(error)
            top, left = int(self._crops.top[index]), int(self._crops.left[index])
            copy_crop(image, top, left, bool(self._crops.mirrored[index]), out[i])
        return out.numpy()


def crops_from_files(dataset: FileCrops, batches: Sequence[np.ndarray], workers: int, pinned: bool) -> Iterator[Tensor]:
    """Yields the crops of each batch, decoded by worker processes; raises a UserError if a file cannot be read."""
    workers = min(workers, len(batches))
    for batch in map_in_workers(dataset.read, batches, workers, 2 * workers, _pinned_memory if pinned else new_memory):
        if isinstance(batch, str):
            raise UserError(f"{batch}; the file changed during the run: restore it, then continue with --resume")
        yield torch.from_numpy(batch)


def _pinned_memory(size: int) -> np.ndarray:
    return torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy()
