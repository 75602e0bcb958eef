"""SIGINT, SIGTERM and SIGHUP during training: finish the step, save, exit."""

import signal
from types import FrameType

from alexnet_torch.early_stop import raise_on_signals

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopSignal:
    """Stores a signal, for training to stop after the step; a second one ends the process as usual.

    SIGHUP stays ignored where it is, by nohup.

    Args:
        raise_early: whether SIGTERM and SIGHUP raise `Stopped` before `install`, or end the process at once.

    Attributes:
        signal: the number of the signal received; None before one comes.
    """

    def __init__(self, raise_early: bool = True) -> None:
        self.signal: int | None = None
        self._raise_early = raise_early

    def __enter__(self) -> "StopSignal":
        self._previous = {number: signal.getsignal(number) for number in SIGNALS}
        if self._raise_early:
            raise_on_signals()
        return self

    def install(self) -> None:
        """Installs the handlers. Leaving the `with` block restores the previous ones."""
        for number in SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._store)

    def _store(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.signal = number
        signal.signal(number, signal.SIG_DFL)

    def __exit__(self, *raised: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
