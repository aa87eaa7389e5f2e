"""Numba, taken away."""

import pytest

from utils.optional import MissingPackageError
from utils.retrieval import compiled
from utils.retrieval.compiled import compiled_loops


@pytest.fixture
def no_numba(monkeypatch):
    """Take numba away when called."""

    def missing(name):
        raise MissingPackageError("numba is not installed")

    def remove():
        compiled_loops.cache_clear()
        monkeypatch.setattr(compiled, "import_optional", missing)

    yield remove
    compiled_loops.cache_clear()
