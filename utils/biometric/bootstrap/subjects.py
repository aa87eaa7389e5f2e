"""Subject bootstrap: the spread of a figure over samples of people.

The people of query and gallery are drawn together, with replacement. A person drawn m times counts as m separate
people, the copies. A comparison of two people a and b counts m_a m_b times, one within a person m_a times, and two
copies of one person are never compared. Every measure of a replicate is that of the sample with these weights.

A figure that was measured by several runs (seeds) is resampled hierarchically: runs first, then people, the same people
for all runs, which pairs the differences between two configurations.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.biometric.comparisons import Comparisons
from utils.biometric.confidence import Interval
from utils.biometric.error_rates import Tally
from utils.errors import ReIDError

CONFIDENCE = 0.95
REPLICATES = 2000
_EXACT_FLOAT32 = 2**24
_CELLS = 2**23


class Difference(NamedTuple):
    """Mean difference, its percentile interval, and twice the share of replicates on the other side of zero."""

    mean: float
    low: float
    high: float
    p: float


def draw_people(people: int, replicates: int, seed: int = 0) -> np.ndarray:
    """How often each of ``people`` subjects is drawn in each replicate: int64 [B, N]."""
    random = np.random.default_rng(seed)
    draws = (random.integers(people, size=people) for _ in range(replicates))
    return np.stack([np.bincount(draw, minlength=people) for draw in draws])


def interval(values: np.ndarray, confidence: float = CONFIDENCE) -> Interval:
    """Percentile interval of replicates [B]; those that could not be computed are NaN and left out.

    Raises:
        ReIDError: all are NaN.
    """
    values = np.asarray(values, dtype=np.float64)
    known = values[~np.isnan(values)]
    if not len(known):
        raise ReIDError("no bootstrap replicate has comparisons of both kinds: there are too few people.")
    tail = (1 - confidence) / 2
    return Interval(*(float(end) for end in np.quantile(known, [tail, 1 - tail])))


def centred(values: np.ndarray, figure: float) -> np.ndarray:
    """Replicates [B] of a rate, shifted so that their mean is the figure itself.

    For ranks and open-set searches: about a third of the people is in no replicate, which leaves fewer distinct people
    to be mistaken for, so all replicates are a little too good.
    """
    known = values[~np.isnan(values)]
    return np.clip(values - (known.mean() if len(known) else 0) + figure, 0, 1)


def difference(
    first: np.ndarray, second: np.ndarray, confidence: float = CONFIDENCE, seed: int = 0, mean: float | None = None
) -> Difference:
    """Difference ``second - first`` of a figure between two configurations, over seeds and people.

    Args:
        first, second: replicates [S, B] of each run; column b of all rows is the same draw of people.
        confidence: share of the replicates inside the interval.
        seed: of the drawing of runs.
        mean: the difference of the figures themselves, which the replicates are shifted to; by default their mean.

    Raises:
        ReIDError: the replicates are not of the same number.
    """
    first, second = np.atleast_2d(first), np.atleast_2d(second)
    if first.shape[1] != second.shape[1]:
        raise ReIDError(
            f"{first.shape[1]} and {second.shape[1]} bootstrap replicates cannot be paired. Evaluate with one "
            "TEST.BOOTSTRAP."
        )
    random = np.random.default_rng(seed)
    found = _over_runs(second, random) - _over_runs(first, random)
    found = found if mean is None else found - np.nanmean(found) + mean
    low, high = interval(found, confidence)
    known = found[~np.isnan(found)]
    tail = min((known <= 0).mean(), (known >= 0).mean())
    return Difference(float(known.mean()) if mean is None else mean, low, high, float(min(1.0, 2 * tail)))


def resample_means(values: np.ndarray, people: Sequence[object], drawn: np.ndarray | None = None) -> np.ndarray:
    """Mean [B] of a number for each query [Q] (NaN: counts nowhere), each as often as its person is drawn.

    For runs of which nothing but the queries' numbers was kept: the gallery stays as it is, which makes the interval of
    a difference a little too narrow.

    Raises:
        ReIDError: the lengths differ, or no query counts.
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) != len(people):
        raise ReIDError(
            f"{len(values)} queries and {len(people)} people can't be paired: the runs need the same images."
        )
    known = ~np.isnan(values)
    if not known.any():
        raise ReIDError("no query counts in both runs, so there is nothing to compare.")
    names, place = np.unique(np.asarray(people), return_inverse=True)
    total = np.bincount(place[known], values[known], minlength=len(names))
    count = np.bincount(place[known], minlength=len(names))
    weights = draw_people(len(names), REPLICATES) if drawn is None else drawn
    with np.errstate(invalid="ignore", divide="ignore"):
        return (weights @ total) / (weights @ count)


