"""Makes a prepared map in a folder of its own, which is a data set without the original images."""

import logging
from contextlib import suppress
from pathlib import Path

from alexnet_torch.data.cache_location import CacheFolder, free_bytes
from alexnet_torch.data.journal import lock_folder
from alexnet_torch.data.manifest import MANIFEST, read_manifest, stale_reason
from alexnet_torch.data.prepare import build
from alexnet_torch.data.sources.recognise import open_source
from alexnet_torch.data.sources.val_split import ValSplit, with_validation
from alexnet_torch.data.worker_processes import available_cores
from alexnet_torch.errors import UserError
from alexnet_torch.files import explain_os_error

logger = logging.getLogger(__name__)


def prepare_ahead(
    root: Path,
    output: Path,
    side: int,
    skip_bad: bool = False,
    val_split: ValSplit | None = None,
    workers: int | None = None,
) -> None:
    """Decodes a data set into a folder; says first which disk space, how many images and how much time it takes.

    An interrupted pass is continued by the same call. A folder that is complete is left as it is.

    Args:
        root: a data set in any form that `open_source` knows.
        output: the folder, which appears when it is complete.
        side: side of the decoded squares, in pixels.
        skip_bad: leave unreadable images out.
        val_split: how to choose validation images among the training images, where there are none.
        workers: processes that decode; one for each core by default.

    Raises:
        UserError: something is wrong with the data set, images cannot be read, the output is another folder with
            content, or its disk is too small.
    """
    source = with_validation(open_source(root), val_split)
    for line in (source.describe(), *source.notes):
        logger.warning(line)
    if source.map_side is not None:
        raise UserError(f"{root}: is a prepared map already; copy the folder, or use it with --data")
    target = CacheFolder(output, source, side, has_maps=True)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with lock_folder(output):
            if _is_complete(target):
                logger.info(f"{output}: is complete, nothing to do")
                return
            _announce_size(target)
            build(target, skip_bad, workers or available_cores())
    except OSError as error:
        raise UserError(f"--output {output}: {explain_os_error(error)}") from error
    logger.info(f"{output}: complete; it is a data set without the original images: --data {output}")


def _is_complete(target: CacheFolder) -> bool:
    """Returns whether the folder has this map already.

    Raises:
        UserError: it has anything else, which is not overwritten.
    """
    if not target.path.exists():
        return False
    if not target.path.is_dir():
        raise UserError(f"--output {target.path}: is a file; name a folder")
    if not (target.path / MANIFEST).exists():
        if any(target.path.iterdir()):
            raise UserError(f"--output {target.path}: has other files; name a new folder")
        return False
    reason = stale_reason(target)
    if reason is None:
        return True
    with suppress(OSError, ValueError):  # then the reason says that the manifest is damaged
        if (side := read_manifest(target.path).get("side")) != target.side:
            reason = f"its squares have {side} pixels, not {target.side}"
    raise UserError(f"--output {target.path}: has another map ({reason}); name a new folder")


def _announce_size(target: CacheFolder) -> None:
    """Says what the map takes; raises a UserError if the disk has less."""
    splits = target.source.splits
    needed = sum(map(target.map_bytes, splits))
    held = sum(path.stat().st_blocks * 512 for path in target.partial.glob("*.u8"))
    free = free_bytes(target.path)
    images = f"{sum(map(len, splits)):,} images of {target.side}x{target.side} pixels"
    if needed - held > free:
        raise UserError(
            f"--output {target.path}: {images} take {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; "
            "make room or name a folder on another disk"
        )
    logger.info(f"--output {target.path}: {images} take {needed / 1e9:.2f} GB of the {free / 1e9:.1f} GB that are free")
