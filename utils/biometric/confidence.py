"""Confidence bounds of an error rate that was seen k times in n independent trials.

Comparisons that share a person are not independent: give people, not comparisons, as n.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from utils.errors import ReIDError

_ITERATIONS = 300
_TINY = 1e-300


class Interval(NamedTuple):
    """Lower and upper end of a 95 % interval, fractions."""

    low: float
    high: float


def clopper_pearson(errors: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided interval of a rate seen ``errors`` times in ``trials`` (Clopper and Pearson 1934).

    Raises:
        ReIDError: ``errors`` does not lie between 0 and ``trials``, or there is no trial.
    """
    if not 0 <= errors <= trials or trials < 1:
        raise ReIDError(f"{errors} errors in {trials} trials: expected 0 <= errors <= trials and at least one trial.")
    tail = (1 - confidence) / 2
    low = 0.0 if errors == 0 else _quantile(tail, errors, trials - errors + 1)
    high = 1.0 if errors == trials else _quantile(1 - tail, errors + 1, trials - errors)
    return low, high


def upper_bound_without_errors(trials: int, confidence: float = 0.95) -> float:
    """One-sided upper bound where no error was seen: 1 - (1 - confidence)^(1 / trials)."""
    return -math.expm1(math.log(1 - confidence) / trials)


def rule_of_3(trials: int) -> float:
    """3 / n, which approximates :func:`upper_bound_without_errors` at 95 % (ISO/IEC 19795-1)."""
    return 3 / trials


def bounded(rate: float, people: int, ends: Interval | None = None) -> Interval | None:
    """The interval of a rate, also where no person made an exception.

    Resampling people among whom there is no error shows no spread, and [0, 0] would claim certainty. A rate of 0 or 1
    therefore gets :func:`upper_bound_without_errors` over people, about 3 / ``people``. For a mean of numbers in
    [0, 1] that are all 1 (average precisions) the bound holds too.

    Args:
        rate: share of errors, or of successes.
        people: who could have made an error, at least one.
        ends: what resampling gave; None where nothing was resampled.
    """
    if rate not in (0, 1):
        return ends
    bound = upper_bound_without_errors(people)
    low, high = (0.0, bound) if rate == 0 else (1 - bound, 1.0)
    return Interval(low, high) if ends is None else Interval(min(low, ends.low), max(high, ends.high))


def _quantile(probability: float, a: float, b: float) -> float:
    """Quantile of the beta distribution, by bisection."""
    return _bisect(lambda x: incomplete_beta(a, b, x) - probability)


def _bisect(function: Callable[[float], float]) -> float:
    """The zero of a rising function on [0, 1], to the last bit."""
    low, high = 0.0, 1.0
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if function(middle) < 0 else (low, middle)
    return middle


def incomplete_beta(a: float, b: float, x: float) -> float:
    """Regularised incomplete beta function I_x(a, b), by its continued fraction (modified Lentz method)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # there the fraction of the complement converges fast
        return 1 - incomplete_beta(b, a, 1 - x)
    log_front = a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    c, d = 1.0, 1 / _away_from_zero(1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, _ITERATIONS + round(10 * math.sqrt(a + b))):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        before = fraction
        for term in (even, odd):
            d = 1 / _away_from_zero(1 + term * d)
            c = _away_from_zero(1 + term / c)
            fraction *= c * d
        if fraction == before:
            break
    return math.exp(log_front) * fraction / a


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
