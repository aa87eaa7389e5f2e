"""Replicates of every figure of an evaluation under one drawing of people."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from utils.biometric.bootstrap.rankings import resample_rankings
from utils.biometric.bootstrap.subjects import (
    Subjects,
    accept_rates,
    choose_places,
    equal_errors,
    resample_errors,
    tallies,
)
from utils.biometric.counting import Blocks
from utils.biometric.error_rates import Tally, is_supported

_WORK = 2e11
_PLACES = (48, 256)


def number_of_places(people: int, replicates: int) -> int:
    """Scores between which replicates are interpolated: fewer where many people make each costly."""
    return int(np.clip(_WORK / (people**2 * replicates), *_PLACES))


def resample_verification(
    blocks: Blocks,
    subjects: Subjects,
    counted: Tally,
    drawn: np.ndarray,
    fars: Sequence[float] = (),
    thresholds: Sequence[float] = (),
) -> dict[str, np.ndarray]:
    """EER, TAR at each supported FAR, FMR and FNMR at each threshold: replicates [B] by name.

    Args:
        blocks: all comparisons.
        subjects: whom the images show.
        counted: their tally.
        drawn: [B, N] of :func:`utils.biometric.bootstrap.subjects.draw_people`.
        fars, thresholds: as for the figures themselves.
    """
    most = number_of_places(subjects.count, len(drawn))
    places = choose_places(counted, most, thresholds, fars)
    exact = len(counted.scores) <= most
    found = tallies(places, *resample_errors(blocks(), subjects, places, drawn))
    measures = {"EER": equal_errors(found)}
    for far in fars:
        if is_supported(far, counted.num_impostor):
            measures[f"TAR at FAR {far:g}"] = accept_rates(found, far, exact)
    for threshold in thresholds:
        rates = np.array([(np.nan, np.nan) if t is None else np.ravel(t.rates_at([threshold])) for t in found])
        measures |= {f"FMR at {threshold:g}": rates[:, 0], f"FNMR at {threshold:g}": rates[:, 1]}
    return measures


def resample_identification(
    blocks: Blocks, subjects: Subjects, drawn: np.ndarray, average_precision: str
) -> dict[str, np.ndarray]:
    """mAP, Rank-1, Rank-5, Rank-10 and mINP: replicates [B] by name."""
    return resample_rankings(blocks(), subjects, drawn, average_precision).measures()
