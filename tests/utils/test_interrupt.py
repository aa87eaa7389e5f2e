"""The first signal is noted, its echoes are too, and a later one acts."""

import signal

import pytest

from utils import interrupt


@pytest.fixture
def own_handler():
    """What a second Ctrl-C does in a shell; in the background shells have it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_where_nothing_can_be_saved_the_message_says_so():
    with interrupt.catch_signals():
        interrupt.check_interrupt("evaluation")
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(interrupt.InterruptedRunError, match=r"stopped at evaluation; .*saved before") as caught:
            interrupt.check_interrupt("evaluation")
    assert "saved:" not in str(caught.value)


def test_echoes_of_a_signal_do_not_act(own_handler, monkeypatch):
    with interrupt.catch_signals():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # torchrun passes on what the batch system has sent already
        signal.raise_signal(signal.SIGINT)
        assert interrupt.interrupt_requested()
        monkeypatch.setattr(interrupt, "IMPATIENCE", -1.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is own_handler
