"""Batches: cut from the memory map by a thread ahead of need, or decoded by worker processes."""

import queue
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from alexnet_torch.data.augment import Crops, centre_crops, copy_crop, random_crops
from alexnet_torch.data.colour import ColourNoise
from alexnet_torch.data.decode import UnreadableImage, decode_file
from alexnet_torch.data.prepared_images import PreparedImages, Samples
from alexnet_torch.data.worker_processes import available_cores, context
from alexnet_torch.errors import UserError
from alexnet_torch.randomness import stream

Merge = Callable[[Tensor], Tensor]

AHEAD = 2  # batches assembled before they are asked for


@dataclass(frozen=True)
class Batch:
    """Some samples of a split: a batch, or a slice of one.

    Attributes:
        images: (n, H, W, 3) uint8, cut and mirrored.
        labels: (n,) int64; or (N,), of the whole batch, from a loader with `all_labels`.
        crops: how each was cut; the mean image is cut in the same way.
        indices: (n,) which samples they are.
        first_row: where they are in the whole batch.
        batch_rows: N, the rows of the whole batch.
        colour_noise: (n, 3) float32, colour noise to add to each image's RGB, if there is any.
        scale: what the images are then to be multiplied by.
    """

    images: Tensor
    labels: Tensor
    crops: Crops
    indices: np.ndarray
    first_row: int
    batch_rows: int
    colour_noise: Tensor | None = None
    scale: float = 1.0


@dataclass(frozen=True)
class _Plan:
    """An epoch: which samples make each batch, our slice of it, how each sample is cut, and its colour noise."""

    wholes: list[np.ndarray]
    batches: list[np.ndarray]
    crops: Crops
    size: int
    shifts: np.ndarray | None


