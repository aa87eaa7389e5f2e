"""What a ranking goes by: keys of query and gallery item, coarse for all pairs and exact for some."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from utils.errors import ReIDError
from utils.retrieval.distances import GALLERY_ROWS, product_error, release, rows, squared_norms

TILE_ELEMENTS = {"cpu": 2**22, "other": 2**26}
"""Keys held at a time; with what is made of them about 16 bytes each."""

_PAIR_ELEMENTS = 2**17
_PAIRS_AT_A_TIME = 2**20

_CROWDED = 1 / 8
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

    def tiles(self) -> Iterator[Tile]:
        """All keys, each once."""
        ...


def wide_device(device: torch.device) -> torch.device:
    """Where float64 lives: on the device itself except on Apple's, which has none."""
    return torch.device("cpu") if device.type == "mps" else device


class DistanceBlock:
    """Distances as they are: every key is exact. The chunk is written on."""

    def __init__(self, chunk: Tensor) -> None:
        if torch.isnan(chunk).any():
            raise ReIDError("the distances hold NaN. Were they computed from the features of a diverged model?")
        # The judge marks what it ignores by infinity.
        self.chunk = chunk.clamp_(-torch.finfo(chunk.dtype).max / 2, torch.finfo(chunk.dtype).max / 2)

    def exact(self, row: Tensor, column: Tensor) -> Tensor:
        return self.chunk[row, column].to(wide_device(self.chunk.device), torch.float64)

    def tiles(self) -> Iterator[Tile]:
        yield Tile(0, 0, self.chunk, self.chunk.new_zeros(len(self.chunk), 1))


class FeatureKeys:
    """What a query's gallery items are ranked by: |g|^2 - 2 q.g, or -q.g / |g| (the query's own length is the same
    for all of them and left out). Features are read in blocks of gallery rows and tiles of queries.
    """

    def __init__(
        self,
        query: Tensor | np.ndarray,
        gallery: Tensor | np.ndarray,
        metric: str,
        device: torch.device,
        chunk_size: int | None,
    ) -> None:
        self.query, self.gallery, self.metric, self.device = query, gallery, metric, device
        self.wide = wide_device(device)
        self.g_norms64 = squared_norms(gallery, self.wide, torch.float64)
        self.g_norms = self.g_norms64.to(device, torch.float32)
        self.g_inverse = self.g_norms.clamp(min=torch.finfo(torch.float32).tiny).rsqrt()
        columns = min(len(gallery), GALLERY_ROWS)
        self.step = chunk_size or max(1, TILE_ELEMENTS["cpu" if device.type == "cpu" else "other"] // columns)
        self.error = product_error(device, query.shape[1])
        # Size of the largest key of each query, [Q]: what its float32 rounding errors are proportional to.
        length = squared_norms(query, device).sqrt()
        largest = self.g_norms.max()
        self.scale = (largest + 2 * length * largest.sqrt()) if metric == "euclidean" else length

    def block(self, start: int, stop: int) -> FeatureBlock:
        return FeatureBlock(self, start, stop)

    def tile(self, query: Tensor, gallery: Tensor, start: int) -> Tensor:
        """Keys [r, c] in float32 for the queries [r, D] and the gallery rows [c, D] from ``start``."""
        columns = slice(start, start + len(gallery))
        if self.metric == "euclidean":
            return torch.mm(query * -2, gallery.T).add_(self.g_norms[columns])
        return torch.mm(-query, gallery.T).mul_(self.g_inverse[columns])

    def settle(self, dot: Tensor, norm: Tensor, scale: Tensor, shift: float = 0.0) -> Tensor:
        """Keys in float64 from q.g, |g|^2 and the scale, rounded to 2^-40 of the scale: far finer than float32 and
        far coarser than float64, so that the order in which a device adds hardly ever makes a tie differ. ``shift``,
        a share of the scale, is added before the rounding.
        """
        keys = norm - 2 * dot if self.metric == "euclidean" else -dot * norm.clamp(min=1e-300).rsqrt()
        grain = torch.exp2(torch.log2(scale.clamp(min=1e-300)).ceil() - 40)
        return ((keys + shift * scale) / grain).round_() * grain


class FeatureBlock:
    """The queries ``start`` to ``stop`` of :class:`FeatureKeys`."""

    def __init__(self, keys: FeatureKeys, start: int, stop: int) -> None:
        self.keys, self.start, self.stop = keys, start, stop

    def exact(self, row: Tensor, column: Tensor) -> Tensor:
        out = torch.empty(len(row), dtype=torch.float64, device=self.keys.wide)
        for i in range(0, len(row), _PAIRS_AT_A_TIME):
            part = row[i : i + _PAIRS_AT_A_TIME], column[i : i + _PAIRS_AT_A_TIME]
            (top, bottom), (left, right) = (torch.stack(index.aminmax()).tolist() for index in part)
            height, width = bottom + 1 - top, right + 1 - left
            if width <= GALLERY_ROWS and len(part[0]) > _CROWDED * height * width:
                found = self._by_product(*part, slice(top, bottom + 1), slice(left, right + 1))
            else:
                found = self._one_by_one(*part)
            out[i : i + _PAIRS_AT_A_TIME] = found
        return out

    def _one_by_one(self, row: Tensor, column: Tensor) -> Tensor:
        keys = self.keys
        scale = self._scale(row)
        out = torch.empty_like(scale)
        step = max(1, _PAIR_ELEMENTS // keys.query.shape[1])
        for i in range(0, len(row), step):
            part = slice(i, i + step)
            q = rows(keys.query, row[part] + self.start, keys.wide, torch.float64)
            g = rows(keys.gallery, column[part], keys.wide, torch.float64)
            out[part] = keys.settle((q * g).sum(1), keys.g_norms64[column[part]], scale[part])
            # Scattered reads map many pages of a file each.
            release(keys.gallery)
        return out

    def _by_product(self, row: Tensor, column: Tensor, height: slice, width: slice) -> Tensor:
        """The same for pairs that crowd a tile, as those of a collapsed model do. Where another order of adding might
        round a key the other way, it is found one by one: equal on paper is equal here, however it was computed.
        """
        keys = self.keys
        q = rows(keys.query, slice(self.start + height.start, self.start + height.stop), keys.wide, torch.float64)
        dot = (q @ rows(keys.gallery, width, keys.wide, torch.float64).T)[row - height.start, column - width.start]
        norm, scale = keys.g_norms64[column], self._scale(row)
        low, high = (keys.settle(dot, norm, scale, shift) for shift in (-_PRODUCT_ERROR, _PRODUCT_ERROR))
        unsure = low != high
        low[unsure] = self._one_by_one(row[unsure], column[unsure])
        return low

    def _scale(self, row: Tensor) -> Tensor:
        return self.keys.scale.to(self.keys.wide, torch.float64)[row + self.start]

    def tiles(self) -> Iterator[Tile]:
        keys = self.keys
        for column in range(0, len(keys.gallery), GALLERY_ROWS):
            gallery = rows(keys.gallery, slice(column, column + GALLERY_ROWS), keys.device)
            for row in range(self.start, self.stop, keys.step):
                queries = slice(row, min(row + keys.step, self.stop))
                query = rows(keys.query, queries, keys.device)
                tolerance = keys.scale[queries, None] * keys.error
                yield Tile(row - self.start, column, keys.tile(query, gallery, column), tolerance)
            release(keys.gallery)
