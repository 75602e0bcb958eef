"""SIGINT and SIGTERM: finish the step, save, leave."""

import signal
from types import FrameType


class Interrupted(Exception):
    """SIGINT or SIGTERM stopped the run, which is saved."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.status = 128 + number


class StopSignal:
    """Turns SIGINT and SIGTERM into a wish to stop after the step; a second one kills as usual."""

    def __init__(self) -> None:
        self.signal: int | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.signal = number
        signal.signal(number, signal.SIG_DFL)
