"""Fusion of the scores of several modalities of a person: hands, sides of the hand, fingers.

Scores of a modality are z-normalised by mean and population standard deviation over all of its training scores (Jain,
Nandakumar and Ross 2005). The rules are the mean of the modalities that are there, or weights from a logistic
regression on training people.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from utils.biometric.scores.logistic import fit_logistic
from utils.errors import ReIDError

RULES = ("mean", "logistic")


@dataclass(frozen=True)
class Fusion:
    """What fusion learned from training people.

    Attributes:
        mean, std: [K] of the training scores of each modality.
        weights: [K] of the z-normalised scores; None for their mean.
        intercept: of the weighted sum, which is then a natural-log likelihood ratio.
    """

    mean: np.ndarray
    std: np.ndarray
    weights: np.ndarray | None = None
    intercept: float = 0.0

    def fuse(self, scores: np.ndarray) -> np.ndarray:
        """Fused scores [N] of comparisons [N, K]; NaN stands for a modality that was not taken and is left out.

        A weighted sum takes a missing modality at its training mean, which adds nothing to it. NaN where no modality
        is there.
        """
        z = (np.asarray(scores, dtype=np.float64) - self.mean) / self.std
        known = ~np.isnan(z)
        filled = np.where(known, z, 0.0)
        found = known.any(1)
        if self.weights is None:
            return np.divide(filled.sum(1), known.sum(1), out=np.full(len(z), np.nan), where=found)
        return np.where(found, filled @ self.weights + self.intercept, np.nan)


def fit_fusion(scores: np.ndarray, genuine: np.ndarray, rule: str = "mean", ridge: float = 0.0) -> Fusion:
    """Learn from the training scores [N, K] (NaN where a modality is missing), ``genuine`` [N].

    ``ridge`` is that of :func:`utils.biometric.scores.logistic.fit_logistic`.

    Raises:
        ReIDError: a modality has no scores or a single value; no training row has all modalities (``logistic``); the
            classes are separable (:class:`utils.biometric.scores.logistic.SeparableError`).
    """
    scores = np.asarray(scores, dtype=np.float64)
    if np.isnan(scores).all(0).any():
        raise ReIDError(f"fusion: modality {int(np.isnan(scores).all(0).argmax())} has no training scores.")
    mean, std = np.nanmean(scores, 0), np.nanstd(scores, 0)
    if not (std > 0).all():
        raise ReIDError(f"fusion: all training scores of modality {int(std.argmin())} are equal.")
    if rule == "mean":
        return Fusion(mean, std)
    z = (scores - mean) / std
    whole = ~np.isnan(z).any(1)
    if not whole.any():
        raise ReIDError("fusion by logistic regression: no training comparison has all modalities. Take the mean.")
    weights, intercept = fit_logistic(z[whole], np.asarray(genuine)[whole], ridge)
    return Fusion(mean, std, weights, intercept)
