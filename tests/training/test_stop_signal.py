import os
import signal

import pytest

from alexnet_torch.errors import Stopped
from alexnet_torch.signals import SIGNALS, StopSignal


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_stored_a_second_one_acts_as_usual_and_the_handlers_are_restored(number: signal.Signals) -> None:
    before = handlers()
    stop = StopSignal()
    with stop:
        stop.install()
        installed = handlers()
        signal.raise_signal(number)
        assert signal.getsignal(number) == signal.SIG_DFL
        others = [(now, then) for now, then, n in zip(handlers(), installed, SIGNALS, strict=True) if n != number]
        assert all(now == then for now, then in others)
    assert stop.signal == number
    assert handlers() == before


@pytest.mark.parametrize("number", SIGNALS)
def test_before_training_a_signal_is_an_exception_with_its_status(number: signal.Signals) -> None:
    before = handlers()
    with StopSignal(), pytest.raises(Stopped) as raised:
        signal.raise_signal(number)
    assert raised.value.exit_status == 128 + number
    assert handlers() == before


def test_a_rank_that_does_not_build_ends_at_once() -> None:
    with StopSignal(raise_early=False):
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_nohup_stays_in_force() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal() as stop:
            stop.install()
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop.signal is None
        with StopSignal():
            os.kill(os.getpid(), signal.SIGHUP)  # raises nothing
    finally:
        signal.signal(signal.SIGHUP, before)
