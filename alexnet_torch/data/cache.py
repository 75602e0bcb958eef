"""The decoded cache: where decoded images are, whether they are still right, and how they are opened.

A complete folder has the memory map of each split's images (train.u8, val.u8), samples.npz with all else, and
manifest.json for people. It may be a prepared map: a data set of its own.
"""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_torch.data import decode
from alexnet_torch.data.image_map import DAMAGED, ImageMap, checksum
from alexnet_torch.data.sources.archives import list_files
from alexnet_torch.data.sources.classes import SourceClass, some
from alexnet_torch.data.sources.source import Reader, Source, SourceSplit, SplitName
from alexnet_torch.errors import UserError
from alexnet_torch.files import cache_home, reading

FORMAT = 5
MANIFEST, SAMPLES = "manifest.json", "samples.npz"
logger = logging.getLogger(__name__)


class Stale(Exception):
    """A folder cannot be used; the message says why."""


@dataclass(frozen=True)
class Samples:
    """The readable images of one split."""

    images: ImageMap | None  # None: decoded when they are needed
    rows: np.ndarray  # (n,) int64, each sample's row in the map
    split: SourceSplit  # (n) the encoded images

    @property
    def labels(self) -> np.ndarray:
        return self.split.labels

    @property
    def keys(self) -> list[str]:
        return self.split.keys


@dataclass(frozen=True)
class PreparedImages:
    """A data set, ready to train on."""

    root: Path  # the folder or file that --data names
    classes: tuple[str, ...]  # identities: WordNet IDs or folder names
    names: tuple[str, ...]  # what people call the classes
    side: int  # of the decoded squares, in pixels
    mean: np.ndarray  # (side, side, 3) float32, 0..255, of the training images
    covariance: np.ndarray  # (3, 3) float64, of the training pixels' RGB
    train: Samples
    val: Samples
    skipped: tuple[str, ...]  # keys of unreadable samples
    notes: tuple[str, ...]  # lines about images that are rarely meant to be there
    fingerprint: str  # digest of side, classes, labels and the files' content in order


@dataclass(frozen=True)
class CacheFolder:
    """A folder of decoded images, or where one will be."""

    path: Path  # may not exist yet
    source: Source  # of the images
    side: int  # of the decoded squares, in pixels
    has_maps: bool = True  # or only statistics

    @property
    def partial(self) -> Path:
        """The folder that a build fills, and renames when it is complete."""
        return self.path.with_name(self.path.name + ".partial")

    @property
    def map_sizes(self) -> dict[str, int]:
        return {f"{split.name}.u8": len(split) * self.side**2 * 3 for split in self.source.splits if self.has_maps}

    def missing_bytes(self) -> int:
        """Returns the disk space that a build needs besides that of earlier ones."""
        files = [path for folder in (self.path, self.partial) for path in folder.glob("*.u8") if path.is_file()]
        return sum(self.map_sizes.values()) - sum(path.stat().st_blocks * 512 for path in files)

    def facts(self) -> dict[str, Any]:
        return {
            "version": [FORMAT, decode.VERSION],
            "side": self.side,
            "maps": self.has_maps,
            "division": self.source.variant,
            "listing": self.source.files.digest(),
            "classes": list(self.source.identities),
        }

    def load(self, skip_bad: bool) -> PreparedImages:
        source, is_cache = self.source, self.source.map_side is None
        try:
            if (self.path / DAMAGED).exists():
                raise ValueError((self.path / DAMAGED).read_text(errors="replace"))
            with np.load(self.path / SAMPLES) as arrays:
                manifest = json.loads(str(arrays["manifest"]))
                if is_cache and manifest["facts"] != self.facts():
                    raise Stale(self._difference(manifest["facts"], arrays))
                mean, covariance = arrays["mean"], arrays["covariance"]
                sums = {name: arrays[f"{name}_checksums"] for name in self.map_sizes}
                maps = {name: ImageMap(self.path / name, self.side, own, is_cache) for name, own in sums.items()}
        except Stale:
            raise
        except Exception as error:  # damaged files raise almost anything
            raise Stale(f"it is damaged ({error})") from error
        require_readable(source, manifest["unreadable"], skip_bad)
        samples, skipped = [], []
        for split in source.splits:
            bad = [row for name, row, _ in manifest["unreadable"] if name == split.name]
            rows = np.delete(np.arange(len(split)), bad)
            skipped += [split.keys[row] for row in bad]
            samples.append(Samples(maps.get(f"{split.name}.u8"), rows, split.take(rows) if bad else split))
        return PreparedImages(
            root=source.root,
            classes=source.identities,
            names=tuple(each.name for each in source.classes),
            side=self.side,
            mean=mean,
            covariance=covariance,
            train=samples[0],
            val=samples[1],
            skipped=tuple(skipped),
            notes=tuple(manifest["notes"]),
            fingerprint=manifest["fingerprint"],
        )

    def _difference(self, facts: dict[str, Any], arrays: Any) -> str:
        name = next(name for name, now in self.facts().items() if facts[name] != now)
        if name != "listing":
            return f"its {name} was another"
        files = self.source.files
        before = dict(zip(unpacked(arrays["paths"]), arrays["states"].tolist(), strict=True))
        after = dict(zip(files.paths, files.states.tolist(), strict=True))
        changed = sum(before[path] != after[path] for path in before.keys() & after.keys())
        added, removed = len(after.keys() - before.keys()), len(before.keys() - after.keys())
        return f"{added} files added, {removed} removed, {changed} changed since"


