"""Numba, taken away, and threads."""

import pytest
import torch

from utils.optional import MissingPackageError
from utils.retrieval import compiled
from utils.retrieval.compiled import load_loops


@pytest.fixture
def no_numba(monkeypatch):
    """Take numba away when called."""

    def missing(name):
        raise MissingPackageError("numba is not installed")

    def remove():
        load_loops.cache_clear()
        monkeypatch.setattr(compiled, "import_optional", missing)

    yield remove
    load_loops.cache_clear()


@pytest.fixture
def use_threads():
    """Set torch's number of threads when called, for this test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def three_threads(use_threads):
    """Torch computes with three threads."""
    use_threads(3)
