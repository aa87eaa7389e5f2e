"""Counting any number of scores in bounded memory, exactly at every threshold that matters.

A first pass counts all scores in 2^20 bins. A second one keeps the scores in the bins where the rates meet, where a
FAR is reached, and where a threshold lies; these scores replace their bins. So rates at those thresholds are exact;
elsewhere they are exact at the bins' edges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from utils.biometric.comparisons import Comparisons
from utils.biometric.error_rates import Tally
from utils.biometric.pair_scores import GRAIN
from utils.errors import ReIDError

BINS = 2**20
KEPT = 2**24
"""Scores kept at most; where the bins that matter hold more, they are divided first."""

Blocks = Callable[[], Iterable[Comparisons]]


def count(
    blocks: Blocks,
    *,
    fars: Sequence[float] = (),
    thresholds: Sequence[float] = (),
    reason: Callable[[str], str] = str,
    span: tuple[float, float] = (-1, 1),
) -> Tally:
    """The tally of all comparisons, exact at the crossing of the rates, at the FARs and at the thresholds.

    Args:
        blocks: gives all comparisons, the same ones whenever it is called.
        fars: of :meth:`utils.biometric.error_rates.Tally.accept_rate`.
        thresholds: of :meth:`utils.biometric.error_rates.Tally.rates_at`.
        reason: what to say where a kind, ``genuine`` or ``impostor``, has no comparison.
        span: lowest and highest score there may be.

    Raises:
        ReIDError: a kind has no comparison.
    """
    edges = np.linspace(*span, BINS + 1)
    counted = _histogram(blocks, edges)
    for kind in ("genuine", "impostor"):
        if not getattr(counted, kind).any():
            raise ReIDError(reason(kind))
    while _held(counted, fars, thresholds) > KEPT and edges[1] - edges[0] > GRAIN:
        used = np.flatnonzero(counted.genuine + counted.impostor)
        low, high = edges[used[0]], edges[used[-1] + 1]
        if high - low > (edges[-1] - edges[0]) / 2:
            break  # scores are few: all are kept
        edges = np.linspace(low, high, BINS + 1)
        counted = _histogram(blocks, edges)
    chosen = _bins_that_matter(counted, fars, thresholds)
    return _with_scores(counted, chosen, *_scores_in(blocks, edges, chosen))


def _histogram(blocks: Blocks, edges: np.ndarray) -> Tally:
    """Comparisons from each edge up to the next."""
    sums = torch.zeros(2, BINS, dtype=torch.int64)
    for block in blocks():
        bins = _bins(block.scores, edges)
        genuine = block.counted & block.same
        sums[0] += torch.bincount(bins[genuine], minlength=BINS).cpu()
        # One more bin, dropped here, takes what is no impostor comparison: faster than choosing those that are.
        bins[~block.counted | genuine] = BINS
        sums[1] += torch.bincount(bins.view(-1), minlength=BINS + 1)[:BINS].cpu()
    return Tally(edges[:-1], *(part.numpy() for part in sums))


def _bins(scores: Tensor, edges: np.ndarray) -> Tensor:
    """Bin numbers [q, G] in int32."""
    width = (edges[-1] - edges[0]) / BINS
    return (scores - edges[0]).div_(width).floor_().clamp_(0, BINS - 1).int()


def _bins_that_matter(counted: Tally, fars: Sequence[float], thresholds: Sequence[float]) -> np.ndarray:
    """[BINS] whether a bin's scores decide a rate; a bin more on either side, since edges round."""
    crossing = counted.equal_error()
    wanted = [crossing.low, crossing.high, *thresholds, *(counted.accept_rate(far).above for far in fars)]
    place = np.searchsorted(counted.scores, wanted, side="right") - 1
    chosen = np.zeros(BINS, dtype=bool)
    for offset in (-1, 0, 1):
        chosen[(place + offset).clip(0, BINS - 1)] = True
    return chosen


def _held(counted: Tally, fars: Sequence[float], thresholds: Sequence[float]) -> int:
    return int((counted.genuine + counted.impostor)[_bins_that_matter(counted, fars, thresholds)].sum())


def _scores_in(blocks: Blocks, edges: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Genuine and impostor scores in the ``chosen`` bins."""
    kept: tuple[list[Tensor], list[Tensor]] = [], []
    marked = torch.from_numpy(chosen)
    for block in blocks():
        inside = marked.to(block.scores.device)[_bins(block.scores, edges)] & block.counted
        for part, kind in zip(kept, (block.same, ~block.same), strict=True):
            part.append(block.scores[inside & kind].cpu())
    return tuple(torch.cat(part).numpy() for part in kept)


def _with_scores(counted: Tally, chosen: np.ndarray, genuine: np.ndarray, impostor: np.ndarray) -> Tally:
    """The occupied bins, and the scores themselves in place of the ``chosen`` ones."""
    other = ~chosen & (counted.genuine + counted.impostor > 0)
    scores = np.concatenate([counted.scores[other], genuine, impostor])
    genuine_counts = np.concatenate([counted.genuine[other], np.ones(len(genuine), int), np.zeros(len(impostor), int)])
    impostor_counts = np.concatenate(
        [counted.impostor[other], np.zeros(len(genuine), int), np.ones(len(impostor), int)]
    )
    distinct, place = np.unique(scores, return_inverse=True)
    sums = [np.zeros(len(distinct), np.int64) for _ in range(2)]
    for total, counts in zip(sums, (genuine_counts, impostor_counts), strict=True):
        np.add.at(total, place, counts)
    return Tally(distinct, *sums)
