"""How much a command says: --quiet, --verbose, or neither."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, TextIO, cast

from alexnet_torch.errors import UserError

Verbosity = Literal["quiet", "normal", "verbose"]

_LEVELS: dict[Verbosity, int] = {"quiet": logging.WARNING, "normal": logging.INFO, "verbose": logging.DEBUG}
_CPP_LEVEL = "TORCH_CPP_LOG_LEVEL"  # torch reads it when it is imported


def choose_verbosity(quiet: bool, verbose: bool) -> Verbosity:
    """Returns the verbosity that --quiet and --verbose ask for; raises a UserError if both are given."""
    if quiet and verbose:
        raise UserError("--quiet: contradicts --verbose; give one of the two")
    return "quiet" if quiet else "verbose" if verbose else "normal"


@contextmanager
def verbosity(level: Verbosity, output_is_result: bool) -> Iterator[None]:
    """Sets in a block what reaches the user; errors, and what is left out of the data, always do.

    Lines of the package's own loggers go to stderr: warnings always, infos unless quiet, debug lines if verbose.

    quiet: no progress bars and, unless standard output is the result of a command, nothing on it.
    normal: no warnings of libraries: their users cannot act on them, and ours have lines of their own.
    verbose: warnings of libraries, too; lines instead of progress bars.

    Args:
        level: the verbosity.
        output_is_result: as for `guarded_streams`.
    """
    before, torch_level = (sys.stdout, sys.stderr), logging.getLogger("torch").level
    logger, handler = logging.getLogger("alexnet_torch"), _Lines()
    logger.setLevel(_LEVELS[level])
    logger.addHandler(handler)
    with warnings.catch_warnings():
        if level != "verbose":
            _silence_libraries()
        if level != "normal":
            sys.stderr = cast(TextIO, _NoTerminal(sys.stderr))
        if level == "quiet" and not output_is_result:
            sys.stdout = cast(TextIO, _Dropped(sys.stdout))
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before
            logger.removeHandler(handler)
            logging.getLogger("torch").setLevel(torch_level)


class _Lines(logging.Handler):
    """Prints each record as a line on stderr, above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        if "tqdm" in sys.modules:
            from tqdm import tqdm

            tqdm.write(record.getMessage(), file=sys.stderr)
        else:
            print(record.getMessage(), file=sys.stderr, flush=True)


def detail(text: str) -> None:
    """Prints a line that only --verbose asks for."""
    logging.getLogger("alexnet_torch").debug(text)


def _silence_libraries() -> None:
    warnings.simplefilter("ignore")
    if os.environ.setdefault("TORCH_LOGS", "-all") == "-all":  # who sets it asks for torch's logs
        logging.getLogger("torch").setLevel(logging.ERROR)  # torch does this, too, when it is imported and reads "-all"
    os.environ.setdefault(_CPP_LEVEL, "ERROR")


class _Wrapped:
    """A stream of another one."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _NoTerminal(_Wrapped):
    """Says that it is no terminal: then no progress bar is drawn on it."""

    def isatty(self) -> bool:
        return False


class _Dropped(_Wrapped):
    def write(self, text: str) -> int:
        return len(text)
