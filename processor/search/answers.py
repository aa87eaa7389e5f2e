"""The most similar people of each query."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from processor.extract import Listed
from processor.search.points import Detail
from processor.search.thresholds import Threshold
from utils.biometric.scores.calibration import Calibration
from utils.console.logger import LOGGER
from utils.retrieval.search import SEARCHES

NOT_ENROLLED = "not enrolled"


class Answer(NamedTuple):
    """One enrolled person, by the most similar image, or with --points by the image with most agreeing points.

    ``accepted`` (yes or no) and ``verdict`` (the person, or :data:`NOT_ENROLLED`) are empty without a threshold,
    ``evidence`` without --lr, ``points`` (None) without --points or beyond its images. ``gallery_far`` is that of
    :class:`Threshold`, None where it is not known.
    """

    query: str
    rank: int
    identity: str
    similarity: float
    accepted: str
    image: str
    evidence: str = ""
    points: int | None = None
    verdict: str = ""
    gallery_far: float | None = None


def search(
    query: np.ndarray,
    names: Sequence[str],
    gallery: np.ndarray,
    listed: Sequence[Listed],
    top: int,
    threshold: Threshold | None = None,
    how: str = "exact",
    calibration: Calibration | None = None,
    detail: Detail | None = None,
) -> list[Answer]:
    """The ``top`` most similar people of each query, best first; those of equal similarity by gallery index.

    With ``detail``, the most similar images come first, ordered by agreeing points, equal ones by similarity.

    Args:
        query, gallery: features [Q, D] and [G, D]; the gallery may be mapped from disk.
        names: of the queries [Q].
        listed: what the gallery's features are of [G].
        top: answers to a query; fewer where fewer people are enrolled.
        threshold: decides acceptance, None for no decision.
        how: a name in :data:`utils.retrieval.search.SEARCHES`; the recall of an approximate search is logged.
        calibration: from similarities to likelihood ratios, None for none.
        detail: counts agreeing points of queries and gallery images, None for none.
    """
    images = Counter(image.identity for image in listed)
    # A list of this length holds one more person than the images of any top - 1 people can fill.
    length = max(1 + sum(count for _, count in images.most_common(top - 1)), detail.nearest if detail else 0)
    nearest = SEARCHES[how](torch.from_numpy(query), gallery, length, metric="cosine")
    if how != "exact":
        LOGGER.info("approximate search: %.1f %% of the nearest %d were found", 100 * nearest.recall, length)
    rate = None if threshold is None else threshold.gallery_far(len(listed))
    answers = []
    for name, distances, index in zip(names, nearest.distances.tolist(), nearest.index.tolist(), strict=True):
        best: dict[str, tuple[float, Listed, int | None]] = {}
        found = [(place, distance, None) for place, distance in zip(index, distances, strict=True) if place >= 0]
        for place, distance, points in found if detail is None else detail.ordered(name, found):
            best.setdefault(listed[place].identity, (1 - distance, listed[place], points))
        verdict = ""
        for rank, (identity, (similarity, image, points)) in enumerate(list(best.items())[:top], 1):
            accepted = "" if threshold is None else "yes" if similarity >= threshold.similarity else "no"
            if rank == 1:
                verdict = {"": "", "yes": identity, "no": NOT_ENROLLED}[accepted]
            evidence = "" if calibration is None else calibration.answer(similarity).text()
            answers.append(
                Answer(name, rank, identity, similarity, accepted, image.name, evidence, points, verdict, rate)
            )
    return answers
