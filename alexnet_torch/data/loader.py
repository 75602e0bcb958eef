"""Batches of a split, in an order that the seed and the epoch decide."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from alexnet_torch.data.augment import Crops, centre_crops, random_crops
from alexnet_torch.data.colour import ColourNoise
from alexnet_torch.data.crop_reader import MAP_THREADS, FileCrops, crops_from_files, crops_from_map
from alexnet_torch.data.prepared_images import PreparedImages, Samples
from alexnet_torch.data.worker_processes import available_cores
from alexnet_torch.randomness import random_generator


@dataclass(frozen=True)
class Batch:
    """A batch of samples, or a slice of one."""

    images: Tensor  # (n, H, W, 3) uint8, cropped and mirrored
    labels: Tensor  # (n,) int64; or (N,), of the full batch, from a loader with `all_labels`
    crops: Crops  # position and mirroring of each crop; the mean image is cropped in the same way
    indices: np.ndarray  # (n,) positions of the samples in the split
    first_row: int  # position of the slice in the full batch
    batch_rows: int  # N, the number of rows of the full batch
    colour_noise: Tensor | None = None  # (n, 3) float32, to add to each image's RGB
    scale: float = 1.0  # factor of the images after that


@dataclass(frozen=True)
class Loader:
    """Batches of one split, epoch by epoch.

    The order, crops and colour noise of training batches are functions of (seed, epoch, sample);
    validation batches have the split's order and the centre crop.
    """

    prepared: PreparedImages
    split: str  # "train" or "val"
    image_size: int  # side of the crops, in pixels
    batch_size: int  # samples in a batch; the last batch of an epoch has the rest
    seed: int = 0
    mirror: bool = True  # whether training images are mirrored at random
    colour: ColourNoise | None = None  # of training images
    # processes that decode if there is no memory map, else threads; one for each core by default
    workers: int | None = None
    pinned: bool = False  # whether images are in page-locked memory: a GPU copies from it without stopping the CPU
    # (index, count) of the slice of each batch to yield: the first slices have one image more if a batch is not
    # divisible, and some are empty if it has fewer images
    slices: tuple[int, int] = (0, 1)
    all_labels: bool = False  # whether batches have the labels of the full batch, not only of the slice
    partners: tuple[int, int] = (0, 1)  # (index, count) of this process among those that load the same slice
    # gathers the rows of all partners on each, in their order; each then reads only its part of the slice.
    # None if all have a memory map: reading that is faster than sending
    merge: Callable[[Tensor], Tensor] | None = None

    @property
    def samples(self) -> Samples:
        """The images of the split."""
        return self.prepared.train if self.split == "train" else self.prepared.val

    @property
    def batches_per_epoch(self) -> int:
        """The number of batches, including the last one, which may be smaller."""
        return -(-len(self.samples.labels) // self.batch_size)

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        """Yields the batches of an epoch (from 0), starting at any one: skipped batches cost nothing.

        Raises a UserError if a file was removed or damaged after the images were prepared.
        """
        n, side, noise = len(self.samples.labels), self.prepared.side, None
        if self.split == "train":
            order = random_generator(self.seed, "order", epoch).permutation(n)
            crops = random_crops(n, side, self.image_size, self.seed, epoch, self.mirror)
            if self.colour is not None and self.colour.is_active(epoch):
                noise = self.colour.draw(n, self.prepared.covariance, self.seed, epoch)
        else:
            order, crops = np.arange(n), centre_crops(n, side, self.image_size)
        starts = range(first_batch * self.batch_size, n, self.batch_size)
        batches = [order[start : start + self.batch_size] for start in starts]
        if not batches:
            return iter(())
        return self._assemble(batches, self._read_crops(batches, crops), crops, noise)

    def _read_crops(self, batches: Sequence[np.ndarray], crops: Crops) -> Iterator[Tensor]:
        """Yields what this process reads of each batch: its slice, or a part of it if partners read the rest."""
        own = [_part(batch, self.slices) for batch in batches]
        if self.merge:
            own = [_part(rows, self.partners) for rows in own]
        if self.samples.images is not None:
            threads = min(self.workers or available_cores(), MAP_THREADS)
            return crops_from_map(self.samples, crops, self.image_size, own, threads, self.pinned)
        dataset = FileCrops(self.prepared, self.samples, crops, self.image_size)
        return crops_from_files(dataset, own, self.workers or available_cores(), self.pinned)

    def _assemble(
        self, batches: Sequence[np.ndarray], images: Iterator[Tensor], crops: Crops, noise: np.ndarray | None
    ) -> Iterator[Batch]:
        index, count = self.slices
        for batch, own_images in zip(batches, images, strict=True):
            slices = np.array_split(batch, count)
            indices, first_row = slices[index], sum(map(len, slices[:index]))
            labels = torch.from_numpy(self.samples.labels[batch if self.all_labels else indices])
            slice_images = self.merge(own_images) if self.merge else own_images
            result = Batch(slice_images, labels, crops[indices], indices, first_row, len(batch))
            if self.colour is not None and noise is not None:
                result = replace(result, colour_noise=torch.from_numpy(noise[indices]), scale=self.colour.scale)
            yield result


def _part(rows: np.ndarray, part: tuple[int, int]) -> np.ndarray:
    """Returns part (index, count) of the rows."""
    index, count = part
    return np.array_split(rows, count)[index]
