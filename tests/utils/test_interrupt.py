"""The first signal is noted, its echoes are too, and a later one acts."""

import signal

import pytest

from utils import interrupt


def test_echoes_of_a_signal_do_not_act(monkeypatch):
    with interrupt.catch_signals():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # torchrun passes on what the batch system has sent already
        signal.raise_signal(signal.SIGINT)
        assert interrupt.interrupt_requested()
        monkeypatch.setattr(interrupt, "IMPATIENCE", -1.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
