"""Loader processes are ended without a trace in the one that started them."""

import multiprocessing
import signal
import subprocess
import sys

from torch.utils.data import DataLoader

from utils.compute.workers import kill_workers


def test_killed_loader_processes_raise_nowhere():
    """Torch's handler of SIGCHLD raises anywhere in the main thread when a loader process is killed."""
    batches = iter(DataLoader(range(64), num_workers=2))
    next(batches)
    workers, before = multiprocessing.active_children(), signal.getsignal(signal.SIGCHLD)
    assert len(workers) == 2
    kill_workers()
    assert not any(worker.is_alive() for worker in workers)
    assert signal.getsignal(signal.SIGCHLD) is before
    subprocess.run([sys.executable, "-c", ""], check=True)  # another child ends: the handler looks at all processes
    next(iter(DataLoader(range(8), num_workers=1)))
