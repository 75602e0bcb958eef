"""SIGINT and SIGTERM during training: finish the step, save, exit."""

import signal
from types import FrameType


class StopSignal:
    """Stores SIGINT or SIGTERM, for training to stop after the step; a second one ends the process as usual.

    Attributes:
        signal: the number of the signal received; None before one comes.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    def __enter__(self) -> "StopSignal":
        self._previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def install(self) -> None:
        """Installs the handlers. Leaving the `with` block restores the previous ones."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._store)

    def _store(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.signal = number
        signal.signal(number, signal.SIG_DFL)

    def __exit__(self, *raised: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
