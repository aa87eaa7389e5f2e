"""Whether one run is better than another, or only luckier with the queries: the paired bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from utils.errors import ReIDError

_CHUNK = 2**22


class Difference(NamedTuple):
    """Mean difference, its percentile interval, and the share of resamples on the other side of zero, doubled."""

    mean: float
    low: float
    high: float
    p: float


def paired_bootstrap(
    first: np.ndarray,
    second: np.ndarray,
    identities: Sequence[object],
    *,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Difference ``second - first`` of two means over the same queries.

    Identities are drawn with replacement, each with all its queries, since the queries of one person depend on each
    other; the difference of a resample is the mean over all queries drawn.

    Args:
        first, second: a number for each query [Q], NaN where it counts nowhere.
        identities: of the queries [Q].
        resamples: how many.
        confidence: share of the resamples inside the interval.
        seed: of the drawing.

    Raises:
        ReIDError: different lengths, or no query that counts in both.
    """
    first, second = np.asarray(first, float), np.asarray(second, float)
    if not len(first) == len(second) == len(identities):
        raise ReIDError(f"{len(first)} and {len(second)} queries can't be paired: the runs need the same test images.")
    valid = ~(np.isnan(first) | np.isnan(second))
    if not valid.any():
        raise ReIDError("no query counts in both runs, so there is nothing to compare.")
    difference = (second - first)[valid]
    names, place = np.unique(np.asarray(identities)[valid], return_inverse=True)
    total, count = np.bincount(place, difference), np.bincount(place)
    random = np.random.default_rng(seed)
    step = max(1, _CHUNK // len(names))
    drawn = []
    for start in range(0, resamples, step):
        chosen = random.integers(len(names), size=(min(step, resamples - start), len(names)))
        drawn.append(total[chosen].sum(1) / count[chosen].sum(1))
    means = np.concatenate(drawn)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    tail = min((means <= 0).mean(), (means >= 0).mean())
    return Difference(float(difference.mean()), float(low), float(high), float(min(1.0, 2 * tail)))
