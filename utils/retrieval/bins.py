"""How many numbers lie between boundaries, row by row.

On the CPU a compiled loop counts many float32 numbers where numba is installed, else torch does, with the same result.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from utils.compute.threads import in_threads
from utils.retrieval.compiled import WORTH_COMPILED, compiled_loops, in_pieces

_FEW = 1 / 12
"""Share of the numbers up to which those before the last boundary are picked out; of more, a histogram counts most."""

_SAMPLED = 2**8
"""Numbers of a row by which that share is estimated."""

_CELLS = 2**10


class Bins:
    """The intervals between the boundaries of each row.

    Args:
        bounds: [r, b] ascending, b even; infinity where a row has fewer.
    """

    def __init__(self, bounds: Tensor) -> None:
        self.bounds = bounds

    def count(self, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """How many of the keys [r, c] lie in each bin, [r, b + 1]; row and column of those in the odd bins.

        The last bin may be short. Keys are of the boundaries' type, without NaN.
        """
        if keys.dtype == torch.float64:
            return self._by_search(keys)
        sample = keys[:, :: -(-keys.shape[1] // _SAMPLED)]
        few = torch.count_nonzero(sample <= self.last) <= _FEW * sample.numel()
        # Boundaries at both ends of float32, as infinite distances have, are too far apart for cells.
        if few or torch.isposinf(self.span).any():
            return self._one_by_one(keys, (keys <= self.last).view(-1).nonzero()[:, 0])
        if keys.device.type == "cpu" and keys.numel() >= WORTH_COMPILED and (loops := compiled_loops()):
            return self._compiled(loops.count_bins, keys)
        place, counts = self._histogram(keys)
        others, row, column = self._one_by_one(keys, place)
        return counts.add_(others), row, column

    def _by_search(self, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        bins = torch.searchsorted(self.bounds, keys)
        row, column = (bins & 1).nonzero(as_tuple=True)
        width = self.bounds.shape[1] + 1
        bins += torch.arange(len(keys), device=bins.device)[:, None] * width
        return torch.bincount(bins.view(-1), minlength=len(keys) * width).view(len(keys), width), row, column

    def _compiled(self, loop: Callable, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        counts = torch.zeros(len(keys), self.bounds.shape[1] + 1, dtype=torch.int64)
        places = torch.empty(keys.shape, dtype=torch.int32)
        parts = in_pieces(keys, self.bounds, self.low[:, 0], self.scale[:, 0], self.below, counts, places)

        def count(part: tuple[Tensor, ...]) -> Tensor:
            *tables, own = part
            own = own.view(-1)
            return own[: loop(*(table.numpy() for table in (*tables, own)))].long()

        found, height = in_threads(count, parts), len(parts[0][0])
        place = torch.cat([own + number * height * keys.shape[1] for number, own in enumerate(found)])
        return counts, place // keys.shape[1], place % keys.shape[1]

    def _one_by_one(self, keys: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The keys at the positions ``place`` alone."""
        row, each = place // keys.shape[1], torch.arange(len(keys), device=keys.device)[:, None]
        bounds = _ordered(each, self.bounds).view(-1)
        bins = torch.searchsorted(bounds, _ordered(row, keys.view(-1).index_select(0, place)))
        inside = (bins & 1).nonzero()[:, 0]  # rows have an even number of boundaries
        width = self.bounds.shape[1] + 1
        counts = torch.bincount(bins + row, minlength=len(keys) * width).view(len(keys), width)
        return counts, row[inside], place[inside] % keys.shape[1]

    def _histogram(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Positions, in all keys, of those in a cell with a boundary or between two cells of one interval; how many of
        the others lie in each bin.
        """
        first = torch.arange(0, len(keys) * _CELLS, _CELLS, dtype=torch.int32, device=keys.device)[:, None]
        cell = self._cell_of(keys).add_(first).view(-1)
        found = torch.bincount(cell, minlength=len(keys) * _CELLS).view(len(keys), _CELLS)
        below = self.below[:, :-1]
        unsure = (self.below.diff(dim=1) > 0) | (below % 2 > 0)
        counts = found.new_zeros(len(keys), self.bounds.shape[1] + 1)
        counts.scatter_add_(1, below.long(), found.masked_fill(unsure, 0))
        return unsure.view(-1).index_select(0, cell).nonzero()[:, 0], counts

    @cached_property
    def last(self) -> Tensor:
        """[r, 1] the last finite boundary."""
        return self.bounds.masked_fill(torch.isinf(self.bounds), -torch.inf).amax(1, keepdim=True)

    @cached_property
    def low(self) -> Tensor:
        """[r, 1] where the cells begin: the range of a row's boundaries is divided into them."""
        return torch.where(torch.isfinite(self.bounds[:, :1]), self.bounds[:, :1], 0.0)

    @cached_property
    def span(self) -> Tensor:
        """[r, 1] the range of the boundaries; -inf where a row has none."""
        return self.last - self.low

    @cached_property
    def scale(self) -> Tensor:
        """[r, 1] cells in a unit."""
        return torch.where(torch.isinf(self.span), 1.0, (_CELLS - 3) / self.span.clamp(min=1e-30))

    @cached_property
    def below(self) -> Tensor:
        """[r, cells + 1] how many boundaries lie in the cells before each one; the last number counts all finite ones.

        What lies in a cell without a boundary lies between the same two: rounding moves keys and boundaries alike and
        never past each other.
        """
        held = torch.zeros(len(self.bounds), _CELLS + 1, dtype=torch.int64, device=self.bounds.device)
        held.scatter_add_(1, self._cell_of(self.bounds).long() + 1, torch.isfinite(self.bounds).long())
        return held.cumsum(1, dtype=torch.int32)

    def _cell_of(self, values: Tensor) -> Tensor:
        # The first boundary is in cell 1 and the last one in the last but one: both ends hold keys alone.
        return values.sub(self.low).mul_(self.scale).clamp_(-1, _CELLS - 2).add_(1).to(torch.int32)


def _ordered(row: Tensor, values: Tensor) -> Tensor:
    """Integers in the order of the rows, and within a row in that of its float32 values."""
    bits = (values + 0.0).view(torch.int32)  # -0 becomes 0
    return (row << 32) + (bits ^ ((bits >> 31) & 0x7FFFFFFF))
