"""Networks that a test file keeps for its tests are released behind it."""

import pytest


@pytest.fixture(autouse=True, scope="module")
def release(request):
    yield
    for value in vars(request.module).values():
        if hasattr(value, "cache_clear"):
            value.cache_clear()
