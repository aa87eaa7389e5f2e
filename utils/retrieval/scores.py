"""The sorting keys of a ranking: for query and gallery item, coarse for all pairs and exact for some."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from utils.compute.device import wide_device
from utils.compute.threads import in_threads
from utils.errors import ReIDError
from utils.retrieval.compiled import compiled_loops
from utils.retrieval.coordinates import Coordinates, Placed, pair_distances, product_error, squared_distances
from utils.retrieval.features import GALLERY_ROWS, release

TILE_ELEMENTS = {"cpu": 2**21, "other": 2**26}
"""Keys held at a time by all threads; with what is made of them 16 bytes each, up to 50 where features are hard."""

TILE_COLUMNS = {"cpu": 2**12, "other": GALLERY_ROWS}
"""Gallery rows that a tile has: a product that stays in a CPU's cache is a seventh faster than one of long rows."""

_FEWEST_ROWS = 32
"""Queries of a tile, however many threads there are."""

_PAIRS_AT_A_TIME = 2**20

_WORTH_COMPILED = 2**24
"""Pairs of a query and a gallery item from which on exact keys are computed by a compiled loop."""

_DENSE = 1 / 8
"""Share of a tile's pairs from which on a matrix product of all of them is faster than those pairs one by one."""

_PRODUCT_ERROR = 2.0**-46
"""Bound on the error of keys from a float64 product, as a share of the scale: 64 rounding units."""


class Tile(NamedTuple):
    """Keys of some queries (rows) and gallery items (columns) of a block; a smaller key ranks first."""

    row: int
    column: int
    keys: Tensor
    """[r, c]"""
    tolerance: Tensor
    """[r, 1], how far a key may be from the exact one."""


class Block(Protocol):
    """Some queries with the whole gallery. Row numbers count within the block."""

    def exact(self, row: Tensor, column: Tensor) -> Tensor:
        """Exact keys [P] in float64 of P pairs; equal on paper means equal here."""
        ...

    def for_each_tile(self, work: Callable[[Tile], None]) -> None:
        """Do ``work`` with all keys, each once; tiles of different rows may come at the same time, in threads."""
        ...


class DistanceBlock:
    """Distances as they are: every key is exact. The chunk is written on."""

    def __init__(self, chunk: Tensor) -> None:
        if torch.isnan(chunk).any():
            raise ReIDError("the distances hold NaN. Were they computed from the features of a diverged model?")
        # The evaluator marks what it ignores by infinity.
        self.chunk = chunk.clamp_(-torch.finfo(chunk.dtype).max / 2, torch.finfo(chunk.dtype).max / 2)

    def exact(self, row: Tensor, column: Tensor) -> Tensor:
        return self.chunk[row, column].to(wide_device(self.chunk.device), torch.float64)

    def for_each_tile(self, work: Callable[[Tile], None]) -> None:
        work(Tile(0, 0, self.chunk, self.chunk.new_zeros(len(self.chunk), 1)))


