"""The images of a prepared folder, as training and evaluation read them."""

import logging
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alexnet_torch.data.cache_location import CacheFolder
from alexnet_torch.data.fingerprint import Fingerprint
from alexnet_torch.data.image_map import ImageMap
from alexnet_torch.data.integrity import read_checksums
from alexnet_torch.data.manifest import COVARIANCE, MANIFEST, MEAN, read_manifest, recorded_fingerprint
from alexnet_torch.data.sources.source import Source, SourceSplit
from alexnet_torch.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Samples:
    """The readable images of one split."""

    images: ImageMap | None  # (rows, side, side, 3) uint8; None: decoded when they are needed
    rows: np.ndarray  # (n,) int64, each sample's row in the map
    split: SourceSplit  # (n) the encoded images

    @property
    def labels(self) -> np.ndarray:
        """The samples' classes, (n,) int64."""
        return self.split.labels

    @property
    def keys(self) -> list[str]:
        """The samples' keys, (n): their paths relative to a folder in ImageFolder's layout."""
        return self.split.keys


@dataclass(frozen=True)
class PreparedImages:
    """A data set, ready to train on."""

    root: Path  # the folder or file that --data names
    classes: tuple[str, ...]  # identities: WordNet IDs or folder names
    names: tuple[str, ...]  # what people call the classes
    side: int  # of the decoded squares, in pixels
    mean: np.ndarray  # (side, side, 3) float32, of the training images, 0..255
    covariance: np.ndarray  # (3, 3) float64, of the training pixels' RGB
    train: Samples
    val: Samples
    skipped: tuple[str, ...]  # keys of unreadable samples, which were left out
    fingerprint: Fingerprint  # of the classes and the readable samples


def load_prepared(cache: CacheFolder, skip_bad: bool) -> PreparedImages:
    """Opens a complete prepared folder; raises a UserError if samples were left out of it, without `skip_bad`."""
    source, unreadable = cache.source, [(key, reason) for key, reason in read_manifest(cache.path)["skipped"]]
    if unreadable and not skip_bad:
        raise UserError(unreadable_message(source, unreadable))
    if unreadable:
        logger.warning(f"{len(unreadable)} unreadable file(s) left out; {cache.path / MANIFEST} lists them")
    rows = readable_rows(source, {key for key, _ in unreadable})
    samples = []
    for split, readable in zip(source.splits, rows, strict=True):
        images = _open_map(cache, split)
        samples.append(Samples(images, readable, split.take(readable) if len(readable) < len(split) else split))
    return PreparedImages(
        source.root,
        source.identities,
        tuple(each.name for each in source.classes),
        cache.side,
        np.load(cache.path / MEAN),
        np.load(cache.path / COVARIANCE),
        samples[0],
        samples[1],
        tuple(key for key, _ in unreadable),
        recorded_fingerprint(cache, rows),
    )


def _open_map(cache: CacheFolder, split: SourceSplit) -> ImageMap | None:
    """Returns a split's map; None if the folder has only statistics."""
    path, checksums = cache.path / split.map_name, read_checksums(cache.path, split.name)
    if not path.exists():
        return None
    if checksums is None:
        logger.warning(
            f"{path}: has no checksums, so damage to it would not be noticed; to have them, prepare it again"
        )
    return ImageMap(path, len(split), cache.side, checksums, is_cache=cache.source.map_side is None)


def load_map(source: Source, side: int) -> PreparedImages:
    """Opens a source that is a prepared map itself; what was left out of it stays out.

    Raises:
        UserError: its squares have another side.
    """
    if source.map_side != side:
        raise UserError(
            f"--data {source.root}: has squares of {source.map_side} pixels, and {side} are needed; "
            "prepare the images again with the network's --image-size"
        )
    return load_prepared(CacheFolder(source.root, source, side, has_maps=True), skip_bad=True)


def readable_rows(source: Source, skipped: Set[str]) -> list[np.ndarray]:
    """Returns for each split the rows of the samples whose keys are not skipped, (n,) int64."""
    if not skipped:
        return [np.arange(len(split)) for split in source.splits]
    return [
        np.array([row for row, key in enumerate(split.keys) if key not in skipped], dtype=np.int64)
        for split in source.splits
    ]


def unreadable_message(source: Source, unreadable: list[tuple[str, str]]) -> str:
    """Returns the error message that lists unreadable samples, by (key, reason)."""
    reasons = dict(unreadable)
    lines = [
        f"  {split.reader.location(row)}: {reasons[key]}"
        for split in source.splits
        for row, key in enumerate(split.keys)
        if key in reasons
    ]
    fix = "mend them or move them elsewhere, or leave them out with --skip-bad"
    return "\n".join([f"--data {source.root}: {len(unreadable)} file(s) cannot be read; {fix}:", *lines])
