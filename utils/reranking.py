"""k-reciprocal re-ranking (Zhong et al., CVPR 2017) in bounded memory.

Queries and gallery are one set of N = Q + G items. Of each item only the nearest k1 + 1 are ranked; neighbour
encodings are sparse, and the result is made a few queries at a time. Nothing of size N x N is ever held.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.compute.device import wide_device
from utils.errors import ReIDError
from utils.retrieval.coordinates import Coordinates, Placed, check_metric, product_error, squared_distances
from utils.retrieval.expansion import mean_rows
from utils.retrieval.features import check_widths, device_of
from utils.retrieval.overlap import Sparse, shared_weight
from utils.retrieval.search import keep_smallest, smallest

_TILE_ROWS = 2**12
_SCRATCH_ELEMENTS = 2**23

_KEPT_ELEMENTS = 2**26
"""Distances of queries and gallery that are kept from the search for the nearest to the end: 256 MB."""


class _Items:
    """All items, queries first, in :class:`Coordinates` around the gallery.

    Attributes:
        features: [N, D] in float32.
        norms: squared lengths [N].
        error: of float32 products, relative.
    """

    def __init__(
        self, query: Tensor | np.ndarray, gallery: Tensor | np.ndarray, metric: str, device: torch.device
    ) -> None:
        place = Coordinates(gallery, metric)
        self.parts = tuple(Placed(part, place, device) for part in (query, gallery))
        self.norms = torch.cat([part.norms for part in self.parts])
        self.features = torch.empty(len(self.norms), query.shape[1], device=device)
        self.features[: len(query)] = self.parts[0].rows(slice(None))
        self.features[len(query) :] = self.parts[1].rows(slice(None))
        self.error = product_error(device, query.shape[1])

    def distances(self, mine: slice, others: slice) -> Tensor:
        """Squared Euclidean distances of the items ``mine`` to the items ``others``."""
        products = self.features[mine] @ self.features[others].T
        return squared_distances(products, self.norms[mine], self.norms[others])

    def pair_distances(self, row: Tensor, column: Tensor) -> Tensor:
        """Squared Euclidean distances [P] of P pairs of items."""
        parts = [torch.empty(0, device=row.device)]
        step = max(1, 2**20 // self.features.shape[1])
        for i in range(0, len(row), step):
            # index_select copies whole rows, in a third of the time that indexing takes.
            difference = self.features.index_select(0, row[i : i + step])
            difference.sub_(self.features.index_select(0, column[i : i + step]))
            parts.append(torch.linalg.vecdot(difference, difference))
        return torch.cat(parts)

    def in_float64(self) -> Iterator[Tensor]:
        """All items in float64, in pieces [n, D]."""
        for part in self.parts:
            for start in range(0, len(part), 4096):
                yield part.rows64(slice(start, start + 4096))

    def some_in_float64(self, index: Tensor) -> Tensor:
        """The items ``index`` [n] in float64, [n, D]."""
        num_query = len(self.parts[0])
        is_query = index < num_query
        found = torch.empty(len(index), self.features.shape[1], dtype=torch.float64, device=index.device)
        for part, mine, first in zip(self.parts, (is_query, ~is_query), (0, num_query), strict=True):
            found[mine] = part.rows64(index[mine] - first)
        return found


class _Neighbours(NamedTuple):
    """The nearest items of each item, itself first."""

    index: Tensor
    """[N, K]"""
    distance: Tensor
    """[N, K], divided by the item's largest distance"""
    largest: Tensor
    """[N]"""