class FeatureKeys:
    """What a query's gallery items are ranked by: |q - g|^2 - |q|^2 = |g|^2 - 2 q.g, in :class:`Coordinates` around the
    gallery, so for the cosine of unit vectors. Features are read in blocks of gallery rows and tiles of queries.
    """

    def __init__(
        self,
        query: Tensor | np.ndarray,
        gallery: Tensor | np.ndarray,
        metric: str,
        device: torch.device,
        chunk_size: int | None,
    ) -> None:
        place = Coordinates(gallery, metric)
        self.query, self.gallery = Placed(query, place, device), Placed(gallery, place, device)
        kind = "cpu" if device.type == "cpu" else "other"
        self.columns = TILE_COLUMNS[kind]
        worth = device.type == "cpu" and len(query) * len(gallery) >= _WORTH_COMPILED
        self.loops = compiled_loops() if worth else None
        threads = torch.get_num_threads() if kind == "cpu" else 1
        self.step = chunk_size or max(_FEWEST_ROWS, TILE_ELEMENTS[kind] // (min(len(gallery), self.columns) * threads))
        self.error = product_error(device, query.shape[1])
        # Size of the largest key of each query, [Q]: what its float32 rounding errors are proportional to.
        largest, norms = self.gallery.norms64.max(), self.query.norms64
        self.scale64 = largest + 2 * (norms * largest).sqrt()
        # Exact keys have errors of their own: a share of |q|^2 far from the gallery, and that of unit vectors.
        least = torch.maximum(norms / 256, (norms + largest).sqrt() / 4) if place.cosine else norms / 256
        self.scale64 = torch.maximum(self.scale64, least)
        # How far a float32 key may be from the exact one, [Q].
        tolerance64 = self.scale64 * self.error
        if self.query.rounded or self.gallery.rounded:  # 2 (|q| error of g + |g| error of q), with room
            tolerance64 += 2**-21 * (norms.sqrt() + largest.sqrt())
        self.tolerance = tolerance64.to(device, torch.float32)

    def block(self, start: int, stop: int) -> FeatureBlock:
        return FeatureBlock(self, start, stop)

    def tile(self, query: Tensor, gallery: Tensor, start: int) -> Tensor:
        """Keys [r, c] in float32 for the queries [r, D] and the gallery rows [c, D] from ``start``."""
        return (query.mul_(-2) @ gallery.T).add_(self.gallery.norms[start : start + len(gallery)])

    def exact_keys(self, distance: Tensor, query: Tensor, shift: float = 0.0) -> Tensor:
        """Keys in float64 from squared distances [P] to the queries with the numbers ``query``, rounded to 2^-40 of
        the scale: far finer than float32 and far coarser than float64, so that the order in which a device adds hardly
        ever makes a tie differ. ``shift``, a share of the scale and of |q|^2, is added before the rounding.
        """
        scale, norm = self.scale64[query], self.query.norms64[query]
        grain = torch.exp2(torch.log2(scale.clamp(min=1e-300)).ceil() - 40)
        return ((distance + shift * (scale + norm)) / grain).round_() * grain - norm


class FeatureBlock:
    """The queries ``start`` to ``stop`` of :class:`FeatureKeys`."""

    def __init__(self, keys: FeatureKeys, start: int, stop: int) -> None:
        self.keys, self.start, self.stop = keys, start, stop

    def exact(self, row: Tensor, column: Tensor) -> Tensor:
        out = torch.empty(len(row), dtype=torch.float64, device=self.keys.scale64.device)
        for i in range(0, len(row), _PAIRS_AT_A_TIME):
            part = row[i : i + _PAIRS_AT_A_TIME], column[i : i + _PAIRS_AT_A_TIME]
            (top, bottom), (left, right) = (torch.stack(index.aminmax()).tolist() for index in part)
            height, width = bottom + 1 - top, right + 1 - left
            if width <= GALLERY_ROWS and len(part[0]) > _DENSE * height * width:
                found = self._by_product(*part, slice(top, bottom + 1), slice(left, right + 1))
            else:
                found = self._one_by_one(*part)
            out[i : i + _PAIRS_AT_A_TIME] = found
        return out

    def distances(self, row: Tensor, column: Tensor) -> Tensor:
        """Squared distances [P] of P pairs in float64, each from its own difference."""
        return pair_distances(self.keys.query, self.keys.gallery, row + self.start, column, self.keys.loops)

    def _one_by_one(self, row: Tensor, column: Tensor) -> Tensor:
        return self.keys.exact_keys(self.distances(row, column), row + self.start)

    def _by_product(self, row: Tensor, column: Tensor, height: slice, width: slice) -> Tensor:
        """The same for a tile with many pairs, as a collapsed model has them. Where another order of adding might
        round a key the other way, it is found one by one: equal on paper is equal here, however it was computed.
        """
        keys = self.keys
        queries = slice(self.start + height.start, self.start + height.stop)
        products = keys.query.rows64(queries) @ keys.gallery.rows64(width).T
        distance = squared_distances(products, keys.query.norms64[queries], keys.gallery.norms64[width])
        distance = distance[row - height.start, column - width.start]
        low, high = (keys.exact_keys(distance, row + self.start, shift) for shift in (-_PRODUCT_ERROR, _PRODUCT_ERROR))
        unsure = low != high
        low[unsure] = self._one_by_one(row[unsure], column[unsure])
        return low

    def for_each_tile(self, work: Callable[[Tile], None]) -> None:
        keys = self.keys
        for column in range(0, len(keys.gallery), keys.columns):
            gallery = keys.gallery.quick_rows(slice(column, column + keys.columns))

            def search(row: int, column: int = column, gallery: Tensor = gallery) -> None:
                queries = slice(row, min(row + keys.step, self.stop))
                tile = keys.tile(keys.query.quick_rows(queries), gallery, column)
                work(Tile(row - self.start, column, tile, keys.tolerance[queries, None]))

            in_threads(search, range(self.start, self.stop, keys.step), gallery.device)
            release(keys.gallery.features)
