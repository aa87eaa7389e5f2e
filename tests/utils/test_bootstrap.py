"""The paired bootstrap against one that draws, query by query, what it says."""

import numpy as np
import pytest

from utils.bootstrap import paired_bootstrap
from utils.errors import ReIDError


def slow(first, second, identities, resamples, seed):
    """Python lists of all queries of each drawn identity."""
    kept = [(b - a, who) for a, b, who in zip(first, second, identities, strict=True) if a == a and b == b]
    groups = {}
    for difference, who in kept:
        groups.setdefault(who, []).append(difference)
    names = sorted(groups)
    random = np.random.default_rng(seed)
    means = []
    for _ in range(resamples):
        drawn = [d for place in random.integers(len(names), size=len(names)) for d in groups[names[place]]]
        means.append(sum(drawn) / len(drawn))
    below, above = sum(m <= 0 for m in means), sum(m >= 0 for m in means)
    mean = sum(d for d, _ in kept) / len(kept)
    return mean, np.percentile(means, 2.5), np.percentile(means, 97.5), min(1, 2 * min(below, above) / resamples)


@pytest.mark.parametrize("shift", [0.0, 0.05, 0.5])
def test_against_the_slow_reference(shift):
    rng = np.random.default_rng(4)
    identities = rng.integers(6, size=40).astype(str)
    first, second = rng.random(40), rng.random(40) + shift
    first[3] = second[7] = np.nan
    found = paired_bootstrap(first, second, identities, resamples=300, seed=5)
    assert found == pytest.approx(slow(first, second, identities, 300, 5), abs=1e-12)
    assert found.low <= found.mean <= found.high


def test_equal_runs_and_chunks(monkeypatch):
    values = np.linspace(0, 1, 12)
    assert paired_bootstrap(values, values, range(12)) == (0, 0, 0, 1)
    whole = paired_bootstrap(values, values[::-1], range(12), resamples=100)
    monkeypatch.setattr("utils.bootstrap._CHUNK", 24)
    assert paired_bootstrap(values, values[::-1], range(12), resamples=100) == pytest.approx(whole)


def test_what_cannot_be_paired():
    with pytest.raises(ReIDError, match="can't be paired"):
        paired_bootstrap(np.ones(3), np.ones(2), "abc")
    with pytest.raises(ReIDError, match="nothing to compare"):
        paired_bootstrap(np.full(2, np.nan), np.ones(2), "ab")
