"""A prepared map as a data set of its own: the folder that the command prepare makes, without the original images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_torch.data import decode
from alexnet_torch.data.image_map import checksum
from alexnet_torch.data.integrity import CHECKSUM_BYTES, checksums_name, damage
from alexnet_torch.data.manifest import FORMAT, MANIFEST, SAMPLES, read_manifest
from alexnet_torch.data.sources.archives import list_files
from alexnet_torch.data.sources.classes import SourceClass
from alexnet_torch.data.sources.source import ArchiveReader, Source, SourceSplit, SplitName
from alexnet_torch.errors import UserError
from alexnet_torch.files import reading

SPLITS: tuple[SplitName, ...] = ("train", "val")


@dataclass(frozen=True)
class MapReader(ArchiveReader):
    """Reads decoded squares as image files without compression. Places are (0, row of the map)."""

    side: int  # in pixels; the map is (samples, side, side, 3) uint8

    def read(self, index: int) -> bytes:
        """As for every reader."""
        size, row, path = self.side * self.side * 3, int(self.places[index, 1]), self.files[0]
        square = np.fromfile(path, np.uint8, size, offset=row * size)
        if len(square) != size:
            raise OSError("the map is truncated")
        sums = np.fromfile(path.with_name(checksums_name(path.stem)), "<u8", 1, offset=row * CHECKSUM_BYTES)
        if checksum(square.reshape(self.side, self.side, 3)) != sums[0]:
            raise OSError("the map is damaged: the checksum of the image is wrong")
        return b"P6 %d %d 255\n" % (self.side, self.side) + square.tobytes()


def is_prepared_map(root: Path) -> bool:
    """Returns whether a folder has the manifest of a prepared map, with samples of its own."""
    return (root / MANIFEST).is_file() and (root / SAMPLES).is_file()


def open_prepared_map(root: Path) -> Source:
    """Lists the samples of a prepared map."""
    with reading(f"--data {root}", "copy the folder again"):
        manifest = read_manifest(root)
        if (manifest["format"], manifest["decode"]) != (FORMAT, decode.VERSION):
            raise UserError(
                f"--data {root}: was prepared by another version of this package; prepare it again from the images"
            )
        if found := damage(root, manifest):
            raise ValueError(found)
        splits = _splits(root, manifest)
        return Source(
            f"prepared map of {manifest['side']}x{manifest['side']} pixels, from {manifest['form']}",
            root,
            tuple(map(SourceClass, manifest["classes"], manifest["names"])),
            splits,
            list_files(root, [root / split.map_name for split in splits]),
            map_side=int(manifest["side"]),
        )


def _splits(root: Path, manifest: dict[str, Any]) -> tuple[SourceSplit, ...]:
    splits, side = [], int(manifest["side"])
    with np.load(root / SAMPLES) as samples:
        for name in SPLITS:
            if f"{name}_labels" in samples:
                keys = samples[f"{name}_keys"].tobytes().decode("utf-8", "surrogateescape").split("\0")
                labels: np.ndarray = samples[f"{name}_labels"]
                places = np.stack([np.zeros(len(labels), np.int64), np.arange(len(labels))], axis=1)
                path = root / f"{name}.u8"
                if path.stat().st_size != len(labels) * side * side * 3:
                    raise ValueError(f"{path.name} has the wrong size")
                members = [f"image {row}" for row in range(len(labels))]
                splits.append(SourceSplit(name, keys, labels, MapReader((path,), members, places, side)))
    return tuple(splits)
