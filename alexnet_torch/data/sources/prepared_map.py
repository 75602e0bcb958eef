"""A prepared map as a data set of its own: the folder that the command prepare makes, without the original images."""

import os
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from alexnet_torch.data import decode
from alexnet_torch.data.image_map import checksum
from alexnet_torch.data.integrity import CHECKSUM_BYTES, checksums_name, damage
from alexnet_torch.data.manifest import FORMAT, MANIFEST, SAMPLES, read_manifest
from alexnet_torch.data.sources.names import Names
from alexnet_torch.data.sources.source import Reader, Source, SourceClass, SourceFiles, SourceSplit, SplitName
from alexnet_torch.errors import UserError

SPLITS: tuple[SplitName, ...] = ("train", "val")


@dataclass(frozen=True)
class MapReader(Reader):
    """Reads decoded squares as image files without compression, so that decoding them gives the same pixels."""

    path: Path  # of the map, (samples, side, side, 3) uint8
    rows: np.ndarray  # (n,) int64
    side: int

    def read(self, index: int) -> bytes:
        """Returns a square as a PPM file."""
        size = self.side * self.side * 3
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            content = os.pread(descriptor, size, int(self.rows[index]) * size)
        finally:
            os.close(descriptor)
        if len(content) != size:
            raise OSError("the map is truncated")
        self._check(index, content)
        return b"P6 %d %d 255\n" % (self.side, self.side) + content

    def _check(self, index: int, content: bytes) -> None:
        sums = self.path.with_name(checksums_name(self.path.stem))
        if sums.exists():  # not in maps of earlier versions
            expected = np.fromfile(sums, "<u8", 1, offset=int(self.rows[index]) * CHECKSUM_BYTES)
            square = np.frombuffer(content, np.uint8).reshape(self.side, self.side, 3)
            if checksum(square) != expected[0]:
                raise OSError("the map is damaged: the checksum of the image is wrong")

    def take(self, indices: np.ndarray) -> Self:
        """Returns a reader of some of the squares."""
        return replace(self, rows=self.rows[indices])

    def location(self, index: int) -> str:
        """Returns the map's path and the square's row."""
        return f"{self.path}, image {self.rows[index]}"


def is_prepared_map(root: Path) -> bool:
    """Returns whether a folder has the manifest of a prepared map, with samples of its own."""
    return (root / MANIFEST).is_file() and (root / SAMPLES).is_file()


def open_prepared_map(root: Path) -> Source:
    """Lists the samples of a prepared map.

    Raises:
        UserError: it is incomplete, damaged, or of another version of this package.
    """
    try:
        manifest = read_manifest(root)
        if (manifest["format"], manifest["decode"]) != (FORMAT, decode.VERSION):
            raise UserError(
                f"--data {root}: was prepared by another version of this package; prepare it again from the images"
            )
        if found := damage(root, manifest):
            raise ValueError(found)
        splits = _splits(root, manifest)
        classes = tuple(map(SourceClass, manifest["classes"], manifest["names"]))
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(
            f"--data {root}: its manifest or samples are damaged ({error}); copy the folder again"
        ) from error
    maps = [root / split.map_name for split in splits]
    status = [path.stat() for path in maps]
    files = SourceFiles(
        Names.of(path.name for path in maps),
        np.array([each.st_size for each in status], np.int64),
        np.array([each.st_mtime_ns for each in status], np.int64),
    )
    side = int(manifest["side"])
    form = f"prepared map of {side}x{side} pixels, from {manifest['form']}"
    return Source(form, root, classes, splits, files, map_side=side)


def _splits(root: Path, manifest: dict[str, Any]) -> tuple[SourceSplit, ...]:
    """Returns the splits; raises a UserError if a map is missing or has another size."""
    splits, side = [], int(manifest["side"])
    with np.load(root / SAMPLES) as samples:
        for name in SPLITS:
            if f"{name}_labels" not in samples:
                continue
            keys = Names(samples[f"{name}_keys"].tobytes(), samples[f"{name}_ends"])
            labels: np.ndarray = samples[f"{name}_labels"]
            path = root / f"{name}.u8"
            split = SourceSplit(name, keys, labels, MapReader(path, np.arange(len(labels)), side))
            expected, size = len(labels) * side * side * 3, path.stat().st_size if path.exists() else 0
            if size != expected:
                raise UserError(
                    f"--data {root}: {path.name} has {size:,} bytes, not {expected:,}; copy the folder again"
                )
            splits.append(split)
    return tuple(splits)
