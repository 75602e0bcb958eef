"""Chooses validation images among training images, by the seed and the images' content."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from alexnet_torch.data.decode import UnreadableImage
from alexnet_torch.data.sources.archives import remembered
from alexnet_torch.data.sources.source import Source, SourceSplit
from alexnet_torch.errors import UserError

DIGEST_BYTES = 16  # of an image file's SHA-256: a chance of 1e-27 that two of a million are equal
READ_TOGETHER = 256  # files that a thread reads at a time
SMALL = 1000  # files are read in a moment


class ValSplit(NamedTuple):
    """How validation images are chosen."""

    fraction: float  # of each class's images, in (0, 1)
    seed: int


def with_validation(source: Source, val_split: ValSplit | None) -> Source:
    """Returns a source that has training and validation images: its own, or some of the training images."""
    names, named = [split.name for split in source.splits], f"--data {source.root}"
    if "train" not in names:
        raise UserError(f"{named}: {source.form}: has no training images; name a set that has")
    if len(source.classes) < 2:
        raise UserError(f"{named}: has only one class, {source.identities[0]}; add another")
    if "val" in names:
        if val_split:
            raise UserError(f"--val-split: {source.root} has validation images of its own; leave the option out")
        return source
    if val_split is None:
        fix = source.without_val or "has no validation images; let --val-split 0.1 choose some of the training images"
        raise UserError(f"{named}: {fix}")
    key = f"{source.root.resolve()} {source.files.digest()}"
    digests = remembered("digests", key, lambda: digest_files(source.splits[0]), lambda made: len(made) >= SMALL)
    return divide(source, val_split, digests)


def divide(source: Source, val_split: ValSplit, digests: np.ndarray) -> Source:
    """Chooses validation images by the seed and the files' digests (n, DIGEST_BYTES) uint8.

    Identical files are on one side; those in several classes are on the training side.
    """
    pool = source.splits[0]
    chosen = np.zeros(len(pool), bool)
    content = contents_of(digests)
    shared = differ(content, pool.labels)
    seed = f"{val_split.seed}".encode()
    ranks = np.frombuffer(b"".join(hashlib.sha256(seed + each.tobytes()).digest()[:8] for each in digests), "<u8")
    for rows in np.split(np.arange(len(pool)), np.flatnonzero(np.diff(pool.labels)) + 1):
        free = rows[~shared[rows]]
        order = free[np.argsort(ranks[free], kind="stable")]
        groups = np.split(order, np.flatnonzero(np.diff(content[order])) + 1) if len(order) else []
        others = len(free) < len(rows)  # the training side has some in any case
        if len(groups) + others < 2:
            name = source.identities[pool.labels[rows[0]]]
            raise UserError(f"--val-split: class {name} of {source.root} has fewer than two different images; add some")
        wanted, taken = max(1, round(val_split.fraction * len(rows))), 0
        for group in groups if others else groups[:-1]:
            if taken and taken + len(group) > wanted:
                break
            chosen[group] = True
            taken += len(group)
    train, val = pool.take(np.flatnonzero(~chosen)), pool.take(np.flatnonzero(chosen))
    val = replace(val, name="val", keys=[f"val/{key.partition('/')[2]}" for key in val.keys])
    form = f"{source.form}, divided by --val-split {val_split.fraction:g}"
    return replace(source, form=form, splits=(train, val), variant=f"-val{val_split.fraction:g}-seed{val_split.seed}")


def contents_of(digests: np.ndarray) -> np.ndarray:
    """Returns a number for each digest, (n, DIGEST_BYTES) uint8, equal for identical files, (n,) int64."""
    return np.unique(digests, axis=0, return_inverse=True)[1].reshape(-1)


def differ(content: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns whether files of equal content have different values, (n,) bool."""
    one = np.zeros(len(content), values.dtype)  # of the values of a content
    one[content] = values
    return np.isin(content, content[one[content] != values])


def digest_files(split: SourceSplit) -> np.ndarray:
    """Returns digests (n, DIGEST_BYTES) uint8 of the samples' files; of keys if they cannot be read."""
    digests = np.zeros((len(split), DIGEST_BYTES), np.uint8)

    def read(first: int) -> int:
        part = split.take(np.arange(first, min(first + READ_TOGETHER, len(split))))
        for row in range(len(part)):
            try:
                content = part.read(row)
            except UnreadableImage:  # the decoding pass reports it
                content = part.keys[row].encode("utf-8", "surrogateescape")
            digests[first + row] = np.frombuffer(hashlib.sha256(content).digest()[:DIGEST_BYTES], np.uint8)
        return len(part)

    with (
        ThreadPoolExecutor(os.cpu_count() or 1, "digests") as pool,
        tqdm(total=len(split), unit="file", desc="reading", disable=None, leave=False) as bar,
    ):
        for count in pool.map(read, range(0, len(split), READ_TOGETHER)):
            bar.update(count)
    return digests
