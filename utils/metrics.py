"""CMC, mAP and mINP from the ranks of the matches alone, in bounded memory.

A query's matches are few and the gallery is large, so nothing is sorted but the matches. For each query the
float32 distances of all gallery items are dropped into the gaps between the distances of its matches; the few
items closer to a match than float32 can resolve are compared in float64. The result is that of a full sort, on every
device, of float64 distances rounded to 2^-40 of the query's largest one in coordinates around the gallery's middle:
distances that are equal or closer than that rank by gallery index. The rounding makes ties independent of the order in
which a device adds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from utils.errors import ReIDError, require_choice
from utils.retrieval.coordinates import check_metric
from utils.retrieval.distances import distance_chunks, save_distances
from utils.retrieval.features import Features, check_widths, device_of, labels, release
from utils.retrieval.identities import IdentityPairs
from utils.retrieval.ranks import negatives_between_matches
from utils.retrieval.scores import TILE_ELEMENTS, Block, DistanceBlock, FeatureKeys
from utils.retrieval.visible import VISIBLE

__all__ = [
    "Features",
    "RankingMetrics",
    "distance_chunks",
    "evaluate",
    "evaluate_distances",
    "save_distances",
]

AVERAGE_PRECISIONS = ("standard", "trapezoid")


@dataclass(frozen=True)
class RankingMetrics:
    """Metrics of a ranking. All values are fractions in [0, 1].

    Attributes:
        cmc: [max_rank], share of the valid queries whose first match is among the first k items; where the gallery
            is smaller than max_rank the last value is held.
        mAP: mean average precision over the valid queries.
        mINP: mean inverse negative penalty (Ye et al. 2020): number of matches / rank of the last match.
        num_queries: queries with at least one match in the gallery.
        num_skipped: queries without one, which count nowhere.
        average_precision: [Q], NaN where skipped.
        first_match: [Q] rank of the first right item, from 1; 0 where skipped.
    """

    cmc: np.ndarray
    mAP: float  # noqa: N815
    mINP: float  # noqa: N815
    num_queries: int
    num_skipped: int
    average_precision: np.ndarray
    first_match: np.ndarray

    def rank(self, k: int) -> float:
        """CMC at rank ``k`` = 1, 2, ...; beyond max_rank its last value."""
        if k < 1:
            raise ValueError(f"ranks start at 1, got {k}")
        return float(self.cmc[min(k, len(self.cmc)) - 1])


def evaluate(
    query: Features,
    gallery: Features,
    *,
    camera_rule: str = "market",
    metric: str = "euclidean",
    max_rank: int = 50,
    average_precision: str = "standard",
    chunk_size: int | None = None,
    device: torch.device | str | None = None,
) -> RankingMetrics:
    """CMC, mAP and mINP from features.

    Args:
        query, gallery: features and labels; see :class:`Features`. Both may be memory-mapped.
        camera_rule: ``"market"`` ignores gallery items with the query's identity *and* camera; ``"none"`` ignores
            nothing. Gallery items with identity -1 (junk) are always ignored.
        metric: ``"euclidean"``, ``"cosine"`` or ``"visible"``, see :func:`distance_chunks`.
        max_rank: length of the CMC curve.
        average_precision: ``"standard"`` is the mean of the precisions at the matches (Market-1501);
            ``"trapezoid"`` the mean of (precision before + precision at) / 2 (hand recognition papers).
        chunk_size: queries compared at a time; by default what suits the device. Memory grows with it, the result
            does not change.
        device: where to compute; by default where the query features are.

    Raises:
        ReIDError: a value out of range, features of different widths or with NaN, or no query with a match.
    """
    if metric == VISIBLE:
        chunks = distance_chunks(query.features, gallery.features, metric=metric, chunk_size=chunk_size, device=device)
        known = query.pids, gallery.pids, query.camids, gallery.camids
        rules = {"camera_rule": camera_rule, "max_rank": max_rank, "average_precision": average_precision}
        return evaluate_distances(chunks, *known, **rules)
    check_metric(metric)
    check_widths(query.features, gallery.features)
    judge = RankingEvaluator(query.pids, gallery.pids, query.camids, gallery.camids, camera_rule, average_precision)
    where = device_of(query.features, device)
    keys = FeatureKeys(query.features, gallery.features, metric, where, chunk_size)
    for start, stop in judge.labels.blocks():
        judge.add(keys.block(start, stop), start, stop, where)
    return judge.result(max_rank)


def evaluate_distances(
    distances: Tensor | np.ndarray | Iterable[Tensor | np.ndarray],
    query_pids: Tensor | np.ndarray,
    gallery_pids: Tensor | np.ndarray,
    query_camids: Tensor | np.ndarray,
    gallery_camids: Tensor | np.ndarray,
    *,
    camera_rule: str = "market",
    max_rank: int = 50,
    average_precision: str = "standard",
) -> RankingMetrics:
    """CMC, mAP and mINP from distances: re-ranked ones, stored ones, those of another program.

    Args:
        distances: [Q, G] tensor, array or memory map, or blocks of its rows in order, such as
            :func:`~utils.reranking.k_reciprocal` yields. Infinity is allowed and ranks last.
        query_pids, query_camids: [Q].
        gallery_pids, gallery_camids: [G].

    The other arguments are those of :func:`evaluate`.

    Raises:
        ReIDError: as :func:`evaluate`, or the shape does not fit the labels.
    """
    judge = RankingEvaluator(
        *map(labels, (query_pids, gallery_pids, query_camids, gallery_camids)), camera_rule, average_precision
    )
    expected = len(judge.labels.query_pids), len(judge.labels.gallery_pids)
    start = 0
    for chunk in _row_chunks(distances, expected[1]):
        stop = start + len(chunk)
        if stop > expected[0] or chunk.shape[1] != expected[1]:
            raise _wrong_shape((stop, chunk.shape[1]), expected)
        judge.add(DistanceBlock(chunk), start, stop, chunk.device)
        start = stop
    if start != expected[0]:
        raise _wrong_shape((start, expected[1]), expected)
    return judge.result(max_rank)


def _wrong_shape(found: tuple[int, int], expected: tuple[int, int]) -> ReIDError:
    return ReIDError(
        f"the distances have {found[0]} rows and {found[1]} columns (as far as read); expected {expected[0]} queries "
        f"and {expected[1]} gallery items. Were they computed from the same split?"
    )


def _row_chunks(distances: Tensor | np.ndarray | Iterable[Tensor | np.ndarray], columns: int) -> Iterator[Tensor]:
    """Blocks of rows that the evaluator may overwrite."""
    whole = isinstance(distances, Tensor | np.ndarray)
    for part in [distances] if whole else distances:
        on_cpu = not isinstance(part, Tensor) or part.device.type == "cpu"
        step = max(1, TILE_ELEMENTS["cpu" if on_cpu else "other"] // max(1, columns))
        for start in range(0, len(part), step):
            chunk = part[start : start + step]
            chunk = chunk.detach().clone() if isinstance(chunk, Tensor) else torch.from_numpy(np.array(chunk))
            release(part)
            yield (chunk if chunk.dtype in (torch.float32, torch.float64) else chunk.float()).contiguous()


class RankingEvaluator:
    """Labels and rules; takes blocks of queries in any order and adds up the metrics."""

    def __init__(
        self,
        query_pids: Tensor,
        gallery_pids: Tensor,
        query_camids: Tensor,
        gallery_camids: Tensor,
        camera_rule: str,
        average_precision: str,
    ) -> None:
        require_choice("TEST.AP", average_precision, AVERAGE_PRECISIONS)
        self.labels = IdentityPairs(query_pids, gallery_pids, query_camids, gallery_camids, camera_rule)
        self.average_precision = average_precision
        queries = len(query_pids)
        self.precision = np.full(queries, np.nan)
        self.penalty = np.full(queries, np.nan)
        self.first_rank = np.full(queries, -1, dtype=np.int64)

    def add(self, block: Block, start: int, stop: int, device: torch.device) -> None:
        """Evaluate the queries ``start`` to ``stop``, which are the rows of ``block``."""
        row, column, is_match = self.labels.pairs(start, stop)
        if not is_match.any():
            return
        size = stop - start
        slots = negatives_between_matches(block, row, column, is_match, self.labels.junk, size, device)
        self._score(slots, torch.bincount(row[is_match], minlength=size), start)

    def _score(self, slots: Tensor, count: Tensor, start: int) -> None:
        """Average precision and so on from the number of negatives in each gap between the matches, [b, K + 1]."""
        wanted = count > 0
        hit = torch.arange(1, slots.shape[1], dtype=torch.float64)
        rank = slots[wanted].cumsum(1)[:, :-1] + hit
        count = count[wanted, None]
        precision = hit / rank
        if self.average_precision == "trapezoid":
            precision = (precision + torch.where(rank > 1, (hit - 1) / (rank - 1), 1.0)) / 2
        mine = (wanted.nonzero()[:, 0] + start).numpy()
        self.precision[mine] = ((precision * (hit <= count)).sum(1) / count[:, 0]).numpy()
        self.penalty[mine] = (count / rank.gather(1, count - 1))[:, 0].numpy()
        self.first_rank[mine] = rank[:, 0].long().numpy() - 1

    def result(self, max_rank: int) -> RankingMetrics:
        valid = self.first_rank >= 0
        if not valid.any():
            raise self.labels.no_match()
        found_at = np.bincount(self.first_rank[valid].clip(max=max_rank), minlength=max_rank + 1)[:max_rank]
        return RankingMetrics(
            cmc=found_at.cumsum() / valid.sum(),
            mAP=float(self.precision[valid].mean()),
            mINP=float(self.penalty[valid].mean()),
            num_queries=int(valid.sum()),
            num_skipped=int((~valid).sum()),
            average_precision=self.precision,
            first_match=self.first_rank + 1,
        )
