"""Verification (is this the same person?): genuine and impostor scores, EER, TAR at FAR, ROC and DET curves.

The score of a pair is the cosine similarity of its features. Scores are counted in 2^20 equal bins from -1 to 1 and
never kept. A bin is 1.9e-6 wide, about the rounding error of a float32 score; an error rate is off by no more than the
share of its pairs in one bin, which is reported for the EER. Where a bin is crowded, as with the features of a model
that has hardly learned yet, all are counted again in float64, in a finer division of the bins that hold any.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.errors import ReIDError
from utils.retrieval.distances import (
    GALLERY_ROWS,
    Features,
    check_widths,
    device_of,
    release,
    rows,
    rows_per_chunk,
    squared_norms,
    wide_device,
)
from utils.retrieval.identities import JUNK, IdentityPairs

BINS = 2**20
FALSE_ACCEPT_RATES = (1e-2, 1e-3, 1e-4)

FEWEST_FALSE_ACCEPTS = 10
"""A false accept rate that fewer than this many impostor pairs would make up is not reported."""

CROWDED = 1e-3
"""Share of the genuine or of the impostor pairs that no bin should exceed."""

_BOOTSTRAP_ELEMENTS = 2**23


@dataclass(frozen=True)
class Scores:
    """Counts of genuine and impostor scores.

    Attributes:
        edges: [B + 1] ascending scores; bin b holds the scores from ``edges[b]`` up to ``edges[b + 1]``.
        genuine, impostor: [B] numbers of pairs.
    """

    edges: np.ndarray
    genuine: np.ndarray
    impostor: np.ndarray

    def rates(self) -> tuple[np.ndarray, np.ndarray]:
        """False accept and false reject rate [B + 1] when pairs are accepted from each edge on."""
        rejected = np.concatenate([[0], self.impostor.cumsum()])
        far = (rejected[-1] - rejected) / rejected[-1]
        frr = np.concatenate([[0], self.genuine.cumsum()]) / self.genuine.sum()
        return far, frr

    def coarse(self, bins: int = 200) -> Scores:
        """The same counts in at most ``bins`` bins of one width over the scores that occur: for a picture.

        A bin's pairs are where it begins: behind it, up to the next occupied one, there may be none.
        """
        used = np.flatnonzero(self.genuine + self.impostor)
        edges = np.linspace(self.edges[used[0]], self.edges[used[-1] + 1], min(bins, used[-1] + 1 - used[0]) + 1)
        counts = (np.histogram(self.edges[used], edges, weights=c[used])[0] for c in (self.genuine, self.impostor))
        return Scores(edges, *(count.round().astype(np.int64) for count in counts))


class Curve(NamedTuple):
    """Points of the ROC (far, 1 - frr) and DET (far, frr) curves, by rising false accept rate: [P] each."""

    threshold: np.ndarray
    far: np.ndarray
    frr: np.ndarray


@dataclass(frozen=True)
class VerificationMetrics:
    """How well a threshold on the score tells genuine from impostor pairs. Rates are fractions in [0, 1].

    Attributes:
        eer: equal error rate, where the false accept and the false reject rate meet, linear in between.
        eer_error: how far ``eer`` may be from the value of unbinned scores.
        eer_threshold: score at which they meet.
        eer_interval: bootstrap interval of ``eer``; None where none was asked for.
        tar_at_far: true accept rate at the lowest threshold whose false accept rate is at most the key; None where
            the impostor pairs are too few to tell.
        num_genuine, num_impostor: pairs.
        curve: at most 500 points of the ROC and DET curves.
        scores: the counts everything is taken from.
    """

    eer: float
    eer_error: float
    eer_threshold: float
    eer_interval: tuple[float, float] | None
    tar_at_far: dict[float, float | None]
    num_genuine: int
    num_impostor: int
    curve: Curve
    scores: Scores

    @property
    def threshold_text(self) -> str:
        """``eer_threshold`` with the digits that tell it from others: more where features lie close together."""
        return f"{self.eer_threshold:.{4 if self.eer_threshold < 0.999 else 8}f}"

    def lines(self) -> list[str]:
        """The numbers as a reader wants them, one line each."""
        interval = "" if self.eer_interval is None else " [{:.2%}, {:.2%}]".format(*self.eer_interval)
        text = [f"pairs: {self.num_genuine:,} genuine, {self.num_impostor:,} impostor"]
        text.append(f"EER {self.eer:.2%}{interval} at score {self.threshold_text}")
        for far, tar in self.tar_at_far.items():
            few = f"not enough impostor pairs ({self.num_impostor:,} of {_pairs_needed(far):,} needed)"
            text.append(f"TAR at FAR {far:g}: " + (few if tar is None else f"{tar:.2%}"))
        return text


def verify(
    query: Features,
    gallery: Features,
    *,
    camera_rule: str = "none",
    far: Sequence[float] = FALSE_ACCEPT_RATES,
    bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    chunk_size: int | None = None,
    device: torch.device | str | None = None,
) -> VerificationMetrics:
    """Compare every query with every gallery item, by cosine similarity.

    Args:
        query, gallery: features and labels; identity -1 (junk) takes no part.
        camera_rule: ``"market"`` leaves out genuine pairs under the same camera (or in the same session).
        far: false accept rates at which the true accept rate is wanted.
        bootstrap: resamples for the interval of the EER, 0 for none. Query identities are drawn with replacement,
            each with all its pairs (subset bootstrap, Bolle et al. 2004), since the pairs of one person depend on
            each other. It takes a second pass over the scores. Without any error there is nothing to resample, and
            the interval is (0, 0).
        confidence: share of the resamples inside the interval.
        seed: of the resampling.
        chunk_size: queries compared at a time; by default what suits the device.
        device: where to compute; by default where the query features are.

    Raises:
        ReIDError: no genuine or no impostor pair, different widths, NaN features, unknown camera rule.
    """
    check_widths(query.features, gallery.features)
    where = device_of(query.features, device)
    labels = IdentityPairs(query.pids, gallery.pids, query.camids, gallery.camids, camera_rule)
    pairs = _Pairs(query.features, gallery.features, labels, where, chunk_size)
    scores = _count(pairs)
    if _is_crowded(scores):
        pairs = _Pairs(query.features, gallery.features, labels, wide_device(where), chunk_size, divided=scores)
        scores = _count(pairs)
    if not scores.genuine.any():
        raise labels.no_match()
    if not scores.impostor.any():
        raise ReIDError("all pairs of a query and a gallery image are of the same person; verification needs two.")
    rates = scores.rates()
    eer, error, threshold = _equal_error(*rates, scores.edges)
    accepted = {f: _true_accepts(*rates, f) if scores.impostor.sum() >= _pairs_needed(f) else None for f in far}
    interval = None
    if bootstrap:
        interval = _interval(pairs, scores, bootstrap, confidence, np.random.default_rng(seed))
    return VerificationMetrics(
        eer=eer,
        eer_error=error,
        eer_threshold=threshold,
        eer_interval=interval,
        tar_at_far=accepted,
        num_genuine=int(scores.genuine.sum()),
        num_impostor=int(scores.impostor.sum()),
        curve=_curve(*rates, scores),
        scores=scores,
    )


class _Pairs:
    """All scores, tile by tile, as bin numbers.

    Attributes:
        edges: [BINS + 1] of the bins; those that are not needed have no width.
        divided: an earlier count; each bin that it found occupied is divided in ``parts`` and counted in float64.
    """

    def __init__(
        self,
        query: Tensor | np.ndarray,
        gallery: Tensor | np.ndarray,
        labels: IdentityPairs,
        device: torch.device,
        chunk_size: int | None,
        divided: Scores | None = None,
    ) -> None:
        self.query, self.gallery, self.labels, self.device = query, gallery, labels, device
        self.dtype, self.edges, self.parts = torch.float32, np.linspace(-1, 1, BINS + 1), 1
        if divided is not None:
            self._divide(np.flatnonzero(divided.genuine + divided.impostor))
        self.step = rows_per_chunk(min(len(gallery), GALLERY_ROWS), device, chunk_size)
        for features in (query, gallery):
            squared_norms(features, device)
        self.junk_query = (labels.query_pids == JUNK).to(device)

    def _divide(self, occupied: np.ndarray) -> None:
        self.dtype, self.parts = torch.float64, BINS // len(occupied)
        inner = self.edges[occupied, None] + np.arange(self.parts) * (2 / BINS / self.parts)
        self.edges = np.full(BINS + 1, self.edges[occupied[-1] + 1])
        self.edges[: inner.size] = inner.ravel()
        # Rounding may bring a score into the bin next to the one that float32 saw it in.
        place = np.searchsorted(occupied, np.arange(BINS)).clip(max=len(occupied) - 1)
        self.place = torch.from_numpy(place).to(self.device, torch.int32)
        self.occupied = torch.from_numpy(occupied).to(self.device, torch.int32)

    def _bins(self, scores: Tensor) -> Tensor:
        """Bin numbers of scores, which are overwritten."""
        position = scores.add_(1).mul_(BINS / 2)
        if self.parts == 1:
            return position.clamp_(0, BINS - 1).int()
        place = self.place[position.clamp(0, BINS - 1).int()]
        inside_bin = (position - self.occupied[place]).mul_(self.parts).clamp_(0, self.parts - 1)
        return place.mul_(self.parts).add_(inside_bin.int())

    def tiles(self) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
        """Queries; bins [r, c] of the impostor pairs, all others holding ``BINS``; query (counted from the first of
        the tile) and bin of the genuine pairs.
        """
        for column in range(0, len(self.gallery), GALLERY_ROWS):
            columns = slice(column, column + GALLERY_ROWS)
            gallery = _unit(rows(self.gallery, columns, self.device, self.dtype))
            labels = self.labels.among(columns)
            junk = labels.junk.to(self.device)
            for row in range(0, len(self.query), self.step):
                queries = slice(row, row + self.step)
                query = _unit(rows(self.query, queries, self.device, self.dtype))
                bins = self._bins(query @ gallery.T)
                blocks = labels.blocks(row, row + len(query))
                genuine = [self._take_genuine(bins, labels, row, *block) for block in blocks]
                bins[:, junk] = BINS
                bins[self.junk_query[queries]] = BINS
                yield queries, bins, *(torch.cat(parts) for parts in zip(*genuine, strict=True))
            release(self.gallery)

    def _take_genuine(
        self, bins: Tensor, labels: IdentityPairs, row: int, start: int, stop: int
    ) -> tuple[Tensor, Tensor]:
        """Query and bin of the genuine pairs of the queries ``start`` to ``stop`` in a tile that begins with ``row``;
        the tile keeps no pair of one identity.
        """
        r, c, is_match = (t.to(self.device) for t in labels.pairs(start, stop))
        r += start - row
        genuine = bins[r, c]
        bins[r, c] = BINS
        return r[is_match], genuine[is_match]


def _unit(features: Tensor) -> Tensor:
    return torch.nn.functional.normalize(features, dim=1)


def _count(pairs: _Pairs) -> Scores:
    """The histograms of all scores."""
    genuine = torch.zeros(BINS, dtype=torch.int64, device=pairs.device)
    impostor = torch.zeros(BINS + 1, dtype=torch.int64, device=pairs.device)
    for _, bins, _, genuine_bins in pairs.tiles():
        genuine += torch.bincount(genuine_bins, minlength=BINS)
        impostor += torch.bincount(bins.view(-1), minlength=BINS + 1)
    return Scores(pairs.edges, genuine.cpu().numpy(), impostor[:BINS].cpu().numpy())


def _is_crowded(scores: Scores) -> bool:
    """Whether a bin holds too many pairs, and so few bins hold any that they can be divided."""
    few = 2 * np.count_nonzero(scores.genuine + scores.impostor) <= BINS
    return few and any(counts.max() > max(1, CROWDED * counts.sum()) for counts in (scores.genuine, scores.impostor))


def _equal_error(far: np.ndarray, frr: np.ndarray, edges: np.ndarray) -> tuple[float, float, float]:
    """EER, its uncertainty and its threshold, from rates at ascending thresholds."""
    difference = frr - far
    last = int(np.searchsorted(difference, 0, side="right")) - 1
    first = int(np.searchsorted(difference, 0, side="left"))
    threshold = float(edges[last] + edges[first]) / 2
    if first <= last:
        return float(far[first]), 0.0, threshold
    share = difference[last] / (difference[last] - difference[first])
    eer = frr[last] + share * (frr[first] - frr[last])
    return float(eer), float(max(frr[first] - frr[last], far[last] - far[first])), threshold


def _true_accepts(far: np.ndarray, frr: np.ndarray, wanted: float) -> float:
    """True accept rate at the lowest threshold whose false accept rate is at most ``wanted``."""
    return float(1 - frr[np.searchsorted(-far, -wanted)])


def _pairs_needed(far: float) -> int:
    return round(FEWEST_FALSE_ACCEPTS / far)


def _curve(far: np.ndarray, frr: np.ndarray, scores: Scores) -> Curve:
    """The curve at logarithmically spaced false accept rates, from one impostor pair to all."""
    wanted = np.geomspace(1 / scores.impostor.sum(), 1, 500)
    places = np.unique(np.searchsorted(-far, -wanted))[::-1]
    return Curve(scores.edges[places], far[places], frr[places])


def _interval(
    pairs: _Pairs, scores: Scores, resamples: int, confidence: float, random: np.random.Generator
) -> tuple[float, float]:
    """Percentile interval of the EER over resamples of the query identities.

    Only scores between the lowest genuine and the highest impostor one can be where the rates meet; that range is
    cut in up to 1,024 thresholds, with linear interpolation in between.
    """
    low, high = int(scores.genuine.nonzero()[0][0]), int(scores.impostor.nonzero()[0][-1])
    if low > high:
        return 0.0, 0.0
    names, identity = torch.unique(pairs.labels.query_pids, return_inverse=True)
    count = min(2**10, max(2**6, _BOOTSTRAP_ELEMENTS // len(names)))
    places = np.unique(np.linspace(low, high + 1, count + 1).round().astype(np.int64))
    genuine, impostor = _count_by_identity(pairs, identity.to(pairs.device), len(names), places)
    eers = np.full(resamples, np.nan)  # which stays where only people without pairs are drawn
    for i in range(resamples):
        drawn = np.bincount(random.integers(len(names), size=len(names)), minlength=len(names))
        rejected, accepted = drawn @ genuine, drawn @ impostor
        if rejected[-1] and accepted[-1]:
            far, frr = 1 - accepted[:-1] / accepted[-1], rejected[:-1] / rejected[-1]
            eers[i] = _equal_error(far, frr, scores.edges[places])[0]
    tail = 50 * (1 - confidence)
    return tuple(float(p) for p in np.nanpercentile(eers, [tail, 100 - tail]))


def _count_by_identity(
    pairs: _Pairs, identity: Tensor, num_identities: int, places: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Genuine and impostor scores of each query identity below each place, and all of them: [I, len(places) + 1]."""
    cells = len(places) + 1
    cell_of = torch.from_numpy(np.searchsorted(places, np.arange(BINS), side="right"))
    # One more cell, dropped below, takes the pairs that count as neither.
    cell_of = torch.cat([cell_of, torch.tensor([cells])]).to(pairs.device, torch.int32)
    genuine = torch.zeros(num_identities * (cells + 1), dtype=torch.int64, device=pairs.device)
    impostor = torch.zeros_like(genuine)
    for queries, bins, genuine_row, genuine_bins in pairs.tiles():
        offset = identity[queries] * (cells + 1)
        cell = cell_of[bins.view(-1)].view_as(bins) + offset[:, None]
        impostor += torch.bincount(cell.view(-1), minlength=len(impostor))
        genuine += torch.bincount(cell_of[genuine_bins] + offset[genuine_row], minlength=len(genuine))
    below = (c.view(num_identities, cells + 1)[:, :cells].cumsum(1).cpu().numpy() for c in (genuine, impostor))
    return tuple(below)
