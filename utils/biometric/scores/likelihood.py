"""How good likelihood ratios are: Cllr, Tippett and empirical cross-entropy curves, and the limits that data support.

LLRs are natural logarithms. Costs are in bits.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from utils.biometric.scores.isotonic import isotonic_blocks

LN2, LN10 = np.log(2), np.log(10)
ELUB_STEP = 0.01
"""Grid of the ELUB in log10 LR."""


def cllr(
    genuine: np.ndarray,
    impostor: np.ndarray,
    genuine_weights: np.ndarray | None = None,
    impostor_weights: np.ndarray | None = None,
) -> float:
    """Log-likelihood-ratio cost in bits (Brümmer and du Preez 2006): 0 is perfect, 1 says nothing.

    1/2 [mean log2(1 + 1/LR) over genuine + mean log2(1 + LR) over impostor]. The weights are those of the LLRs, such as
    how many comparisons have each.
    """
    return (_mean(_cost(genuine), genuine_weights) + _mean(_cost(-np.asarray(impostor)), impostor_weights)) / 2


def _mean(values: np.ndarray, weights: np.ndarray | None) -> float:
    """Weighted mean; what weighs nothing may be infinite."""
    if weights is None:
        return float(values.mean())
    return float(np.average(values[weights > 0], weights=weights[weights > 0]))


def _cost(llr: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, -np.asarray(llr, dtype=np.float64)) / LN2


def optimal_llrs(
    genuine: np.ndarray,
    impostor: np.ndarray,
    genuine_weights: np.ndarray | None = None,
    impostor_weights: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The LLRs that the same order of the comparisons could give at best, by PAV on themselves; may be infinite."""
    blocks = isotonic_blocks(genuine, impostor, genuine_weights, impostor_weights)
    return blocks.llr_of_training(genuine), blocks.llr_of_training(impostor)


def cllr_min(genuine: np.ndarray, impostor: np.ndarray) -> float:
    """Cllr of :func:`optimal_llrs`; Cllr - Cllr_min is the calibration loss."""
    return cllr(*optimal_llrs(genuine, impostor))


def empirical_cross_entropy(
    genuine: np.ndarray,
    impostor: np.ndarray,
    log10_odds: np.ndarray,
    genuine_weights: np.ndarray | None = None,
    impostor_weights: np.ndarray | None = None,
) -> np.ndarray:
    """ECE in bits at each log10 prior odds (Ramos et al. 2013); Cllr at 0. Not the expected calibration error."""
    log_odds = np.asarray(log10_odds, dtype=np.float64) * LN10
    prior = 1 / (1 + np.exp(-log_odds))
    right = np.array([_mean(_cost(np.asarray(genuine) + odds), genuine_weights) for odds in log_odds])
    wrong = np.array([_mean(_cost(-np.asarray(impostor) - odds), impostor_weights) for odds in log_odds])
    return prior * right + (1 - prior) * wrong


def prior_entropy(log10_odds: np.ndarray) -> np.ndarray:
    """The ECE of a system that always answers LR = 1."""
    return empirical_cross_entropy(np.zeros(1), np.zeros(1), log10_odds)


def tippett(llrs: np.ndarray, log10_grid: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Share of the LLRs at or above each point of a grid of log10 LR."""
    values = np.asarray(llrs, dtype=np.float64) / LN10
    order = np.argsort(values, kind="stable")
    counts = np.ones(len(values)) if weights is None else np.asarray(weights)[order]
    below = np.concatenate([[0], counts.cumsum()])
    return 1 - below[np.searchsorted(values[order], np.asarray(log10_grid), side="left")] / below[-1]


class Misleading(NamedTuple):
    """Share of the genuine comparisons with LR < 1 and of the impostor comparisons with LR > 1."""

    genuine: float
    impostor: float


def misleading(
    genuine: np.ndarray,
    impostor: np.ndarray,
    genuine_weights: np.ndarray | None = None,
    impostor_weights: np.ndarray | None = None,
) -> Misleading:
    """Rates of misleading evidence."""
    return Misleading(
        _mean(np.asarray(genuine) < 0, genuine_weights), _mean(np.asarray(impostor) > 0, impostor_weights)
    )


def elub(genuine: np.ndarray, impostor: np.ndarray, step: float = ELUB_STEP) -> tuple[float, float]:
    """Empirical lower and upper bound of the LR in log10 (Vergeer et al. 2016) from training LLRs.

    Supported are the LRs around 1 up to which decisions, at the prior odds where they matter, cost no more than those
    of a system that always answers LR = 1, even if one more misleading LR had been seen on each side.
    """
    genuine10, impostor10 = (np.sort(np.asarray(llrs, dtype=np.float64) / LN10) for llrs in (genuine, impostor))
    both = np.concatenate([genuine10, impostor10])
    finite = both[np.isfinite(both)]
    grid = np.arange(np.floor(min(0.0, finite.min(initial=0)) / step), np.ceil(finite.max(initial=0) / step) + 1) * step
    # Deciding for "same" above the LR 10^x is right where a false accept costs 10^x as much as a false reject, prior
    # odds included. One misleading LR more is added to each kind.
    missed = (np.searchsorted(genuine10, grid, side="right") + 1) / (len(genuine10) + 1)
    accepted = (len(impostor10) - np.searchsorted(impostor10, grid, side="right") + 1) / (len(impostor10) + 1)
    price = 10.0**grid
    useless = missed + price * accepted > np.minimum(price, 1)
    below, above = grid[useless & (grid <= 0)], grid[useless & (grid >= 0)]
    low = below.max() + step if len(below) else grid[0]
    high = above.min() - step if len(above) else grid[-1]
    return min(float(low), 0.0), max(float(high), 0.0)
