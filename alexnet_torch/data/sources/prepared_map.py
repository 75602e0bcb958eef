"""A prepared map as a data set of its own: the folder that the command prepare makes, without the original images."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alexnet_torch.data import decode
from alexnet_torch.data.cache import FORMAT, MANIFEST, SAMPLES, unpacked
from alexnet_torch.data.image_map import ImageMap, checksum
from alexnet_torch.data.sources.archives import list_files
from alexnet_torch.data.sources.classes import SourceClass
from alexnet_torch.data.sources.source import ArchiveReader, Source, SourceSplit
from alexnet_torch.errors import UserError
from alexnet_torch.files import reading


@dataclass(frozen=True)
class MapReader(ArchiveReader):
    """Reads decoded squares as image files without compression. Places are (0, row of the map)."""

    side: int  # in pixels; the map is (samples, side, side, 3) uint8

    def read(self, index: int) -> bytes:
        size, row, path = self.side * self.side * 3, int(self.places[index, 1]), self.files[0]
        square = np.fromfile(path, np.uint8, size, offset=row * size)
        with np.load(path.with_name(SAMPLES)) as arrays:  # few squares are read so, for figures
            expected = arrays[f"{path.name}_checksums"][row]
        if len(square) != size or checksum(square.reshape(self.side, self.side, 3)) != expected:
            raise OSError("the map is damaged: the checksum of the image is wrong")
        return b"P6 %d %d 255\n" % (self.side, self.side) + square.tobytes()


def is_prepared_map(root: Path) -> bool:
    """Returns whether a folder has decoded images with samples of their own."""
    return (root / MANIFEST).is_file() and (root / SAMPLES).is_file()


def open_prepared_map(root: Path) -> Source:
    """Lists the samples of the folder that the command prepare makes, which needs no original images."""
    with reading(f"--data {root}", "copy the folder again"), np.load(root / SAMPLES) as arrays:
        manifest = json.loads(str(arrays["manifest"]))
        facts, splits = manifest["facts"], []
        if facts["version"] != [FORMAT, decode.VERSION]:
            raise UserError(
                f"--data {root}: was prepared by another version of this package; prepare it again from the images"
            )
        for name in manifest["images"]:
            labels, keys, path = arrays[f"{name}_labels"], unpacked(arrays[f"{name}_keys"]), root / f"{name}.u8"
            places = np.stack([np.zeros(len(labels), np.int64), np.arange(len(labels))], axis=1)
            members = [f"image {row}" for row in range(len(labels))]
            splits.append(SourceSplit(name, keys, labels, MapReader((path,), members, places, facts["side"])))
            ImageMap(path, facts["side"], labels)  # has the right size
        classes = tuple(map(SourceClass, facts["classes"], manifest["names"]))
        files = list_files(root, [root / f"{split.name}.u8" for split in splits])
    form = f"prepared map of {facts['side']}x{facts['side']} pixels, from {manifest['form']}"
    return Source(form, root, classes, tuple(splits), files, map_side=facts["side"])
