"""Two test processes run side by side (``-n 2``); each computes with one thread, and so do the scripts they start."""

import os
import random

import pytest

os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(autouse=True)
def silent_log():
    """Each test starts with a silent log, whichever test ran before it in this process."""
    yield
    from utils.console.logger import close_logger

    close_logger()


@pytest.fixture(autouse=True)
def same_numbers():
    """Each test draws the same random numbers, whichever tests ran before it in this process."""
    import numpy
    import torch

    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def blank_charts():
    """Runs leave their charts blank; tests of what is drawn use :func:`drawn_charts`."""
    from tests import charts

    charts.use(charts.leave_blank)


@pytest.fixture
def drawn_charts():
    """Charts are drawn as users get them."""
    from tests import charts

    charts.use(charts.draw)
    yield
    charts.use(charts.leave_blank)


@pytest.fixture(scope="session")
def driver():
    """The process that makes runs for :class:`tests.run_client.Runs`."""
    from tests.run_client import start_driver

    process = start_driver()
    yield process
    process.stdin.close()
    process.wait(30)


@pytest.fixture(scope="module")
def hands(tmp_path_factory):
    """Toy hands for the runs of one file of tests."""
    from tests.toy_hands import make_toy_hands

    return make_toy_hands(tmp_path_factory.mktemp("data") / "hands")


@pytest.fixture
def config(hands, tmp_path):
    """A configuration for a run of a second on :func:`hands`."""
    from tests.toy_hands import write_config

    return write_config(hands, tmp_path / "run")
