"""The folder of a run or an imported model: the names of its files, and the claim of the process that writes it."""

import errno
import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from itertools import count
from pathlib import Path

from alexnet_torch.errors import UserError
from alexnet_torch.files import writing

logger = logging.getLogger(__name__)

CONFIG = "config.json"  # settings, architecture, classes, versions
METRICS = "metrics.jsonl"  # one line of JSON for each report
MODEL_WEIGHTS = "model.pt"  # the best weights: a plain state dict
MODEL_DESCRIPTION = "model.json"  # what a prediction needs besides the weights
PRETRAINED_WEIGHTS = "model.safetensors"  # the full model, as save_pretrained writes it
CHECKPOINTS = "checkpoints"
CHECKPOINT_PARTS = {"key", "state", "weights", "optimizer", "scaler", "metrics"}  # of each file in it
TENSORBOARD = "tensorboard"
FIGURES = "figures"
REPORT = "report.html"  # a page about the run
FIGURE_NUMBERS = "figures.json"  # the numbers that the figures show
TRACKING = "tracking.json"  # the identifiers of the run in the trackers of --track
END = "end.json"  # how the run's last process ended, unless it was killed
LOCK = ".lock"  # there while a process writes the run

_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of file systems that have no locks


def fix_of_damage(run: Path, without_checkpoints: str) -> str:
    """Returns what a user can do about a damaged metrics.jsonl, model.pt or model.json of a run."""
    anew = f"train.py --output {run} --resume writes it anew from the run's checkpoint"
    return anew if (run / CHECKPOINTS).is_dir() else without_checkpoints


@contextmanager
def claimed(folder: Path, patience: float = 0.0, new: bool = False) -> Iterator[Path]:
    """Holds a run's folder for this process in a block, and yields it; makes it, and removes it if it stays empty.

    The system's lock ends with the process, however that ends. Waits `patience` seconds for another process that
    holds it. A new folder is the first of FOLDER, FOLDER-2, FOLDER-3, ... that does not exist.
    """
    from filelock import FileLock, Timeout  # not at the top: a tenth of a second, which --help does not need

    made, named = list[Path](), folder
    try:
        with writing(f"--output {named}"):
            for number in count(2):
                made[:] = [each for each in (folder, *folder.parents) if not each.exists()]
                try:
                    folder.mkdir(parents=True, exist_ok=not new)
                    break
                except FileExistsError:
                    if not new:
                        raise
                folder = named.with_name(f"{named.name}-{number}")
            lock, inode = FileLock(folder / LOCK), folder.stat().st_ino
            try:
                lock.acquire(timeout=patience, poll_interval=0.1)
            except Timeout as error:
                fix = "wait until it has ended, or name another folder"
                raise UserError(f"--output {folder}: another process is writing this run; {fix}") from error
            except OSError as error:
                if error.errno not in _WITHOUT_LOCKS:
                    raise
                logger.warning("%s: its disk has no file locks; start no second run in this folder", folder)
        try:
            yield folder
        finally:
            with suppress(OSError):  # for example a disk that became read-only
                if folder.stat().st_ino == inode:  # it was not moved
                    (folder / LOCK).unlink()  # before the release: who waits for this file then makes a new one
            lock.release()
    finally:
        for path in made:
            with suppress(OSError):  # it is not empty
                path.rmdir()


def is_claimed(folder: Path) -> bool:
    """Returns whether a process, of this machine or of one with the same disk, is writing a run's folder now."""
    try:
        with (folder / LOCK).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:  # held; or the disk has no locks, but the file is there while a process writes the run
        return True
    return False


def library_versions() -> dict[str, str]:
    """Returns the versions of the libraries whose code decides results, by name; torch's with its build."""
    import torch  # not at the top: it takes seconds to import, which --help does not need

    return {"torch": torch.__version__} | {name: version(name) for name in ("torchvision", "numpy", "pillow")}
