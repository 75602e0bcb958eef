"""Where a prepared folder goes: which disk has room for its images, and whether they are there already."""

import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from alexnet_torch.data.folder import Folder, Split
from alexnet_torch.errors import UserError
from alexnet_torch.files import cache_home

Announce = Callable[[str], None]


def choose(folder: Folder, side: int, cache: str, announce: Announce) -> tuple[Path, bool]:
    """Where the prepared folder goes, and whether it holds the images or their statistics alone.

    Args:
        folder: of images.
        side: of the decoded squares, in pixels.
        cache: as for `cache.prepare`.
        announce: told what is decided, and by how much room.

    Raises:
        UserError: the disk of the folder that `cache` names is too small.
    """
    resolved = folder.root.resolve()
    name = f"{re.sub(r'[^A-Za-z0-9._-]', '_', resolved.name)}-{hashlib.sha256(bytes(resolved)).hexdigest()[:8]}"
    home = cache_home() if cache in ("auto", "none") else Path(cache).expanduser()
    stored, statistics = home / f"{name}-{side}", home / f"{name}-{side}-statistics"
    if cache == "none":
        return statistics, False
    splits = (folder.train, folder.val)
    need = sum(map_bytes(split, side) for split in splits)
    held = sum(path.stat().st_blocks * 512 for at in (stored, partial_of(stored)) for path in at.glob("*.u8"))
    free = _free(home)
    if held >= need or not any(wrong_map(stored, split, side) for split in splits):
        return stored, True
    if cache == "auto" and need - held > free / 2:
        announce(
            f"decoded images would take {need / 1e9:.1f} GB, over half of the {free / 1e9:.1f} GB free at {home}: "
            "decoding them again each epoch instead (--cache DIR puts them elsewhere)"
        )
        return statistics, False
    if need - held > free:
        raise UserError(
            f"--cache {home}: decoded images take {need / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; "
            "make room, name another folder, or use --cache none"
        )
    announce(f"decoding once into {stored}: {need / 1e9:.2f} GB ({free / 1e9:.1f} GB are free)")
    return stored, True


def map_bytes(split: Split, side: int) -> int:
    """The size of a split's map of (files, side, side, 3) uint8."""
    return len(split.paths) * side * side * 3


def wrong_map(target: Path, split: Split, side: int) -> bool:
    """Whether a prepared folder lacks a split's map, or has one of another size."""
    path = target / f"{split.name}.u8"
    return not path.exists() or path.stat().st_size != map_bytes(split, side)


def partial_of(target: Path) -> Path:
    """The folder beside it in which a prepared folder is made."""
    return target.with_name(target.name + ".partial")


def _free(path: Path) -> int:
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
