"""Standard output and error: a reader that is gone, a full disk or an odd character never stop or corrupt a run."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from alexnet_torch.errors import OutputLost


@contextmanager
def guarded_streams(output_is_result: bool) -> Iterator[None]:
    """Guards sys.stdout and sys.stderr in a block.

    What cannot be written to them, because a pipe's reader or the terminal is gone or a disk is full, is dropped.
    Characters that a terminal's encoding lacks are written as escapes.

    Args:
        output_is_result: whether standard output is what the user wants, as a command's table, not a report of a run.

    Raises:
        OutputLost: standard output cannot be written, and it is the result.
    """
    _open_missing_descriptors()
    before = sys.stdout, sys.stderr
    output = _GuardedStream(sys.stdout, raises=output_is_result)
    sys.stdout, sys.stderr = cast(TextIO, output), cast(TextIO, _GuardedStream(sys.stderr, raises=False))
    try:
        yield
        output.flush()
    finally:
        with contextlib.suppress(OutputLost):
            output.flush()
        sys.stdout, sys.stderr = before


class _GuardedStream:
    """A text stream whose writes do not fail, or fail as OutputLost; everything else is the stream's own."""

    def __init__(self, stream: TextIO | None, raises: bool) -> None:
        # Python has no stream where the descriptor was closed
        self._stream = stream or open(os.devnull, "w")  # noqa: SIM115, PTH123 - open to the end of the process
        self._raises, self._lost = raises, False
        if hasattr(self._stream, "reconfigure"):
            self._stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        if not self._lost:
            try:
                return self._stream.write(text)
            except OSError as error:
                self._lose(error)
        return len(text)

    def flush(self) -> None:
        if not self._lost:
            try:
                self._stream.flush()
            except OSError as error:
                self._lose(error)

    def _lose(self, error: OSError) -> None:
        self._lost = True
        with contextlib.suppress(OSError), open(os.devnull, "w") as null:  # noqa: PTH123
            # what the stream still holds goes there when Python ends, which would otherwise print an error
            os.dup2(null.fileno(), self._stream.fileno())
        if self._raises:
            raise OutputLost(None if error.errno == errno.EPIPE else error.strerror or str(error)) from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _open_missing_descriptors() -> None:
    """Opens descriptors 0 to 2 where they are closed: else a file opened later would get what C libraries print."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, this one
