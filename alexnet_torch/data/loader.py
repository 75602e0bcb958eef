"""Batches of a split, in an order that the seed and the epoch decide; and of any images, decoded ahead."""

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alexnet_torch.data.augment import Crops, centre_crops, centre_slice, random_crops
from alexnet_torch.data.cache import PreparedImages, Samples
from alexnet_torch.data.decode import UnreadableImage, decode_bytes, image_size
from alexnet_torch.data.image_map import ImageMap, load_native
from alexnet_torch.data.pca_noise import PCANoise
from alexnet_torch.data.sources.listing import file_reader
from alexnet_torch.data.sources.source import SourceSplit
from alexnet_torch.data.workers import available_cores, map_ahead, map_in_workers
from alexnet_torch.errors import UserError
from alexnet_torch.randomness import random_generator

MAP_THREADS = 2  # that read a map; more are of no use
PREFETCH = 2  # batches for each worker that are decoded ahead
MAP_PREFETCH = 3  # batches read ahead from a map
FEW_IMAGES = 1000  # are decoded by threads before worker processes start


@dataclass(frozen=True)
class Batch:
    """A batch of samples, or a slice of one."""

    images: Tensor  # (n, H, W, 3) uint8, cropped and mirrored
    labels: Tensor  # (n,) int64; or (N,), of the full batch, from a loader with `all_labels`
    crops: Crops  # the mean image is cropped in the same way
    indices: np.ndarray  # (n,) positions of the samples in the split
    first_row: int  # position of the slice in the full batch
    batch_rows: int  # N, the number of rows of the full batch
    pca_noise: Tensor | None = None  # (n, 3) float32, to add to each image's RGB
    scale: float = 1.0  # factor of the images after that