def _over_runs(replicates: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Mean [B] over as many runs as there are [S, B], drawn with replacement in each replicate."""
    runs, count = replicates.shape
    drawn = random.integers(runs, size=(runs, count))
    return np.take_along_axis(replicates, drawn, axis=0).mean(0)


class Subjects(NamedTuple):
    """Whom the images of query [Q] and gallery [G] show, as numbers from 0; ``count`` people in all."""

    query: Tensor
    gallery: Tensor
    count: int


def number_subjects(query: Sequence, gallery: Sequence) -> Subjects:
    """Number the labels of both together."""
    names, place = np.unique(np.concatenate([np.asarray(query), np.asarray(gallery)]), return_inverse=True)
    place = torch.from_numpy(place)
    return Subjects(place[: len(query)], place[len(query) :], len(names))


def resample_errors(
    blocks: Iterable[Comparisons], subjects: Subjects, places: np.ndarray, drawn: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted genuine and impostor comparisons [B, T] of each replicate from each place up to the next.

    Args:
        blocks: all comparisons.
        subjects: the people.
        places: [T] ascending scores; those below the first are counted with it. All distinct scores give exact rates.
        drawn: [B, N] of :func:`draw_people`.
    """
    width, people = len(places), subjects.count
    edges = torch.from_numpy(np.ascontiguousarray(places, dtype=np.float64))
    weights = torch.from_numpy(drawn).double()
    exact32 = weights.float()
    own = torch.zeros(2, people * width, dtype=torch.int64)  # comparisons within a person, by kind
    impostor = torch.zeros(len(drawn), width, dtype=torch.float64)
    for block in blocks:
        cells = torch.bucketize(block.scores.cpu(), edges, right=True).sub_(1).clamp_(min=0)
        for rows in _person_rows(subjects.query[block.queries], max(1, _CELLS // (people * width))):
            who = subjects.query[block.queries][rows]
            cell, same, counted = cells[rows], block.same[rows].cpu(), block.counted[rows].cpu()
            within = counted & (who[:, None] == subjects.gallery)
            for kind, chosen in enumerate((within & same, within & ~same)):
                row, column = chosen.nonzero(as_tuple=True)
                own[kind] += torch.bincount(who[row] * width + cell[row, column], minlength=people * width)
            local, place = who.unique(return_inverse=True)
            index = place[:, None] * (people * width) + subjects.gallery * width + cell
            counts = torch.bincount(index[counted & ~within], minlength=len(local) * people * width)
            for a, table in zip(local.tolist(), counts.view(len(local), people, width), strict=True):
                # Whole numbers below 2^24 are exact in float32, whose products are twice as fast.
                small = int(table.sum()) * int(drawn.max()) < _EXACT_FLOAT32
                product = exact32 @ table.float() if small else weights @ table.double()
                impostor += product.double().mul_(weights[:, a, None])
    genuine, impostor_within = (weights @ part.view(people, width).double() for part in own)
    return genuine.numpy(), (impostor + impostor_within).numpy()


def _person_rows(who: Tensor, most: int) -> list[Tensor]:
    """Rows of the queries so that each part shows at most ``most`` people."""
    return [torch.isin(who, part).nonzero()[:, 0] for part in who.unique().split(most)]


def tallies(places: np.ndarray, genuine: np.ndarray, impostor: np.ndarray) -> list[Tally | None]:
    """The tally of each replicate; None where only people without comparisons of a kind were drawn."""
    return [Tally(places, g, i) if g.any() and i.any() else None for g, i in zip(genuine, impostor, strict=True)]


def choose_places(
    counted: Tally, most: int, thresholds: Sequence[float] = (), fars: Sequence[float] = ()
) -> np.ndarray:
    """At most about ``most`` scores [T] between which replicates are interpolated; all scores where they are few.

    They are dense where the rates meet and around the FARs, and hold ``thresholds`` exactly.
    """
    if len(counted.scores) <= most:
        return np.unique(np.concatenate([counted.scores, thresholds]))
    near = np.linspace(0.5, 2, most // 4) * counted.equal_error().rate
    wanted = [np.geomspace(f / 4, min(1, 4 * f), most // 8) for f in fars]
    by_fmr = np.concatenate([np.geomspace(1 / counted.num_impostor, 1, most // 8), near, *wanted])
    by_fnmr = np.concatenate([np.linspace(0, 1, most // 8), near])
    place = np.concatenate([np.searchsorted(-counted.fmr, -by_fmr), np.searchsorted(counted.fnmr, by_fnmr)])
    chosen = counted.scores[place.clip(max=len(counted.scores) - 1)]
    return np.unique(np.concatenate([counted.scores[:1], chosen, thresholds]))


def accept_rates(found: Sequence[Tally | None], far: float, exact: bool) -> np.ndarray:
    """TAR [B] at FMR <= ``far``; between two places linear unless every score is a place (``exact``)."""
    return np.array([np.nan if t is None else _accept_rate(t, far, exact) for t in found])


def _accept_rate(counted: Tally, far: float, exact: bool) -> float:
    if exact:
        return counted.accept_rate(far).tar
    return 1 - float(np.interp(far, counted.fmr[::-1], counted.fnmr[::-1]))


def equal_errors(found: Sequence[Tally | None]) -> np.ndarray:
    """EER [B]."""
    return np.array([np.nan if t is None else t.equal_error().rate for t in found])
