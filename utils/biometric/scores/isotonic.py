"""Calibration by isotonic regression: the pool-adjacent-violators algorithm (PAV; Zadrozny and Elkan 2002)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from utils.biometric.error_rates import Tally, tally


@dataclass(frozen=True)
class Blocks:
    """Runs of scores that PAV gives one likelihood ratio.

    Attributes:
        low, high: [B] lowest and highest training score, ascending.
        genuine, impostor: [B] training comparisons.
    """

    low: np.ndarray
    high: np.ndarray
    genuine: np.ndarray
    impostor: np.ndarray

    @property
    def posterior(self) -> np.ndarray:
        """[B] share of genuine where both classes weigh half."""
        genuine, impostor = self.genuine / self.genuine.sum(), self.impostor / self.impostor.sum()
        return genuine / (genuine + impostor)

    def llr(self, scores: np.ndarray) -> np.ndarray:
        """Natural-log LRs of any scores: the posterior is linear between neighbouring training scores of two blocks
        and held outside the training range, where it may be infinite.
        """
        knots = np.column_stack([self.low, self.high]).ravel()
        values = np.repeat(self.posterior, 2)
        single = np.concatenate([[True], np.diff(knots) > 0])  # a block of one score is one knot
        return logit(np.interp(np.asarray(scores, dtype=np.float64), knots[single], values[single]))

    def llr_of_training(self, scores: np.ndarray) -> np.ndarray:
        """Natural-log LRs of training scores themselves, which may be infinite."""
        return logit(self.posterior)[np.searchsorted(self.high, np.asarray(scores, dtype=np.float64), side="left")]


def logit(posterior: np.ndarray) -> np.ndarray:
    """ln(p / (1 - p)); infinite at 0 and 1."""
    with np.errstate(divide="ignore"):
        return np.log(posterior) - np.log1p(-posterior)


def isotonic_blocks(
    genuine: np.ndarray,
    impostor: np.ndarray,
    genuine_weights: np.ndarray | None = None,
    impostor_weights: np.ndarray | None = None,
) -> Blocks:
    """Pool neighbouring scores until the share of genuine rises; scores that are equal are one from the start."""
    counted = tally(genuine, impostor, genuine_weights, impostor_weights)
    runs = _runs_of_one_kind(counted)
    kinds = [np.add.reduceat(kind, runs) for kind in (counted.genuine, counted.impostor)]
    starts = np.array(_pool(*(kind.tolist() for kind in kinds)))
    first = runs[starts]
    last = np.append(first[1:], len(counted.scores)) - 1
    counts = (np.add.reduceat(kind, starts) for kind in kinds)
    return Blocks(counted.scores[first], counted.scores[last], *counts)


def _runs_of_one_kind(counted: Tally) -> np.ndarray:
    """First rows of runs of scores that only one kind has: PAV joins them in any case."""
    kind = (counted.genuine > 0) + 2 * (counted.impostor > 0)
    return np.flatnonzero(np.concatenate([[True], (kind[1:] != kind[:-1]) | (kind[1:] == 3)]))


def _pool(genuine: list[int], impostor: list[int]) -> list[int]:
    """First rows of the blocks. Counts are compared as products of whole numbers, which is exact."""
    first: list[int] = []
    g_mass: list[int] = []
    i_mass: list[int] = []
    for row, (g, i) in enumerate(zip(genuine, impostor, strict=True)):
        first.append(row)
        g_mass.append(g)
        i_mass.append(i)
        while len(first) > 1 and g_mass[-2] * i_mass[-1] >= g_mass[-1] * i_mass[-2]:
            first.pop()
            g_mass[-2:] = [g_mass[-2] + g_mass[-1]]
            i_mass[-2:] = [i_mass[-2] + i_mass[-1]]
    return first
