"""Where a prepared folder goes: on a disk with room for its images, or where it exists already."""

import hashlib
import logging
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from alexnet_torch.data.sources.source import Source, SourceSplit
from alexnet_torch.errors import UserError
from alexnet_torch.files import cache_home

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CacheFolder:
    """A prepared folder on disk, and what it must contain."""

    path: Path  # may not exist yet
    source: Source  # that it is prepared from
    side: int  # of the decoded squares, in pixels
    has_maps: bool  # whether it contains the decoded images, or only their statistics

    @property
    def partial(self) -> Path:
        """The folder beside it that a build fills, and renames when it is complete."""
        return self.path.with_name(self.path.name + ".partial")

    def map_bytes(self, split: SourceSplit) -> int:
        """Returns the size of a split's memory map: (samples, side, side, 3) uint8."""
        return len(split) * self.side * self.side * 3

    def has_map(self, split: SourceSplit) -> bool:
        """Returns whether a split's memory map exists and has the right size."""
        path = self.path / split.map_name
        return path.exists() and path.stat().st_size == self.map_bytes(split)


def cache_folder(cache: str) -> Path:
    """Returns the folder of all prepared folders that --cache names: a folder, "auto" or "none"."""
    return cache_home() if cache in ("auto", "none") else Path(cache).expanduser()


def prefix_of(root: Path) -> str:
    """Returns how the names of the folders begin that are prepared from the data set at `root`."""
    root = root.resolve()
    return f"{re.sub(r'[^A-Za-z0-9._-]', '_', root.name)}-{hashlib.sha256(bytes(root)).hexdigest()[:8]}"


def locate_cache(source: Source, side: int, cache: str) -> CacheFolder:
    """Decides where the prepared folder goes, and whether it contains the images or only their statistics.

    Arguments as for `CacheFolder` and `prepare`. Raises a UserError if the disk of `cache` is too small.
    """
    home, name = cache_folder(cache), f"{prefix_of(source.root)}{source.variant}-{side}"
    maps = CacheFolder(home / name, source, side, has_maps=True)
    statistics = replace(maps, path=home / f"{name}-statistics", has_maps=False)
    if cache == "none":
        return statistics
    needed = sum(map(maps.map_bytes, source.splits))
    files = [path for folder in (maps.path, maps.partial) for path in folder.glob("*.u8") if path.is_file()]
    held = sum(path.stat().st_blocks * 512 for path in files)
    free = free_bytes(home)
    if held >= needed or all(map(maps.has_map, source.splits)):
        return maps
    if cache == "auto" and needed - held > free / 2:
        logger.info(
            f"decoded images would take {needed / 1e9:.1f} GB, over half of the {free / 1e9:.1f} GB free at {home}: "
            "they are decoded again in each epoch instead (--cache DIR stores them elsewhere)"
        )
        return statistics
    if needed - held > free:
        raise UserError(
            f"--cache {home}: decoded images take {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; "
            "make room, name another folder, or use --cache none"
        )
    logger.info(f"decoding once into {maps.path}: {needed / 1e9:.2f} GB ({free / 1e9:.1f} GB are free)")
    return maps


def free_bytes(path: Path) -> int:
    """Returns the free disk space where a path is, or will be."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
