"""Two test processes run side by side (``-n 2``); each computes with one thread, and so do the scripts they start."""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def driver():
    """The process that makes runs for :class:`tests.run_client.Runs`."""
    from tests.run_client import start_driver

    process = start_driver()
    yield process
    process.stdin.close()
    process.wait(30)
