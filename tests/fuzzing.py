"""How many examples a property test tries: few in each run of the tests, FUZZ_EXAMPLES of them in a long one."""

import os
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, settings

LONG = int(os.environ.get("FUZZ_EXAMPLES", 0))
SUPPRESSED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


def fuzz(examples):
    """Decorator: the test is marked ``fuzz``; no example may take longer than ten seconds."""

    def decorate(test):
        limits = settings(
            max_examples=max(examples, LONG), deadline=timedelta(seconds=10), suppress_health_check=SUPPRESSED
        )
        return pytest.mark.fuzz(limits(test))

    return decorate
