"""Test sets: images with known classes, how --data names them, and their batches, decoded once for all networks."""

import glob
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from alexnet_torch.data.cache import MANIFEST, CacheFolder, PreparedImages, Stale, cache_prefix
from alexnet_torch.data.cache_build import open_map
from alexnet_torch.data.loader import Loader, decode_ahead
from alexnet_torch.data.sources.recognise import open_source
from alexnet_torch.data.sources.source import Source, SourceSplit
from alexnet_torch.data.sources.val_split import ValSplit, with_validation
from alexnet_torch.errors import UserError
from alexnet_torch.evaluation.robustness import find_corruptions, list_corruptions
from alexnet_torch.evaluation.runs import recorded_split
from alexnet_torch.evaluation.scoring import ImageBatch
from alexnet_torch.weights.model_file import TrainedModel


@dataclass(frozen=True)
class TestSet:
    """The validation images of a source, perhaps in groups that are scored separately, as "snow/3"."""

    __test__ = False  # no class of tests, for pytest

    source: Source
    groups: tuple[str, ...] = ()
    group_of: np.ndarray | None = None  # (n,) int64, each image's group
    cropped_side: int | None = None  # side of the images in pixels, if they are centre crops already

    @property
    def split(self) -> SourceSplit:
        return self.source.split("val")

    def describe(self) -> str:
        source, counts = self.source, f"{len(self.source.classes):,} classes, {len(self.split):,} images"
        return f"--data {source.root}: {source.form}, {counts}{source.skipped}"


def held_out_part(runs: Sequence[Path], root: Path) -> ValSplit | None:
    """Returns the --val-split of the runs' images, if `root` has these."""
    part = recorded_split(runs[0], root)
    for other in runs[1:]:
        if recorded_split(other, root) != part:
            raise UserError(
                f"--data {root}: {runs[0]} and {other} were trained on different parts of it (--val-split, --seed): "
                "an image that tests one has trained the other; evaluate each alone"
            )
    return part


def find_test_set(root: Path, val_split: ValSplit | None = None) -> TestSet:
    """Lists the validation images of any source, those that `val_split` held out, or ImageNet-C."""
    if val_split:
        return TestSet(with_validation(open_source(root), val_split))
    if root.is_dir() and (corruptions := find_corruptions(root)):
        return TestSet(*list_corruptions(root, corruptions))
    return TestSet(open_source(root, test=True))


def image_batches(
    test_set: TestSet, models: Sequence[TrainedModel], cache: str, skip_bad: bool, skipped: list[str]
) -> Iterator[ImageBatch]:
    """Yields a set's images in every size that the models read; adds messages to `skipped`."""
    cropped, labels = test_set.cropped_side, test_set.split.labels
    sides = sorted({model.net.image_size if cropped else len(model.mean) for model in models})
    stored = None if cropped else stored_images(test_set, sides, cache)
    with closing(tqdm(total=len(labels), unit="image", disable=None, leave=False)) as bar:
        if stored is not None:
            for batches in zip(*(Loader(each, "val", each.side, 64).epoch(0) for each in stored), strict=True):
                images = {side: batch.images for side, batch in zip(sides, batches, strict=True)}
                yield ImageBatch(images, torch.from_numpy(labels[batches[0].indices]), batches[0].indices)
                bar.update(len(batches[0].indices))
            return
        for decoded in decode_ahead(test_set.split, [(side, side) for side in sides], required_side=cropped):
            skipped += [str(error) for _, error in decoded.bad]
            if skipped and not skip_bad:
                raise UserError(f"{skipped[0]}; mend it or move it elsewhere, or leave out such files with --skip-bad")
            if len(decoded.indices):
                images = {side: torch.from_numpy(crops) for side, crops in zip(sides, decoded.crops, strict=True)}
                yield ImageBatch(images, torch.from_numpy(labels[decoded.indices]), decoded.indices)
            bar.update(len(decoded.indices) + len(decoded.bad))
    if len(skipped) == len(labels):
        raise UserError(f"--skip-bad: no image of {test_set.source.root} can be read; the first: {skipped[0]}")


def stored_images(test_set: TestSet, sides: Sequence[int], cache: str) -> list[PreparedImages] | None:
    """Returns a set's decoded images of each side, if --cache has all of the files of today."""
    if test_set.source.map_side is not None:
        return [open_map(test_set.source, side) for side in sides]
    prefix, stored = cache_prefix(test_set.source.root, cache), []
    source = test_set.source if len(test_set.source.splits) > 1 else None
    for side in sides:
        # looked for without listing train/, which takes seconds for a million images
        if cache == "none" or not any(prefix.parent.glob(f"{glob.escape(prefix.name)}*-{side}/{MANIFEST}")):
            return None
        try:
            source = source or open_source(test_set.source.root)
            stored.append(CacheFolder(Path(f"{prefix}{source.variant}-{side}"), source, side).load(skip_bad=True))
        except (Stale, UserError):  # files have changed since; perhaps it is no data set for training any more
            return None
    return stored if all(each.val.keys == test_set.split.keys for each in stored) else None
