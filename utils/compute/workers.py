"""Processes that read images for this one: one that died, and the end of all of them."""

from __future__ import annotations

import multiprocessing
import re
import signal
import threading


def lost_worker(error: BaseException) -> bool:
    """Whether ``error`` is of a loader process that died. Torch raises it wherever this process happens to be."""
    return bool(re.match(r"DataLoader worker .*? (?:is killed by|exited unexpectedly)", str(error), re.DOTALL))


def kill_workers() -> None:
    """End the loader processes of this one at once.

    Torch's handler of SIGCHLD would raise that they were killed wherever the main thread happens to be, even between
    taking a lock and the ``try`` that gives it back. It is out of the way until they are gone.
    """
    workers = multiprocessing.active_children()
    handled = hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if handled else None
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join()
    if before is not None:
        signal.signal(signal.SIGCHLD, before)
