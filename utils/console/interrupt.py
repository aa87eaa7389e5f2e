"""Stopping on a signal at the next safe point instead of in the middle of a step."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_STATUS = 3
"""Exit status of the scripts after a signal: saved, and the same command resumes."""

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Ctrl-C; batch systems and ``timeout``; a terminal that is closed (not on Windows)."""

IMPATIENCE = 3.0
"""Seconds in which further signals are taken for the first one: a batch system and torchrun may both send theirs."""

_received: list[float] = []
"""When each signal arrived, as readings of ``time.monotonic``."""


class InterruptedRunError(Exception):
    """The run has come to a safe point after a signal to stop.

    Args:
        place: where that is.
        saved: whether the state there has just been saved.
    """

    def __init__(self, place: str, saved: bool = False) -> None:
        before = "the same command resumes from what was saved before, or starts from the beginning"
        super().__init__(f"stopped at {place}; {'saved: the same command resumes there' if saved else before}")


def interrupt_requested() -> bool:
    """Whether a signal has arrived."""
    return bool(_received)


def check_interrupt(place: str) -> None:
    """Call where the run can stop without saving anything.

    Raises:
        InterruptedRunError: a signal has arrived.
    """
    if _received:
        raise InterruptedRunError(place)


def ignore_signals(worker: int = 0) -> None:
    """In a process that reads or draws images: ignore signals, since the main process saves the state and ends it.
    Batch systems, ``timeout`` and Ctrl-C signal all processes; one that ends first would keep a run from saving.

    Args:
        worker: its number, as loaders pass it.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def catch_signals() -> Iterator[None]:
    """Record the first of :data:`SIGNALS` for :func:`interrupt_requested`; a later one acts at once.

    Only the main thread of a program receives signals: in another one nothing changes. Where SIGHUP is ignored, by
    ``nohup``, it stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _received.clear()
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in SIGNALS}
    if before.get(getattr(signal, "SIGHUP", None)) is signal.SIG_IGN:
        del before[signal.SIGHUP]

    def note(number: int, frame: FrameType | None) -> None:
        _received.append(time.monotonic())
        if _received[-1] - _received[0] > IMPATIENCE:
            signal.signal(number, before[number])
            signal.raise_signal(number)

    for number in before:
        signal.signal(number, note)
    try:
        yield
    finally:
        _received.clear()
        for number, handler in before.items():
            signal.signal(number, handler)
