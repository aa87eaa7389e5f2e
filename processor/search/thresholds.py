"""From which similarity on an answer is accepted: a threshold by the gallery's own pairs of different people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from processor.extract import Listed
from utils.biometric.error_rates import FEWEST_FALSE_MATCHES
from utils.biometric.verification import verify
from utils.errors import ReIDError
from utils.metrics import Features


class Threshold(NamedTuple):
    """From which similarity on an answer is accepted, and the false accept rate of one comparison, None if unknown."""

    similarity: float
    far: float | None = None

    def gallery_far(self, images: int) -> float | None:
        """Probability that a person who is not enrolled is accepted by one of ``images`` independent comparisons.

        Images of one person are alike, so that the true probability is rather lower.
        """
        return None if self.far is None else 1 - (1 - self.far) ** images


def calibrate(gallery: np.ndarray, listed: Sequence[Listed], far: float) -> float:
    """Similarity at which a share of at most ``far`` of the gallery's pairs of different identities is accepted.

    Raises:
        ReIDError: ``far`` is no share, or the pairs are too few.
    """
    if not 0 < far < 1:
        raise ReIDError(f"--far {far}: expected a share between 0 and 1, such as 0.01.")
    features = _labelled(gallery, listed)
    metrics = verify(features, features, far=(far,))
    pairs, needed = metrics.num_impostor // 2, math.ceil(FEWEST_FALSE_MATCHES / far)
    if pairs < needed:
        least = FEWEST_FALSE_MATCHES / max(pairs, 1)
        step = 10 ** (math.floor(math.log10(least)) - 1)  # two digits, rounded up
        raise ReIDError(
            f"--far {far:g}: the gallery has {pairs:,} pairs of different people and {needed:,} are needed to find the "
            f"threshold. Enrol more images, or choose a rate of {math.ceil(least / step) * step:.2g} or more."
        )
    refused = metrics.scores.accept_rate(far).above
    impostor = metrics.scores.scores[metrics.scores.impostor > 0]
    accepted = impostor[np.searchsorted(impostor, refused, side="right") :]
    # Halfway from the highest refused score to the lowest accepted one: answers in float32 come out on the same sides.
    return float(refused + accepted[0]) / 2 if len(accepted) else float(np.nextafter(refused, np.inf))


def measure_far(gallery: np.ndarray, listed: Sequence[Listed], similarity: float) -> float | None:
    """Share of the gallery's pairs of different identities that reach ``similarity``; None where no pair does.

    Raises:
        ReIDError: ``similarity`` is no cosine.
    """
    if not -1 <= similarity <= 1:
        raise ReIDError(f"--threshold {similarity}: expected a cosine similarity, -1 to 1.")
    features = _labelled(gallery, listed)
    if len(np.unique(features.pids)) < 2:
        return None
    false_match_rate, _ = verify(features, features, thresholds=(similarity,)).rates_at[similarity]
    return false_match_rate or None


def _labelled(gallery: np.ndarray, listed: Sequence[Listed]) -> Features:
    _, pids = np.unique([image.identity for image in listed], return_inverse=True)
    return Features(torch.from_numpy(np.array(gallery)), pids, np.zeros_like(pids))
