"""Error rates by group of people (gender, skin, age) at one threshold for all, and how unequal they are.

FNMR of a group is over the genuine comparisons of its people. FMR within a group is over the impostor comparisons
with probe and reference in it (NIST FRTE). GARBE (Howard et al. 2022, arXiv 2203.05051) weighs the Gini coefficients
of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class GroupErrors:
    """Counts of one threshold; group g of ``names`` has row and column g.

    Attributes:
        names: of the groups [K].
        genuine, missed: [K] genuine comparisons of each group, and those below the threshold.
        impostor, matched: [K, K] impostor comparisons of probe group and reference group, and those that match.
    """

    names: Sequence[str]
    genuine: np.ndarray
    missed: np.ndarray
    impostor: np.ndarray
    matched: np.ndarray

    @property
    def fnmr(self) -> np.ndarray:
        """[K] of each group."""
        return _share(self.missed, self.genuine)

    @property
    def fmr(self) -> np.ndarray:
        """[K, K] by probe group and reference group."""
        return _share(self.matched, self.impostor)

    @property
    def fmr_within(self) -> np.ndarray:
        """[K] with probe and reference in the group."""
        return self.fmr.diagonal()

    def only(self, chosen: Sequence[int]) -> GroupErrors:
        """The groups with these numbers."""
        place = np.asarray(chosen, dtype=int)
        square = np.ix_(place, place)
        names = [self.names[i] for i in place]
        return GroupErrors(names, self.genuine[place], self.missed[place], self.impostor[square], self.matched[square])

    def garbe(self, alpha: float = 0.5) -> float:
        """alpha Gini(FMR within groups) + (1 - alpha) Gini(FNMR); 0 where all groups are equal."""
        return alpha * gini(self.fmr_within) + (1 - alpha) * gini(self.fnmr)


def _share(part: np.ndarray, of: np.ndarray) -> np.ndarray:
    return np.divide(part, of, out=np.full(np.shape(of), np.nan), where=np.asarray(of) > 0)


def gini(rates: np.ndarray) -> float:
    """Gini coefficient with the small-sample factor n / (n - 1); 0 where all rates are 0, NaN for a single group."""
    rates = np.sort(np.asarray(rates, dtype=np.float64))
    count = len(rates)
    if count < 2:
        return float("nan")
    if not rates.sum():
        return 0.0
    ranks = np.arange(1, count + 1)
    return float(((2 * ranks - count - 1) * rates).sum() / ((count - 1) * rates.sum()))


def worst_over_best(rates: np.ndarray) -> float:
    """Largest rate / smallest; infinite where only the best is 0, NaN where all are."""
    worst, best = float(np.max(rates)), float(np.min(rates))
    if not worst:
        return float("nan")
    return worst / best if best else float("inf")