def packed(texts: list[str]) -> np.ndarray:  # (n,) uint8
    return np.frombuffer("\0".join(texts).encode("utf-8", "surrogateescape"), np.uint8)


def unpacked(content: np.ndarray) -> list[str]:
    return content.tobytes().decode("utf-8", "surrogateescape").split("\0")


def require_readable(source: Source, unreadable: Sequence[tuple[SplitName, int, str]], skip_bad: bool) -> None:
    if unreadable and not skip_bad:
        lines = [f"  {source.split(name).reader.location(row)}: {reason}" for name, row, reason in unreadable]
        fix = "mend them or move them elsewhere, or leave them out with --skip-bad"
        raise UserError("\n".join([f"--data {source.root}: {len(unreadable)} file(s) cannot be read; {fix}:", *lines]))


def cache_prefix(root: Path, cache: str) -> Path:
    home, root = cache_home() if cache in ("auto", "none") else Path(cache).expanduser(), root.resolve()
    return home / f"{re.sub(r'[^A-Za-z0-9._-]', '_', root.name)}-{hashlib.sha256(bytes(root)).hexdigest()[:8]}"


def _elsewhere(target: CacheFolder) -> CacheFolder:
    """Returns the folder of the same files at another path, if there is one; else names those that nothing uses."""
    unused, size = list[str](), 0
    for manifest in target.path.parent.glob(f"*/{MANIFEST}"):
        with suppress(OSError, ValueError, LookupError, TypeError):  # it is none of ours, or damaged
            told = json.loads(manifest.read_bytes())
            if told["facts"] == target.facts():
                logger.info(f"these files were decoded from {told['root']} into {manifest.parent}")
                return replace(target, path=manifest.parent)
            if not Path(told["root"]).exists():
                unused.append(manifest.parent.name)
                size += sum(path.stat().st_size for path in manifest.parent.glob("*.u8"))
    if unused:
        these = f"{some(unused)} ({size / 1e9:.2f} GB) may be deleted"
        logger.info(f"{target.path.parent}: {these}: the images are not where they were")
    return target


def locate_cache(source: Source, side: int, cache: str) -> CacheFolder:
    """Decides where decoded images go, or only their statistics; arguments as for `prepare`."""
    prefix = cache_prefix(source.root, cache)
    maps = CacheFolder(prefix.with_name(f"{prefix.name}{source.variant}-{side}"), source, side)
    if not maps.path.exists() and cache != "none":
        maps = _elsewhere(maps)
    missing, free = maps.missing_bytes(), free_bytes(prefix)
    space = f"{sum(maps.map_sizes.values()) / 1e9:.2f} GB, and {free / 1e9:.1f} GB are free at {prefix.parent}"
    if cache == "none" or (cache == "auto" and missing > free / 2):
        if cache == "auto":
            logger.info(f"decoded images would take {space}: each epoch decodes again, or name a --cache")
        return replace(maps, path=maps.path.with_name(f"{maps.path.name}-statistics"), has_maps=False)
    if missing > free:
        raise UserError(f"--cache: decoded images take {space}; make room, name another folder, or use --cache none")
    if missing > 0:
        logger.info(f"decoding once into {maps.path}: {space}")
    return maps


def free_bytes(path: Path) -> int:
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


@dataclass(frozen=True)
class MapReader(Reader):
    """Reads decoded squares as PPM files. Places are (0, row of the map)."""

    side: int  # in pixels

    def read(self, index: int) -> bytes:
        size, row, path = self.side * self.side * 3, int(self.places[index, 1]), self.files[0]
        square = np.fromfile(path, np.uint8, size, offset=row * size)
        with np.load(path.with_name(SAMPLES)) as arrays:  # few squares are read so, for figures
            expected = arrays[f"{path.name}_checksums"][row]
        if len(square) != size or checksum(square.reshape(self.side, self.side, 3)) != expected:
            raise OSError("the map is damaged: the checksum of the image is wrong")
        return b"P6 %d %d 255\n" % (self.side, self.side) + square.tobytes()


def open_prepared_map(root: Path) -> Source:
    with reading(f"--data {root}", "copy the folder again"), np.load(root / SAMPLES) as arrays:
        manifest = json.loads(str(arrays["manifest"]))
        facts, splits = manifest["facts"], []
        if facts["version"] != [FORMAT, decode.VERSION]:
            raise UserError(f"--data {root}: another version prepared it; prepare it again from the images")
        for name in manifest["images"]:
            labels, keys, path = arrays[f"{name}_labels"], unpacked(arrays[f"{name}_keys"]), root / f"{name}.u8"
            ImageMap(path, facts["side"], labels)  # has the right size
            places = np.stack([np.zeros(len(labels), np.int64), np.arange(len(labels))], axis=1)
            members = [f"image {row}" for row in range(len(labels))]
            splits.append(SourceSplit(name, keys, labels, MapReader((path,), members, places, facts["side"])))
        classes = tuple(map(SourceClass, facts["classes"], manifest["names"]))
        files = list_files(root, [root / f"{split.name}.u8" for split in splits])
    form = f"prepared map of {facts['side']}x{facts['side']} pixels, from {manifest['form']}"
    return Source(form, root, classes, tuple(splits), files, map_side=facts["side"])
