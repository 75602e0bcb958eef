"""The decoded cache: where a data set's decoded images are, whether they are still right, and how they are opened.

A complete folder has the memory map of each split's images (train.u8, val.u8), samples.npz with all else, among it the
checksums of the images, and manifest.json, which tells people what was decoded from what.
"""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_torch.data import decode
from alexnet_torch.data.image_map import DAMAGED, ImageMap
from alexnet_torch.data.sources.source import Source, SourceSplit, SplitName
from alexnet_torch.errors import UserError
from alexnet_torch.files import cache_home

FORMAT = 4
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
        """The classes, (n,) int64."""
        return self.split.labels

    @property
    def keys(self) -> list[str]:
        """The samples' paths in ImageFolder's layout, (n)."""
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
    fingerprint: str  # digest of side, classes, labels and the files' content, in their order; of no names


@dataclass(frozen=True)
class CacheFolder:
    """A folder of decoded images, and what it must contain."""

    path: Path  # may not exist yet
    source: Source  # of the images
    side: int  # of the decoded squares, in pixels
    has_maps: bool = True  # whether it contains the decoded images, or only their statistics

    @property
    def partial(self) -> Path:
        """The folder beside it that a build fills, and renames when it is complete."""
        return self.path.with_name(self.path.name + ".partial")

    @property
    def map_sizes(self) -> dict[str, int]:
        """The bytes of each memory map, by its name."""
        return {f"{split.name}.u8": len(split) * self.side**2 * 3 for split in self.source.splits if self.has_maps}

    def missing_bytes(self) -> int:
        """Returns the disk space that a build needs besides that of an earlier or interrupted one."""
        files = [path for folder in (self.path, self.partial) for path in folder.glob("*.u8") if path.is_file()]
        return sum(self.map_sizes.values()) - sum(path.stat().st_blocks * 512 for path in files)

    def facts(self) -> dict[str, Any]:
        """Returns what decides the content of the folder."""
        return {
            "version": [FORMAT, decode.VERSION],
            "side": self.side,
            "maps": self.has_maps,
            "variant": self.source.variant,
            "listing": self.source.files.digest(),
            "classes": list(self.source.identities),
        }

    def load(self, skip_bad: bool) -> PreparedImages:
        """Opens a complete folder; raises Stale if it is incomplete, damaged or of other images."""
        source, is_cache = self.source, self.source.map_side is None
        try:
            if (self.path / DAMAGED).exists():
                raise Stale(f"it is damaged ({(self.path / DAMAGED).read_text(errors='replace')})")
            with np.load(self.path / SAMPLES) as arrays:
                manifest = json.loads(str(arrays["manifest"]))
                if is_cache:
                    self._require_same(manifest["facts"], arrays)
                mean, covariance = arrays["mean"], arrays["covariance"]
                maps = {
                    name: ImageMap(self.path / name, self.side, arrays[f"{name}_checksums"], is_cache)
                    for name in self.map_sizes
                }
        except Stale:
            raise
        except Exception as error:  # of damaged files, NumPy, zipfile and json raise almost anything
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
            fingerprint=manifest["fingerprint"],
        )

    def _require_same(self, facts: dict[str, Any], arrays: Any) -> None:
        """Raises Stale with the difference between what was decoded and what there is now."""
        reasons = {
            "version": "it was made by another version",
            "side": f"its squares have {facts['side']} pixels, not {self.side}",
            "variant": "its images were divided differently",
            "listing": "files of the same names have other content",
        }
        for name, now in self.facts().items():
            if facts[name] == now:
                continue
            if name == "listing":
                files = self.source.files
                before = dict(zip(unpacked(arrays["paths"]), arrays["states"].tolist(), strict=True))
                after = dict(zip(files.paths, files.states().tolist(), strict=True))
                changed = sum(before[path] != after[path] for path in before.keys() & after.keys())
                added, removed = len(after.keys() - before.keys()), len(before.keys() - after.keys())
                if added or removed or changed:
                    raise Stale(f"{added} files added, {removed} removed, {changed} changed since")
            raise Stale(reasons.get(name, f"its {name} differ"))


def packed(texts: list[str]) -> np.ndarray:
    """Returns texts without NUL as bytes, (n,) uint8, for a file of arrays."""
    return np.frombuffer("\0".join(texts).encode("utf-8", "surrogateescape"), np.uint8)


def unpacked(content: np.ndarray) -> list[str]:
    """Returns the texts that were packed."""
    return content.tobytes().decode("utf-8", "surrogateescape").split("\0")


def require_readable(source: Source, unreadable: Sequence[tuple[SplitName, int, str]], skip_bad: bool) -> None:
    """Refuses unreadable samples, (split, row, reason) each, unless they are to be left out."""
    if unreadable and not skip_bad:
        lines = [f"  {source.split(name).reader.location(row)}: {reason}" for name, row, reason in unreadable]
        fix = "mend them or move them elsewhere, or leave them out with --skip-bad"
        raise UserError("\n".join([f"--data {source.root}: {len(unreadable)} file(s) cannot be read; {fix}:", *lines]))


def cache_prefix(root: Path, cache: str) -> Path:
    """Returns how the paths of the folders begin that have decoded images of the data set at `root`."""
    home, root = cache_home() if cache in ("auto", "none") else Path(cache).expanduser(), root.resolve()
    return home / f"{re.sub(r'[^A-Za-z0-9._-]', '_', root.name)}-{hashlib.sha256(bytes(root)).hexdigest()[:8]}"


def locate_cache(source: Source, side: int, cache: str) -> CacheFolder:
    """Decides where decoded images go, or only their statistics; arguments as for `prepare`."""
    prefix = cache_prefix(source.root, cache)
    maps = CacheFolder(prefix.with_name(f"{prefix.name}{source.variant}-{side}"), source, side)
    statistics = replace(maps, path=maps.path.with_name(f"{maps.path.name}-statistics"), has_maps=False)
    if cache == "none":
        return statistics
    home, missing, free = prefix.parent, maps.missing_bytes(), free_bytes(prefix)
    if missing <= 0:
        return maps
    needed = f"{sum(maps.map_sizes.values()) / 1e9:.2f} GB"
    if cache == "auto" and missing > free / 2:
        logger.info(
            f"decoded images would take {needed}, over half of the {free / 1e9:.1f} GB free at {home}: each epoch "
            "decodes them again instead (--cache DIR stores them elsewhere)"
        )
        return statistics
    if missing > free:
        raise UserError(
            f"--cache {home}: decoded images take {needed} and {free / 1e9:.1f} GB are free; "
            "make room, name another folder, or use --cache none"
        )
    logger.info(f"decoding once into {maps.path}: {needed} ({free / 1e9:.1f} GB are free)")
    return maps


def free_bytes(path: Path) -> int:
    """Returns the free disk space where a path is, or will be."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
