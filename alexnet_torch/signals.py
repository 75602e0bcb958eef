"""Signals that end a run: before training as exceptions, which give locks and files back; then after a step."""

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

from alexnet_torch.errors import Stopped

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