@dataclass(frozen=True)
class Loader:
    """Batches of one split, epoch by epoch.

    The order, crops and noise of training batches are functions of (seed, epoch, sample); validation batches have the
    split's order and the centre crop.
    """

    prepared: PreparedImages
    split: str  # "train" or "val"
    image_size: int  # side of the crops, in pixels
    batch_size: int  # the last batch of an epoch has the rest
    seed: int = 0
    mirror: bool = True  # whether training images are mirrored at random
    colour: PCANoise | None = None  # of training images
    workers: int | None = None  # processes that decode if there is no map, else threads; by default one a core
    pinned: bool = False  # whether images are in page-locked memory, for a GPU
    slices: tuple[int, int] = (0, 1)  # (index, count) of the slice of each batch to yield
    all_labels: bool = False  # whether batches have the labels of the full batch
    partners: tuple[int, int] = (0, 1)  # (index, count) among the processes that load the same slice
    # gathers the rows of all partners, each of which then reads only its part; None if all have a map
    merge: Callable[[Tensor], Tensor] | None = None

    @property
    def samples(self) -> Samples:
        return self.prepared.train if self.split == "train" else self.prepared.val

    @property
    def batches_per_epoch(self) -> int:
        """The last one may be smaller."""
        return -(-len(self.samples.labels) // self.batch_size)

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        """Yields the batches of an epoch (from 0), starting at any one.

        Raises UserError if a file was removed or damaged after the images were prepared.
        """
        n, side, noise, scale = len(self.samples.labels), self.prepared.side, None, 1.0
        if self.split == "train":
            order = random_generator(self.seed, "order", epoch).permutation(n)
            crops = random_crops(n, side, self.image_size, self.seed, epoch, self.mirror)
            if self.colour is not None and self.colour.is_active(epoch):
                noise = torch.from_numpy(self.colour.draw(n, self.prepared.covariance, self.seed, epoch))
                scale = self.colour.scale
        else:
            order, crops = np.arange(n), centre_crops(n, side, self.image_size)
        batches = np.split(order, range(self.batch_size, n, self.batch_size))[first_batch:]
        index, count = self.slices
        slices = [np.array_split(batch, count) for batch in batches]
        read = self._read([s[index] for s in slices], crops)
        for batch, rows, images in zip(batches, slices, bounded(read) if self.pinned else read, strict=True):
            indices, first_row = rows[index], sum(map(len, rows[:index]))
            labels = torch.from_numpy(self.samples.labels[batch if self.all_labels else indices])
            images = self.merge(images) if self.merge else images
            own = None if noise is None else noise[indices]
            yield Batch(images, labels, crops[indices], indices, first_row, len(batch), own, scale)

    def _read(self, slices: Sequence[np.ndarray], crops: Crops) -> Iterator[Tensor]:
        samples, workers = self.samples, self.workers or available_cores()
        if self.merge:
            index, count = self.partners
            slices = [np.array_split(rows, count)[index] for rows in slices]
        if samples.images is not None:
            return crops_from_map(samples, crops, self.image_size, slices, min(workers, MAP_THREADS), self.pinned)
        tasks = ((samples.split.take(rows), crops[rows], self.prepared.side, self.image_size) for rows in slices)
        return crops_from_files(tasks, max(1, min(workers, len(slices))), self.pinned)


def bounded(batches: Iterator[Tensor]) -> Iterator[Tensor]:
    """Yields batches; waits while the GPU is MAP_PREFETCH batches behind, each of which holds page-locked memory."""
    behind: deque[torch.cuda.Event] = deque()
    for batch in batches:
        yield batch
        behind.append(torch.cuda.current_stream().record_event())
        if len(behind) > MAP_PREFETCH:
            behind.popleft().synchronize()


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Copies a tensor to a device: to a GPU on a stream for copies, beside what the GPU still computes."""
    if device.type in ("cpu", "mps"):  # without streams
        return tensor.to(device, non_blocking=True)
    streams, beside = torch.get_device_module(device), _copy_stream(device)
    with streams.stream(beside):
        copy = tensor.to(device, non_blocking=True)
    computing = streams.current_stream(device)
    computing.wait_stream(beside)
    copy.record_stream(computing)  # its memory is the other stream's, which may use it again only afterwards
    return copy


@functools.cache
def _copy_stream(device: torch.device) -> Any:
    return torch.get_device_module(device).Stream(device)


def crops_from_map(
    samples: Samples, crops: Crops, size: int, batches: Sequence[np.ndarray], threads: int, pinned: bool
) -> Iterator[Tensor]:
    """Yields the crops of each batch of sample indices, (N, size, size, 3) uint8, read ahead."""
    assert samples.images is not None
    images: ImageMap = samples.images
    load_native()  # once: else each of the threads would compile it
    # in the thread that frees them, which gets their memory again; the first use of new pages takes twice the copy
    empty = (torch.empty((len(rows), size, size, 3), dtype=torch.uint8, pin_memory=pinned) for rows in batches)

    def read(task: tuple[int, Tensor]) -> Tensor:
        number, batch = task
        if number + threads < len(batches):
            ahead = batches[number + threads]
            images.read_ahead(samples.rows[ahead], crops[ahead], size)
        images.read(samples.rows[batches[number]], crops[batches[number]], batch.numpy())
        return batch

    return map_ahead(ThreadPoolExecutor(threads, "batches"), read, enumerate(empty), MAP_PREFETCH)


CropTask = tuple[SourceSplit, Crops, int, int]  # the samples, the side of their squares, the size of the crops


def crops_from_files(tasks: Iterable[CropTask], workers: int, pinned: bool) -> Iterator[Tensor]:
    """Yields the crops of each batch, (N, size, size, 3) uint8, decoded ahead by workers."""
    try:
        for batch in map_in_workers(decode_crops, tasks, workers, PREFETCH * workers):
            yield torch.from_numpy(batch).pin_memory() if pinned else torch.from_numpy(batch)
    except UnreadableImage as error:
        raise UserError(f"{error}; the file changed during the run: restore it, then continue with --resume") from error


def decode_crops(task: CropTask) -> np.ndarray:
    split, crops, side, size = task
    out = np.empty((len(split), size, size, 3), np.uint8)
    for i, (top, left, mirrored) in enumerate(zip(crops.top, crops.left, crops.mirrored, strict=True)):
        image = decode_bytes(split.read(i), side, split.reader.location(i))
        out[i] = image[top : top + size, left : left + size]
        if mirrored:  # by torch: NumPy copies a mirrored view byte by byte, in ten times the time
            out[i] = torch.from_numpy(out[i]).flip(1).numpy()
    return out


@dataclass(frozen=True)
class DecodedBatch:
    """Consecutive images, decoded."""

    indices: np.ndarray  # (n,) int64, of the readable ones among all images
    crops: tuple[np.ndarray, ...]  # for each of the squares, (n, size, size, 3) uint8
    bad: tuple[tuple[int, UnreadableImage], ...]  # (index, error) of each of the others


def decode_ahead(
    images: Sequence[Path] | SourceSplit,
    squares: Sequence[tuple[int, int]],
    batch_size: int = 64,
    workers: int | None = None,
    required_side: int | None = None,
) -> Iterator[DecodedBatch]:
    """Yields all images in their order, `batch_size` at a time: the centre crops of squares, (side, size) in pixels.

    A thousand images are decoded by threads, more by worker processes. Files must have `required_side`.
    """
    if isinstance(images, SourceSplit):
        split = images
    else:
        names = list(map(str, images))
        split = SourceSplit("val", names, np.zeros(len(names), np.int64), file_reader(Path(), names))
    samples = (split.take(np.array([i])) for i in range(len(split)))
    decode, count = partial(decode_sample, tuple(squares), required_side), workers or available_cores()
    in_flight, pool = PREFETCH * max(batch_size, count), ThreadPoolExecutor(count, "decoding")
    if len(split) > FEW_IMAGES and count > 1:
        decoded = map_in_workers(decode, samples, count, in_flight)
    else:
        decoded = map_ahead(pool, decode, samples, in_flight)
    try:
        for start in range(0, len(split), batch_size):
            batch = list(enumerate(islice(decoded, batch_size), start))
            good = [(index, each) for index, each in batch if isinstance(each, list)]
            bad = tuple((index, each) for index, each in batch if isinstance(each, UnreadableImage))
            crops = [
                np.array([each[k] for _, each in good], np.uint8).reshape(-1, size, size, 3)
                for k, (_, size) in enumerate(squares)
            ]
            yield DecodedBatch(np.array([index for index, _ in good], np.int64), tuple(crops), bad)
    finally:
        pool.shutdown(cancel_futures=True)  # and wait: a caller may stop early


def decode_sample(
    squares: Sequence[tuple[int, int]], required_side: int | None, sample: SourceSplit
) -> list[np.ndarray] | UnreadableImage:
    """Returns a sample's crop of each of the squares, or why it cannot be read."""
    try:
        content, name = sample.read(0), sample.reader.location(0)
        found = image_size(content) if required_side else None  # None: decoding says why
        if found and found != (required_side, required_side):
            raise UnreadableImage(name, f"has {found[0]}x{found[1]} pixels, not {required_side}x{required_side}")
        centres = [(side, centre_slice(side, size)) for side, size in squares]
        return [decode_bytes(content, side, name)[centre, centre] for side, centre in centres]
    except UnreadableImage as error:
        return error
