"""Release the networks that a test file caches, after its last test."""

import pytest


@pytest.fixture(autouse=True, scope="module")
def release(request):
    yield
    for value in vars(request.module).values():
        if hasattr(value, "cache_clear"):
            value.cache_clear()