class Loader:
    """Batches of one split, epoch by epoch.

    Training batches come in an order, with crops and with colour noise that are functions of
    (seed, epoch, sample); validation batches in the split's order with the centre crop.

    Args:
        prepared: the images.
        split: "train" or "val".
        image_size: of the crops, in pixels.
        batch_size: samples in a batch; the last one of an epoch has what is left.
        seed: of the run.
        mirror: whether training images are mirrored at random.
        colour: noise of training images.
        workers: processes that decode where there is no map; by default this process's part of the cores.
        pinned: images in page-locked memory, from which a GPU copies while the CPU goes on.
        slices: which slice of each batch to yield, and of how many: the first ones are larger by one image
            where a batch does not divide, and some are empty where it has fewer.
        all_labels: whether batches have the labels of all rows, not only of the slice.
        partners: which of the processes that share this slice this is, and how many they are.
        merge: gives all partners the rows of each, in their order; each then makes its part of the slice alone. None
            where all have a map: that is sooner read than sent.
    """

    def __init__(
        self,
        prepared: PreparedImages,
        split: str,
        image_size: int,
        batch_size: int,
        seed: int = 0,
        mirror: bool = True,
        colour: ColourNoise | None = None,
        workers: int | None = None,
        pinned: bool = False,
        slices: tuple[int, int] = (0, 1),
        all_labels: bool = False,
        partners: tuple[int, int] = (0, 1),
        merge: Merge | None = None,
    ) -> None:
        self._slices, self._all_labels, self._partners, self._merge = slices, all_labels, partners, merge
        self._prepared, self._train = prepared, split == "train"
        self._samples: Samples = prepared.train if self._train else prepared.val
        self._size, self._batch_size, self._seed, self._mirror = image_size, batch_size, seed, mirror
        self._colour, self._workers, self._pinned = colour, workers or available_cores(), pinned
        self.batches_per_epoch = -(-len(self._samples.labels) // batch_size)

    def __len__(self) -> int:
        return self.batches_per_epoch

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        """The batches of an epoch (from 0), from any one on: those skipped cost nothing.

        Raises:
            UserError: a file has vanished or broken since it was first read.
        """
        n, side, shifts = len(self._samples.labels), self._prepared.side, None
        if self._train:
            order = stream(self._seed, "order", epoch).permutation(n)
            crops = random_crops(n, side, self._size, self._seed, epoch, self._mirror)
            if self._colour is not None and self._colour.is_active(epoch):
                shifts = self._colour.shifts(n, self._prepared.covariance, self._seed, epoch)
        else:
            order, crops = np.arange(n), centre_crops(n, side, self._size)
        starts = range(first_batch * self._batch_size, n, self._batch_size)
        wholes = [order[i : i + self._batch_size] for i in starts]
        index, count = self._slices
        batches = [np.array_split(whole, count)[index] for whole in wholes]
        plan = _Plan(wholes, batches, crops, self._size, shifts)
        if not wholes:
            return iter(())
        images = self._streamed(plan) if self._samples.images is None else _ahead(self._cut(plan))
        return self._labelled(plan, images)

    def _labelled(self, plan: _Plan, images: Iterator[Tensor]) -> Iterator[Batch]:
        index, count = self._slices
        for whole, indices, part in zip(plan.wholes, plan.batches, images, strict=True):
            batch = self._merge(part) if self._merge else part
            labels = torch.from_numpy(self._samples.labels[whole if self._all_labels else indices])
            first_row = sum(len(part) for part in np.array_split(whole, count)[:index])
            ours = Batch(batch, labels, plan.crops[indices], indices, first_row, len(whole))
            if self._colour is not None and plan.shifts is not None:
                ours = replace(ours, colour_noise=torch.from_numpy(plan.shifts[indices]), scale=self._colour.scale)
            yield ours

    def _ours(self, plan: _Plan) -> list[np.ndarray]:
        """Of each batch, what this process cuts or decodes."""
        index, count = self._partners if self._merge else (0, 1)
        return [np.array_split(batch, count)[index] for batch in plan.batches]

    def _cut(self, plan: _Plan) -> Iterator[Tensor]:
        """Each batch's crops (N, H, W, 3), from the map."""
        assert self._samples.images is not None
        images = np.asarray(self._samples.images)  # a memmap is slower to index
        for indices in self._ours(plan):
            shape = (len(indices), plan.size, plan.size, 3)
            batch = torch.empty(shape, dtype=torch.uint8, pin_memory=self._pinned)
            crops = plan.crops[indices]
            places = zip(batch, self._samples.rows[indices], crops.top, crops.left, crops.mirrored, strict=True)
            for out, row, top, left, mirrored in places:
                copy_crop(images[row], top, left, mirrored, out)
            yield batch

    def _streamed(self, plan: _Plan) -> Iterator[Tensor]:
        ours = self._ours(plan)
        files = _Files(self._prepared.root, self._samples.paths, self._prepared.side, plan)
        loader = DataLoader(
            files,
            batch_sampler=[batch.tolist() for batch in ours],
            num_workers=min(self._workers, len(ours)),
            collate_fn=_as_it_is,
            pin_memory=self._pinned,
            worker_init_fn=_start_worker,
            multiprocessing_context=context(__name__),
        )
        for batch in loader:
            if isinstance(batch, str):
                raise UserError(f"{batch}; the files changed during the run: restore it, then --resume")
            yield batch


def _ahead(batches: Iterator[Tensor]) -> Iterator[Tensor]:
    """The same batches, made by a thread while the last ones are in use."""
    ready: queue.Queue[Tensor | BaseException | None] = queue.Queue(AHEAD)
    closed = threading.Event()

    def put(item: Tensor | BaseException | None) -> None:
        while not closed.is_set():
            try:
                ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def fill() -> None:
        try:
            for batch in batches:
                put(batch)
                if closed.is_set():
                    return
            put(None)
        except BaseException as error:  # for the consumer to raise
            put(error)

    threading.Thread(target=fill, daemon=True, name="batches").start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        closed.set()


class _Files(Dataset[Tensor]):
    """An epoch's crops, decoded as they are asked for, a batch at a time."""

    def __init__(self, root: Path, paths: tuple[str, ...], side: int, plan: _Plan) -> None:
        self._root, self._side, self._size = root, side, plan.size
        self._paths, self._crops = paths, plan.crops

    def __getitems__(self, indices: list[int]) -> Tensor | str:
        """(N, H, W, 3) uint8; or what is wrong with a file, which an exception would bury in a traceback."""
        out = torch.empty((len(indices), self._size, self._size, 3), dtype=torch.uint8)
        for i, index in enumerate(indices):
            try:
                image = decode_file(self._root / self._paths[index], self._side)
            except UnreadableImage as error:
                return str(error)
            top, left = int(self._crops.top[index]), int(self._crops.left[index])
            copy_crop(image, top, left, bool(self._crops.mirrored[index]), out[i])
        return out


def _start_worker(index: int) -> None:
    """Leaves Ctrl-C to the parent, which finishes its step first; and SIGTERM, which torchrun sends to all."""
    del index
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _as_it_is(batch: Any) -> Any:
    return batch
