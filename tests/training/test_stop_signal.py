import signal

from alexnet_torch.training.stop_signal import StopSignal

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def test_a_signal_is_stored_a_second_one_acts_as_usual_and_the_handlers_are_restored() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    stop = StopSignal()
    with stop:
        assert [signal.getsignal(number) for number in SIGNALS] == before
        stop.install()
        signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert stop.signal == signal.SIGTERM
    assert [signal.getsignal(number) for number in SIGNALS] == before