def k_reciprocal(
    query: Tensor | np.ndarray,
    gallery: Tensor | np.ndarray,
    k1: int = 50,
    k2: int = 15,
    lambda_value: float = 0.3,
    *,
    metric: str = "euclidean",
    chunk_size: int | None = None,
    device: torch.device | str | None = None,
) -> Iterator[Tensor]:
    """Re-ranked distances (1 - lambda) * Jaccard + lambda * d, in blocks [q, G] of float32, queries in order.

    d is the squared Euclidean distance divided by the query's largest one; the Jaccard distance compares the
    k-reciprocal neighbour encodings. Within 1e-5 of the same definition in float64: sets of neighbours that
    float32 cannot distinguish are found again in float64.

    Args:
        query, gallery: features [Q, D] and [G, D].
        k1: neighbours that must be mutual; half of it, rounded half to even, for the expansion.
        k2: neighbours whose encodings are averaged; 1 switches it off.
        lambda_value: weight of the original distance, 0 to 1.
        metric: ``"cosine"`` normalises the features first.
        chunk_size: queries per block; by default what fits 32 MB.
        device: where to compute; by default where the queries are.

    Raises:
        ReIDError: a value out of range, different widths, NaN features.
    """
    check_metric(metric)
    check_widths(query, gallery)
    if k1 < 1 or k2 < 1 or not 0 <= lambda_value <= 1:
        raise ReIDError(
            f"re-ranking with k1 = {k1}, k2 = {k2}, lambda = {lambda_value}; expected k1 and k2 of at least 1 and "
            "lambda from 0 to 1. The published values are 50, 15 and 0.3."
        )
    items = _Items(query, gallery, metric, device_of(query, device))
    step = chunk_size or max(1, _SCRATCH_ELEMENTS // len(gallery))
    return _blocks(items, len(query), k1, k2, lambda_value, step)


def _blocks(items: _Items, num_query: int, k1: int, k2: int, weight: float, step: int) -> Iterator[Tensor]:
    """The work of :func:`k_reciprocal`."""
    half = round(k1 / 2)
    near, known = _nearest(items, num_query, k1, half, k2)
    encoding = mean_rows(_encode(items, near, k1, half), near.index[:, :k2])
    inverted = _invert(encoding, num_query)
    gallery = slice(num_query, None)
    for start in range(0, num_query, step):
        stop = min(start + step, num_query)
        shared = shared_weight(encoding, inverted, start, stop, len(items.norms) - num_query)
        jaccard = 1 - shared / (2 - shared)
        original = items.distances(slice(start, stop), gallery) if known is None else known[start:stop]
        yield jaccard.clamp_(min=0).mul_(1 - weight).add_(original / near.largest[start:stop, None], alpha=weight)


def _nearest(items: _Items, num_query: int, k1: int, half: int, k2: int) -> tuple[_Neighbours, Tensor | None]:
    """The max(k1 + 1, k2) nearest items of each item and its largest distance, in one pass over all pairs: each is
    computed once and counts for both of its items; and the distances [Q, G] where there is room for them.
    """
    total = len(items.norms)
    fits = num_query * (total - num_query) <= _KEPT_ELEMENTS
    known = torch.empty(num_query, total - num_query, device=items.norms.device) if fits else None
    width = min(total, max(k1 + 1, k2))
    value = torch.full((total, min(width + 1, total)), torch.inf, device=items.norms.device)
    index = torch.zeros_like(value, dtype=torch.int64)
    largest = torch.zeros(total, device=value.device)
    for first, second in _tiles(total):
        block = items.distances(first, second)
        if known is not None and first.start < num_query < second.stop:
            rows, left = slice(first.start, min(first.stop, num_query)), max(second.start, num_query)
            columns = slice(left - num_query, second.stop - num_query)
            known[rows, columns] = block[: rows.stop - rows.start, left - second.start :]
        if first == second:
            block.diagonal().fill_(-1)
        for mine, others, found in ((first, second, block), (second, first, block.T))[: 1 + (first != second)]:
            largest[mine] = torch.maximum(largest[mine], found.amax(1))
            keep_smallest(value[mine], index[mine], found, others.start)
    # After these many entries a set of neighbours ends, and who is in it must be certain.
    ends = [end for end in {k1 + 1, half + 1, k2} if end < total]
    span = (items.norms.sqrt() + items.norms.max().sqrt()) ** 2
    gap = (value[:, ends] - value[:, [end - 1 for end in ends]]).amin(1) if ends else span
    index, distance = index[:, :width].contiguous(), value[:, :width].contiguous()
    _nearest_in_float64(items, (gap <= 2 * items.error * span).nonzero()[:, 0], index, distance)
    largest.clamp_(min=torch.finfo(torch.float32).tiny)
    return _Neighbours(index, distance.clamp_(min=0) / largest[:, None], largest), known


def _tiles(total: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of the tiles on and above the diagonal of a [total, total] matrix, those on it in quarters."""
    for first, second in combinations_with_replacement(_parts(0, total, _TILE_ROWS), 2):
        if first == second:
            yield from combinations_with_replacement(_parts(first.start, first.stop, -(-_TILE_ROWS // 2)), 2)
        else:
            yield first, second


def _parts(start: int, stop: int, step: int) -> list[slice]:
    return [slice(at, min(at + step, stop)) for at in range(start, stop, step)]


def _nearest_in_float64(items: _Items, doubtful: Tensor, index: Tensor, distance: Tensor) -> None:
    """Find the neighbours of the ``doubtful`` items again, equal distances in order of index."""
    wide = wide_device(index.device)
    norms = torch.cat([part.norms64 for part in items.parts])
    grain = torch.exp2(torch.log2(norms.max().clamp(min=1e-300)).ceil() - 34)
    for part in doubtful.to(wide).split(max(1, _SCRATCH_ELEMENTS // len(norms))):
        own = items.some_in_float64(part)
        block = torch.cat([own @ others.T for others in items.in_float64()], 1)
        block = norms + norms[part, None] - 2 * block
        block = (block / grain).round_() * grain
        block[torch.arange(len(part), device=wide), part] = -1
        value, place = smallest(block, index.shape[1])
        index[part] = place.to(index.device)
        distance[part] = value.to(distance)


def _encode(items: _Items, near: _Neighbours, k1: int, half: int) -> Sparse:
    """V: for each item the weights exp(-d), summing to one, of its expanded set of k-reciprocal neighbours."""
    total = len(items.norms)
    mutual = _mutual(near.index[:, : k1 + 1])
    mutual_half = _mutual(near.index[:, : half + 1])
    size_half = mutual_half.sum(1)
    columns, values, counts = [], [], []
    step = max(1, _SCRATCH_ELEMENTS // total)
    for start in range(0, total, step):
        mine = near.index[start : start + step, : k1 + 1]
        rows_here = torch.arange(len(mine), device=mine.device)[:, None]
        chosen = mutual[start : start + step]
        member = torch.zeros(len(mine), total, dtype=torch.bool, device=mine.device)
        member[rows_here.expand_as(mine)[chosen], mine[chosen]] = True
        # The half-sized sets of all mutual neighbours, [r * k, half + 1], kept if two thirds of them are members.
        row = rows_here.expand_as(mine)[chosen]
        friends = near.index[mine[chosen], : half + 1]
        valid = mutual_half[mine[chosen]]
        overlap = (member[row[:, None], friends] & valid).sum(1)
        keep = overlap * 3 > size_half[mine[chosen]] * 2
        valid = valid[keep]
        member[row[keep, None].expand_as(valid)[valid], friends[keep][valid]] = True
        row, column = member.nonzero(as_tuple=True)
        distance = _known_distances(items, near, start, mine, row, column)
        weight = torch.exp(-distance)
        sums = torch.zeros(len(mine), device=mine.device).index_add_(0, row, weight)
        columns.append(column.int())
        values.append(weight / sums[row])
        counts.append(torch.bincount(row, minlength=len(mine)))
    return Sparse.of(torch.cat(counts), torch.cat(columns), torch.cat(values))


def _mutual(index: Tensor) -> Tensor:
    """Whether item i is among the neighbours of its own neighbour ``index[i, a]``: bool [N, k]."""
    parts = []
    step = max(1, _SCRATCH_ELEMENTS // index.shape[1] ** 2)
    for start in range(0, len(index), step):
        mine = index[start : start + step]
        self_index = torch.arange(start, start + len(mine), device=index.device)[:, None, None]
        parts.append((index[mine] == self_index).any(2))
    return torch.cat(parts)


def _known_distances(items: _Items, near: _Neighbours, start: int, mine: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Relative distances of pairs: looked up where the pair was ranked, computed elsewhere."""
    lookup = torch.full((len(mine), len(items.norms)), torch.inf, device=mine.device)
    lookup.scatter_(1, mine, near.distance[start : start + len(mine), : mine.shape[1]])
    distance = lookup[row, column]
    missing = torch.isinf(distance)
    row = row[missing] + start
    distance[missing] = items.pair_distances(row, column[missing]) / near.largest[row]
    return distance


def _invert(encoding: Sparse, num_query: int) -> Sparse:
    """For each item the gallery items in whose encoding it appears, numbered from 0, and its weight there."""
    first = encoding.start[num_query]
    count = encoding.start[num_query + 1 :] - encoding.start[num_query:-1]
    row = torch.repeat_interleave(torch.arange(len(count), dtype=torch.int32, device=count.device), count)
    column, order = torch.sort(encoding.column[first:], stable=True)
    return Sparse.of(
        torch.bincount(column, minlength=len(encoding.start) - 1), row[order], encoding.value[first:][order]
    )
