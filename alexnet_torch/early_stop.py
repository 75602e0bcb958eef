"""SIGTERM and SIGHUP as exceptions: locks and temporary files are given back, and a line says what happened."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from alexnet_torch.errors import Stopped


def raise_on_signals() -> None:
    """Makes SIGTERM and SIGHUP raise `Stopped`, as SIGINT raises KeyboardInterrupt; an ignored one stays ignored."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, _stop)


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Makes SIGTERM and SIGHUP raise `Stopped` in a block; in a thread, which cannot set handlers, they stay."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    raise_on_signals()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> None:
    del frame
    signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once
    raise Stopped(number)
