"""What reaches the user, on streams that never stop or corrupt a run; and the signals that end a run."""

import errno
import functools
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TextIO, cast

from alexnet_torch.errors import OutputLost, Stopped


@contextmanager
def console(options: Sequence[str] = (), output_is_result: bool = False) -> Iterator[None]:
    """Guards sys.stdout and sys.stderr in a block, and decides what is printed there; errors always are.

    What cannot be written is dropped: a pipe's reader or the terminal is gone, or a disk is full. OutputLost if it
    was the result that the user wants. The package's loggers print to stderr.

    --quiet: only warnings and the result. --verbose: debug lines and the warnings of libraries, too, which otherwise
    are hidden: users cannot act on them. Either draws no progress bars.
    """
    quiet, verbose = "--quiet" in options, "--verbose" in options
    os.environ["MPLBACKEND"] = "agg"  # Jupyter names one that may not be installed, and figures are files
    while (null := os.open(os.devnull, os.O_RDWR)) < 3:  # a closed one: a file would get what C libraries print
        pass
    os.close(null)
    # a thread's error of writing, such as TensorBoard's on a full disk, comes again where its work is waited for
    hook = threading.excepthook
    threading.excepthook = lambda args: None if issubclass(args.exc_type, OSError) else hook(args)
    streams, torch_logger = (sys.stdout, sys.stderr), logging.getLogger("torch")
    torch_level = torch_logger.level
    output = _Stream(sys.stdout, raises=output_is_result, dropped=quiet and not output_is_result)
    sys.stdout = cast(TextIO, output)
    sys.stderr = cast(TextIO, _Stream(sys.stderr, is_terminal=not quiet and not verbose))
    logger, handler = logging.getLogger("alexnet_torch"), _Lines()
    logger.setLevel(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)
    logger.addHandler(handler)
    with warnings.catch_warnings():
        if not verbose:
            warnings.simplefilter("ignore")
            os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # torch reads both when it is imported
            if os.environ.setdefault("TORCH_LOGS", "-all") == "-all":  # who sets it asks for torch's logs
                torch_logger.setLevel(logging.ERROR)
        try:
            yield
            output.flush()
        finally:
            with suppress(OutputLost):
                output.flush()
            threading.excepthook = hook
            sys.stdout, sys.stderr = streams
            logger.removeHandler(handler)
            torch_logger.setLevel(torch_level)


class _Lines(logging.Handler):
    """Prints each record as a line on stderr, above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        write = sys.modules["tqdm"].tqdm.write if "tqdm" in sys.modules else functools.partial(print, flush=True)
        write(record.getMessage(), file=sys.stderr)


class _Stream:
    """A text stream whose writes do not fail, or fail as OutputLost; everything else is the stream's own."""

    def __init__(
        self, stream: TextIO | None, raises: bool = False, dropped: bool = False, is_terminal: bool = True
    ) -> None:
        self._is_closed = stream is None  # Python has no stream where the descriptor was closed
        self._stream = stream or open(os.devnull, "w")  # noqa: SIM115, PTH123 - open to the end of the process
        self._raises, self._dropped, self._is_terminal = raises, dropped, is_terminal
        if hasattr(self._stream, "reconfigure"):
            self._stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        if self._is_closed and self._raises:
            raise OutputLost("it is closed")
        self._guard(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._guard(self._stream.flush)

    def isatty(self) -> bool:
        return self._is_terminal and self._stream.isatty()

    def _guard(self, call: Callable[..., object], *given: str) -> None:
        try:
            if not self._dropped:
                call(*given)
        except OSError as error:
            self._dropped = True
            with suppress(OSError), open(os.devnull, "w") as null:  # noqa: PTH123
                # what the stream still holds goes there: Python would end with an error
                os.dup2(null.fileno(), self._stream.fileno())
            if self._raises:
                raise OutputLost(None if error.errno == errno.EPIPE else error.strerror or str(error)) from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def text_table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Returns a table with `left` columns aligned to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    columns = ["<"] * left + [">"] * (len(widths) - left)
    form = "  ".join(f"{{:{side}{width}}}" for side, width in zip(columns, widths, strict=True))
    return "\n".join(form.format(*row).rstrip() for row in [headings, *rows])


# SIGUSR1 and SIGUSR2 warn of the end of a job, as Slurm's --signal; SIGXCPU of a limit of time
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)


class StopSignal:
    """Handles signals in a block: raises `Stopped` at once, or after `install` stores the signal for training to stop.

    A second one ends the process. SIGHUP stays ignored where nohup ignores it. A thread cannot set handlers. Without
    `raise_early`, signals act as usual before `install`.
    """

    def __init__(self, raise_early: bool = True) -> None:
        self.signal: int | None = None  # the one stored
        self._raise_early = raise_early
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignal":
        if self._raise_early:
            self._handle(self._raise)
        return self

    def install(self) -> None:
        """Stores signals from now on."""
        self._handle(self._store)

    def _handle(self, handler: Callable[[int, FrameType | None], None]) -> None:
        for number in SIGNALS if threading.current_thread() is threading.main_thread() else ():
            previous = signal.getsignal(number)
            if number != signal.SIGHUP or previous != signal.SIG_IGN:
                self._previous.setdefault(number, previous)
                signal.signal(number, handler)

    def _raise(self, number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise Stopped(number)

    def _store(self, number: int, _: FrameType | None) -> None:
        self.signal = number
        signal.signal(number, signal.SIG_DFL)
        if number == signal.SIGINT and self._raise_early:
            with suppress(OSError):  # not print: its stream may be in use
                os.write(2, b"finishing the step, then saving; Ctrl-C again stops at once\n")

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
