"""The nearest items of each item of a set: by float32, and by float64 where that cannot tell who belongs to them."""

from __future__ import annotations

from collections.abc import Collection
from itertools import product
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.compute.device import wide_device
from utils.compute.threads import in_threads
from utils.retrieval.coordinates import Coordinates, Placed, pair_distances, product_error, squared_distances
from utils.retrieval.search import ascending, keep_smallest, smallest

_TILE_ROWS = {"cpu": 2**10, "other": 2**12}
_WIDE_ELEMENTS = 2**23

_KEPT_ELEMENTS = 2**26
"""Distances of queries and gallery that are kept from the search for the nearest to the end: 256 MB."""

_SPARE = 12
"""Items kept beyond the nearest: where float32 is unsure, float64 compares these alone if no other can be nearer."""


class Items:
    """All items, queries first, in :class:`Coordinates` around the gallery.

    Attributes:
        num_query: Q, how many are queries.
        features: [N, D] in float32.
        norms: squared lengths [N].
        error: of float32 products, relative.
    """

    def __init__(
        self, query: Tensor | np.ndarray, gallery: Tensor | np.ndarray, metric: str, device: torch.device
    ) -> None:
        place = Coordinates(gallery, metric)
        self.num_query = len(query)
        self.parts = tuple(Placed(part, place, device) for part in (query, gallery))
        self.norms = torch.cat([part.norms for part in self.parts])
        self.features = torch.empty(len(self.norms), query.shape[1], device=device)
        self.features[: self.num_query] = self.parts[0].rows(slice(None))
        self.features[self.num_query :] = self.parts[1].rows(slice(None))
        self.error = product_error(device, query.shape[1])
        # Distances in float64 are rounded to this, so that the order of adding does not make a tie differ.
        largest = max(part.norms64.max() for part in self.parts)
        self._grain = torch.exp2(torch.log2(largest.clamp(min=1e-300)).ceil() - 34)

    def distances(self, mine: slice, others: slice) -> Tensor:
        """Squared Euclidean distances of the items ``mine`` to the items ``others``."""
        products = self.features[mine] @ self.features[others].T
        return squared_distances(products, self.norms[mine], self.norms[others])

    def pair_distances(self, row: Tensor, column: Tensor) -> Tensor:
        """Squared Euclidean distances [P] of P pairs of items."""
        out = torch.empty(len(row), device=row.device)
        step = max(1, 2**20 // self.features.shape[1])

        def compute(part: tuple[Tensor, Tensor, Tensor]) -> None:
            # index_select copies whole rows, in a third of the time that indexing takes.
            one, other = (self.features.index_select(0, index) for index in part[:2])
            torch.linalg.vecdot(one.sub_(other), one, out=part[2])

        in_threads(compute, zip(*(values.split(step) for values in (row, column, out)), strict=True), row.device)
        return out

    def pair_distances64(self, row: Tensor, column: Tensor) -> Tensor:
        """The same in float64, rounded to the items' grain."""
        found = torch.empty(len(row), dtype=torch.float64, device=row.device)
        for one, other in product((0, 1), repeat=2):
            pairs = ((row >= self.num_query) == one) & ((column >= self.num_query) == other)
            left, right = row[pairs] - one * self.num_query, column[pairs] - other * self.num_query
            found[pairs] = pair_distances(self.parts[one], self.parts[other], left, right)
        return self._rounded(found)

    def distances64(self, index: Tensor) -> Tensor:
        """Squared Euclidean distances of the items ``index`` [n] to all, [n, N], in float64 as well."""
        own = torch.empty(len(index), self.features.shape[1], dtype=torch.float64, device=index.device)
        norms = torch.cat([part.norms64 for part in self.parts])
        for number, part in enumerate(self.parts):
            mine = (index >= self.num_query) == number
            own[mine] = part.rows64(index[mine] - number * self.num_query)
        pieces = [
            own @ part.rows64(slice(start, start + 4096)).T
            for part in self.parts
            for start in range(0, len(part), 4096)
        ]
        return self._rounded(norms + norms[index, None] - 2 * torch.cat(pieces, 1))

    def _rounded(self, distances: Tensor) -> Tensor:
        return (distances / self._grain).round_() * self._grain


class Neighbours(NamedTuple):
    """The nearest items of each item, itself first."""

    index: Tensor
    """[N, K]"""
    distance: Tensor
    """[N, K], divided by the item's largest distance"""
    largest: Tensor
    """[N]"""


def nearest(items: Items, width: int, ends: Collection[int]) -> tuple[Neighbours, Tensor | None]:
    """The ``width`` nearest items of each item and its largest distance, in one pass over all pairs: each is computed
    once and counts for both of its items; and the distances [Q, G] where there is room for them.

    Args:
        ends: for each of these numbers n, of at most ``width``, the set of the n nearest is certain. Elsewhere the
            order is that of float32.
    """
    total, device = len(items.norms), items.norms.device
    width = min(width, total)
    value = torch.full((total, min(width + _SPARE, total)), torch.inf, device=device)
    index = torch.zeros_like(value, dtype=torch.int64)
    largest, known = _search(items, value, index)
    value, index = ascending(value, index)  # whichever tile came first
    span = (items.norms.sqrt() + items.norms.max().sqrt()) ** 2
    ends = [end for end in ends if end < total]
    gap = (value[:, ends] - value[:, [end - 1 for end in ends]]).amin(1) if ends else span
    doubt = 2 * items.error * span
    doubtful = gap <= doubt
    complete = value[:, -1] - value[:, width - 1] > doubt
    if value.shape[1] == total:
        complete.fill_(True)
    if device.type != "cpu":  # one product of all is faster there than many small ones of pairs
        complete.fill_(False)
    found = index[:, :width].contiguous(), value[:, :width].contiguous()
    _among_kept(items, (doubtful & complete).nonzero()[:, 0], index, *found)
    _among_all(items, (doubtful & ~complete).nonzero()[:, 0], *found)
    largest.clamp_(min=torch.finfo(torch.float32).tiny)
    return Neighbours(found[0], found[1].clamp_(min=0).div_(largest[:, None]), largest), known


def _search(items: Items, value: Tensor, index: Tensor) -> tuple[Tensor, Tensor | None]:
    """Bring the smallest distances of each item into ``value`` and ``index`` [N, k], its own as -1; the largest ones
    [N], and the distances of queries and gallery.
    """
    total, num_query, device = len(items.norms), items.num_query, value.device
    largest = torch.zeros(total, device=device)
    fits = num_query * (total - num_query) <= _KEPT_ELEMENTS
    known = torch.empty(num_query, total - num_query, device=device) if fits else None
    step = _TILE_ROWS["cpu" if device.type == "cpu" else "other"]
    parts = [slice(start, min(start + step, total)) for start in range(0, total, step)]
    locks = {part.start: Lock() for part in parts}

    def search(tile: tuple[slice, slice]) -> None:
        first, second = tile
        block = items.distances(first, second)
        if known is not None and first.start < num_query < second.stop:
            rows, left = slice(first.start, min(first.stop, num_query)), max(second.start, num_query)
            columns = slice(left - num_query, second.stop - num_query)
            known[rows, columns] = block[: rows.stop - rows.start, left - second.start :]
        if first == second:
            block.diagonal().fill_(-1)
        for mine, others, found in ((first, second, block), (second, first, block.T))[: 1 + (first != second)]:
            found = found.contiguous()
            farthest = found.amax(1)
            with locks[mine.start]:
                largest[mine] = torch.maximum(largest[mine], farthest)
                keep_smallest(value[mine], index[mine], found, others.start)

    # By diagonals: tiles of one time are of different rows and columns.
    tiles = ((parts[i], parts[i + step]) for step in range(len(parts)) for i in range(len(parts) - step))
    in_threads(search, tiles, device)
    return largest, known


def _among_kept(items: Items, doubtful: Tensor, kept: Tensor, index: Tensor, distance: Tensor) -> None:
    """Find the nearest of the ``doubtful`` items again among those ``kept`` [N, k] for them, in float64 on the CPU."""

    def again(part: Tensor) -> None:
        columns = kept[part].sort(1)[0]
        row = part.repeat_interleave(columns.shape[1])
        found = items.pair_distances64(row, columns.flatten()).view(columns.shape)
        found[columns == part[:, None]] = -1
        value, order = found.sort(dim=1, stable=True)
        index[part] = columns.gather(1, order[:, : index.shape[1]])
        distance[part] = value[:, : index.shape[1]].to(distance)

    in_threads(again, doubtful.split(64))


def _among_all(items: Items, doubtful: Tensor, index: Tensor, distance: Tensor) -> None:
    """The same among all items."""
    for part in doubtful.to(wide_device(index.device)).split(max(1, _WIDE_ELEMENTS // len(items.norms))):
        found = items.distances64(part)
        found[torch.arange(len(part), device=part.device), part] = -1
        value, place = smallest(found, index.shape[1])
        index[part] = place.to(index.device)
        distance[part] = value.to(distance)
