"""Rankings by a score that compares two images at a time: of all pairs, or of the nearest of each query.

Such scores (agreeing points, phase-only correlation) come from no feature, so each pair costs time. Scores and ranks
lie in temporary files: memory holds a block of queries, never the whole table.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.retrieval.identities import IdentityPairs
from utils.retrieval.search import Nearest

_ROWS = 64
"""Queries read at a time."""


class Shortlist(NamedTuple):
    """Gallery images of one query that are to be scored, nearest first: the query's row and their columns [n]."""

    query: int
    columns: np.ndarray


Score = Callable[[Sequence[Shortlist]], Iterable[np.ndarray]]
"""The scores [n] of each shortlist, in order; a higher score is more alike."""


@dataclass(frozen=True)
class LocalScores:
    """Scores of query and gallery, and the ranking that follows from them.

    Attributes:
        name: of the score, in words.
        scores: [Q, G] float32 in a temporary file; ``beyond`` where no score was computed.
        standing: [Q, G] float32, likewise: minus the rank, from 0, of each gallery image; higher is better.
        beyond: lower than or equal to every score.
    """

    name: str
    scores: np.ndarray
    standing: np.ndarray
    beyond: float

    @property
    def span(self) -> tuple[float, float]:
        """Lowest and highest score."""
        ends = [(float(row.min()), float(row.max())) for row in self.scores]
        return min(low for low, _ in ends), max(high for _, high in ends)

    def places(self) -> Iterator[np.ndarray]:
        """Ranks [q, G] from 0, blocks of queries in order."""
        for start in range(0, len(self.standing), _ROWS):
            yield -self.standing[start : start + _ROWS]

    def nearest(self, pairs: IdentityPairs, count: int) -> Nearest:
        """The first ``count`` of each ranking that count for the query, with their scores; index -1 where too few."""
        found, start = [], 0
        for places in self.places():
            places[tuple(part.numpy() for part in pairs.ignored(start, start + len(places)))] = np.inf
            index = np.argsort(places, axis=1, kind="stable")[:, :count]
            scores = np.take_along_axis(self.scores[start : start + len(places)], index, 1)
            index[np.isinf(np.take_along_axis(places, index, 1))] = -1
            found.append((torch.from_numpy(scores), torch.from_numpy(index)))
            start += len(places)
        return Nearest(*(torch.cat(parts) for parts in zip(*found, strict=True)), 1.0)


def order_by(
    score: Score,
    name: str,
    distances: Iterable[Tensor],
    pairs: IdentityPairs,
    nearest: int | None = None,
    beyond: float = 0.0,
) -> LocalScores:
    """Order the ``nearest`` gallery images of each query by their score, equal ones by distance; the rest follow by
    distance, so that nothing drops out. Equal distances come by gallery index.

    Args:
        score: of pairs.
        name: of the score.
        distances: [q, G], blocks of queries in order.
        pairs: which gallery images do not count for a query; these take no place in a shortlist.
        nearest: length of the shortlists; None: every image that counts is scored.
        beyond: score of the others, which lowers to the lowest score found where that is lower.
    """
    shape = len(pairs.query_pids), len(pairs.gallery_pids)
    scores, standing = _table(shape), _table(shape)
    start, lowest = 0, beyond
    for block in distances:
        orders, lists = zip(*_shortlists(block, start, pairs, nearest), strict=True)
        for order, (query, columns), found in zip(orders, lists, score(lists), strict=True):
            found = np.asarray(found, np.float32)
            scores[query] = np.nan
            scores[query, columns] = found
            lowest = min(lowest, float(found.min(initial=np.inf)))
            # The shortlist comes nearest first, and a stable sort keeps that among equal scores.
            ranked = np.concatenate([columns[np.argsort(-found, kind="stable")], order[len(columns) :]])
            standing[query, ranked] = -np.arange(shape[1], dtype=np.float32)
        start += len(block)
    for row in scores:
        row[np.isnan(row)] = lowest
    return LocalScores(name, scores, standing, lowest)


def _table(shape: tuple[int, int]) -> np.ndarray:
    """Room for float32 numbers in a temporary file."""
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, np.float32, "w+", shape=shape)


def _shortlists(
    block: Tensor, start: int, pairs: IdentityPairs, nearest: int | None
) -> Iterator[tuple[np.ndarray, Shortlist]]:
    """All columns [G] of each row in order of distance, those that do not count last, and the shortlist among them."""
    block = block.detach().cpu().clone()
    ignored = pairs.ignored(start, start + len(block))
    block[ignored] = torch.inf
    left_out = torch.bincount(ignored[0], minlength=len(block)).tolist()
    for number, row in enumerate(block):
        order = row.sort(stable=True)[1].numpy()
        counted = len(order) - left_out[number]
        length = counted if nearest is None else min(nearest, counted)
        yield order, Shortlist(start + number, order[:length])
