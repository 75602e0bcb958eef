"""How a run's last process ended, for the list of runs: end.json."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from alexnet_torch.errors import Diverged, Interrupted, RunError, describe_memory_error
from alexnet_torch.files import atomic_write
from alexnet_torch.run_folder import END


@contextmanager
def record_end(folder: Path, is_main: bool) -> Iterator[None]:
    """Writes how the block ended into the run's folder, on the main rank: done, stopped, diverged or failed.

    While the block runs, and after it was killed, there is no such file. An error of the block is raised again. If the
    file of a run that is done cannot be written, that is printed: the run itself is not worse for it.
    """
    if not is_main:
        yield
        return
    (folder / END).unlink(missing_ok=True)
    try:
        yield
    except (RunError, MemoryError, RuntimeError) as error:
        if told := _state_and_message(error):
            # on a full or removed disk the error itself says so
            with suppress(OSError):
                _write(folder, *told)
        raise
    try:
        _write(folder, "done", None)
    except OSError as error:
        print(f"{folder / END}: cannot be written ({error.strerror or error})", file=sys.stderr)


def _state_and_message(error: RunError | MemoryError | RuntimeError) -> tuple[str, str] | None:
    """Returns how a run ends with this error; None if the error is a fault of the program."""
    if isinstance(error, RunError):
        return _state(error), str(error)
    cause = describe_memory_error(error)
    return ("failed", cause) if cause else None


def _state(error: RunError) -> str:
    if isinstance(error, Interrupted):
        return "stopped"
    return "diverged" if isinstance(error, Diverged) else "failed"


def _write(folder: Path, state: str, message: str | None) -> None:
    text = json.dumps({"state": state, "message": message}, indent=1).encode()
    atomic_write(folder / END, lambda file: file.write(text))
