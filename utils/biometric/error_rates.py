"""Error rates of comparisons at a threshold (ISO/IEC 19795-1), from counted scores.

A comparison matches when its score is at or above the threshold. FMR, the false match rate, is the share of the
impostor comparisons that match; FNMR, the false non-match rate, that of the genuine comparisons that do not. FAR and
TAR in the names of results are FMR and 1 - FNMR, as usual in re-identification.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from utils.errors import ReIDError

FEWEST_FALSE_MATCHES = 10
"""A rate at a FAR that fewer than this many impostor comparisons would make up is not reported."""

RULE_OF_30 = 30
"""Errors needed for an error rate to lie within 30 % of the true one with 90 % confidence (Doddington et al. 2000)."""


class EqualError(NamedTuple):
    """The rates meet at ``rate`` for every threshold in (``low``, ``high``].

    Where one score takes them past each other, ``low`` and ``high`` are both that score, and ``rate`` lies on the line
    between the two operating points.
    """

    rate: float
    low: float
    high: float


class AcceptRate(NamedTuple):
    """True accept rate at the lowest threshold with FMR at most a wanted one.

    Attributes:
        tar: 1 - FNMR.
        far: the FMR that is reached.
        above: the threshold lies just above this score, the highest that would accept too many.
        supported: whether the impostor comparisons are enough for this FAR.
    """

    tar: float
    far: float
    above: float
    supported: bool


@dataclass(frozen=True)
class Tally:
    """How many comparisons of each kind have each score.

    Attributes:
        scores: [T] ascending, each once.
        genuine, impostor: [T] comparisons with this score; whole numbers, or weights of any kind.
    """

    scores: np.ndarray
    genuine: np.ndarray
    impostor: np.ndarray

    @cached_property
    def num_genuine(self) -> int | float:
        """Genuine comparisons."""
        return self.genuine.sum().item()

    @cached_property
    def num_impostor(self) -> int | float:
        """Impostor comparisons."""
        return self.impostor.sum().item()

    @cached_property
    def rejected(self) -> np.ndarray:
        """[T + 1] genuine comparisons below each score, and all of them."""
        return np.concatenate([[0], self.genuine.cumsum()])

    @cached_property
    def accepted(self) -> np.ndarray:
        """[T + 1] impostor comparisons from each score on, and none."""
        return self.num_impostor - np.concatenate([[0], self.impostor.cumsum()])

    @cached_property
    def fmr(self) -> np.ndarray:
        """[T + 1] FMR at each score and above all of them."""
        return self.accepted / self.num_impostor

    @cached_property
    def fnmr(self) -> np.ndarray:
        """[T + 1] FNMR at each score and above all of them."""
        return self.rejected / self.num_genuine

    def rates_at(self, thresholds: Sequence[float] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """FMR and FNMR [N] at given thresholds [N]."""
        place = np.searchsorted(self.scores, np.asarray(thresholds, dtype=np.float64), side="left")
        return self.fmr[place], self.fnmr[place]

    def equal_error(self) -> EqualError:
        """Where FMR and FNMR meet; linear between two neighbouring operating points that lie on both sides.

        Useless scores give 0.5 and reversed ones 1. The order of ties has no influence. The value lies between the
        EER_low and EER_high of FVC2000.
        """
        # Whole numbers are compared, since the rounding of two shares would hide where they are equal.
        balance = self.rejected * self.num_impostor - self.accepted * self.num_genuine
        behind = int(np.searchsorted(balance, 0, side="right"))
        last = behind - 1
        if balance[last] == 0:
            return EqualError(float(self.fmr[last]), float(self.scores[last - 1]), float(self.scores[last]))
        share = -balance[last] / (balance[behind] - balance[last])
        rate = self.fnmr[last] + share * (self.fnmr[behind] - self.fnmr[last])
        return EqualError(float(rate), float(self.scores[last]), float(self.scores[last]))

    def accept_rate(self, far: float) -> AcceptRate:
        """TAR at the lowest threshold with FMR <= ``far``; a threshold may lie between two scores."""
        place = int(np.searchsorted(-self.fmr, -far, side="left"))
        above = self.scores[place - 1] if place else -np.inf
        return AcceptRate(
            1 - float(self.fnmr[place]), float(self.fmr[place]), float(above), is_supported(far, self.num_impostor)
        )

    def area(self) -> float:
        """Area under the ROC: P(genuine > impostor) + P(equal) / 2."""
        below = np.concatenate([[0], self.impostor.cumsum()])[:-1]
        shares = (below + self.impostor / 2) / self.num_impostor
        return float((self.genuine / self.num_genuine * shares).sum())

    def decidability(self) -> float:
        """d' = |mean_g - mean_i| / sqrt((var_g + var_i) / 2), population variances; infinite where nothing varies."""
        means, variances = [], []
        for counts in (self.genuine, self.impostor):
            share = counts / counts.sum()
            mean = float((share * self.scores).sum())
            means.append(mean)
            variances.append(float((share * (self.scores - mean) ** 2).sum()))
        spread = np.sqrt(sum(variances) / 2)
        difference = abs(means[0] - means[1])
        return float(difference / spread) if spread else float("inf" if difference else "nan")


def tally(
    genuine: np.ndarray,
    impostor: np.ndarray,
    genuine_weights: np.ndarray | None = None,
    impostor_weights: np.ndarray | None = None,
) -> Tally:
    """Count the scores of the genuine [G] and the impostor comparisons [I], each of weight 1 or as given.

    Raises:
        ReIDError: one of the kinds is missing, or a score is NaN.
    """
    kinds = [np.asarray(scores, dtype=np.float64).ravel() for scores in (genuine, impostor)]
    for name, scores in zip(("genuine", "impostor"), kinds, strict=True):
        if not len(scores):
            raise ReIDError(f"error rates need comparisons of both kinds; there is no {name} one.")
        if np.isnan(scores).any():
            raise ReIDError(f"{np.isnan(scores).sum()} of {len(scores)} {name} scores are NaN; expected numbers.")
    distinct, place = np.unique(np.concatenate(kinds), return_inverse=True)
    counts = []
    parts = place[: len(kinds[0])], place[len(kinds[0]) :]
    for part, weights in zip(parts, (genuine_weights, impostor_weights), strict=True):
        counted = np.bincount(part, weights, minlength=len(distinct))
        counts.append(counted.astype(np.int64) if weights is None else counted)
    return Tally(distinct, *counts)


def is_supported(far: float, num_impostor: float) -> bool:
    """Whether at least :data:`FEWEST_FALSE_MATCHES` impostor comparisons are expected at this FAR."""
    return num_impostor >= comparisons_needed(far)


def comparisons_needed(far: float) -> int:
    """Impostor comparisons without which a rate at this FAR is not reported."""
    return round(FEWEST_FALSE_MATCHES / far)
