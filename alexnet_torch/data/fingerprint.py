"""Tells whether two data sets are the same: by the bytes of their images, or by their files' names and sizes."""

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from alexnet_torch.data.sources.classes import normal
from alexnet_torch.data.sources.source import Source, SourceSplit

DIGEST_BYTES = 16
"""Bytes kept of the SHA-256 of each image file: two of a million differ by chance in 1 - 1e-27 of all cases."""


@dataclass(frozen=True)
class Fingerprint:
    """Digests of a data set as it is prepared: classes in order, readable samples in order, side of the squares."""

    content: str | None  # of the image files' bytes and labels; None in a prepared folder made before it was computed
    files: str | None  # of the names and sizes of files; None for other forms than image files in class folders

    @classmethod
    def of(cls, saved: str | dict[str, Any]) -> "Fingerprint":
        """Returns a fingerprint that `saved` described; a checkpoint made before has the files' digest alone."""
        return cls(None, saved) if isinstance(saved, str) else cls(**saved)

    def saved(self) -> dict[str, Any]:
        """Returns plain values, for a file."""
        return asdict(self)

    def same_as(self, other: "Fingerprint") -> bool:
        """Returns whether two data sets are the same: by content if both have it."""
        if self.content and other.content:
            return self.content == other.content
        return self.files is not None and self.files == other.files


def content_fingerprint(side: int, source: Source, digests: list[np.ndarray], rows: list[np.ndarray]) -> str:
    """Returns a digest that is equal for the same images, classes and order, whatever form or names they have.

    Args:
        side: of the decoded squares, in pixels.
        source: the data set.
        digests: for each split, the digest of each sample, (samples, DIGEST_BYTES) uint8.
        rows: for each split, the samples that are readable.
    """
    digest = hashlib.sha256(repr((side, [normal(name) for name in source.identities])).encode("utf-8", "surrogatepass"))
    for split, of_split, readable in zip(source.splits, digests, rows, strict=True):
        digest.update(f"{split.name} {len(readable)}".encode())
        digest.update(split.labels[readable].astype("<i8").tobytes())
        digest.update(of_split[readable].tobytes())
    return digest.hexdigest()


def files_fingerprint(side: int, source: Source, rows: list[np.ndarray]) -> str | None:
    """Returns a digest of the classes, and of the keys and sizes of the readable files: what older runs recorded.

    None if the samples are not files at the paths of their keys, which older runs could not read.
    """
    if source.files.paths != [key for split in source.splits for key in split.keys]:
        return None
    digest, first = hashlib.sha256(f"{side} {source.identities}".encode("utf-8", "surrogateescape")), 0
    for split, readable in zip(source.splits, rows, strict=True):
        sizes = source.files.sizes[first + readable]
        for size, key in zip(sizes.tolist(), _readable_keys(split, readable), strict=True):
            digest.update(f"{size} {key}\n".encode("utf-8", "surrogateescape"))
        first += len(split)
    return digest.hexdigest()


def _readable_keys(split: SourceSplit, readable: np.ndarray) -> list[str]:
    return split.keys if len(readable) == len(split) else [split.keys[i] for i in readable.tolist()]
