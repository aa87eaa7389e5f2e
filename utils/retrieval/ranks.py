"""Ranks of the matches, without sorting the gallery."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from utils.compute.device import wide_device
from utils.retrieval.identities import inside
from utils.retrieval.scores import Block, Tile

_SLOT_ELEMENTS = 2**20

_FEW = 1 / 12
"""Share of a tile's keys up to which those before the last match are picked out; of more, a histogram counts most."""

_CELLS = 2**10


def negatives_between_matches(
    block: Block, row: Tensor, column: Tensor, is_match: Tensor, junk: Tensor, num_rows: int, device: torch.device
) -> Tensor:
    """How many gallery items of other identities rank after exactly 0, 1, ..., K matches: int64 [b, K + 1], CPU.

    Equal keys rank by gallery index. A query with fewer than K matches has its last negatives further left than K;
    what lies right of its own matches means nothing.

    Args:
        block: keys of the b queries.
        row, column: [P] pairs of a query and a gallery item of its identity, by row, then by column.
        is_match: [P] whether the pair counts as a match; else it is ignored.
        junk: gallery indices that are ignored for all queries.
        num_rows: b.
        device: of the keys.
    """
    matches = _sort_matches(block, row[is_match], column[is_match], num_rows, device)
    ignored = row.to(device), column.to(device), junk.to(device)
    slots = torch.zeros(num_rows, matches.keys.shape[1] + 1, dtype=torch.int64, device=wide_device(device))
    for tile in block.tiles():
        _ignore(tile, *ignored)
        slots[tile.row : tile.row + len(tile.keys)] += _count_slots(tile, block, matches)
    return slots.cpu()


class _Matches(NamedTuple):
    """The matches of a block's queries in ranking order, [b, K]; shorter rows end in infinite keys."""

    keys: Tensor
    columns: Tensor


def _sort_matches(block: Block, row: Tensor, column: Tensor, num_rows: int, device: torch.device) -> _Matches:
    """Rank the matches of each query among themselves by exact key, then by gallery index."""
    wide = wide_device(device)
    row, column = row.to(wide), column.to(wide)
    count = torch.bincount(row, minlength=num_rows)
    place = torch.arange(len(row), device=wide) - (count.cumsum(0) - count)[row]
    keys = torch.full((num_rows, int(count.max())), torch.inf, dtype=torch.float64, device=wide)
    columns = torch.zeros_like(keys, dtype=torch.int64)
    keys[row, place] = block.exact(row, column)
    columns[row, place] = column
    keys, order = torch.sort(keys, dim=1, stable=True)
    return _Matches(keys, columns.gather(1, order))


def _ignore(tile: Tile, row: Tensor, column: Tensor, junk: Tensor) -> None:
    """Send the query's own identity and the junk to the end of the ranking."""
    row, column, junk = row - tile.row, column - tile.column, junk - tile.column
    here = inside(row, column, tile.keys.shape)
    tile.keys[row[here], column[here]] = torch.inf
    tile.keys[:, junk[(junk >= 0) & (junk < tile.keys.shape[1])]] = torch.inf


def _count_slots(tile: Tile, block: Block, matches: _Matches) -> Tensor:
    """How many of the tile's items come after exactly 0, 1, ..., K matches of their query: int64 [r, K + 1]."""
    num_rows = len(tile.keys)
    mine = slice(tile.row, tile.row + num_rows)
    keys, columns = matches.keys[mine], matches.columns[mine]
    bounds, slot_after = _boundaries(keys, tile.tolerance.to(keys), tile.keys.dtype)
    counts, row, column = _bins(tile.keys, bounds.to(tile.keys.device))
    slots = torch.zeros_like(slot_after).scatter_add_(1, slot_after, counts.to(keys.device)[:, ::2])
    row, column = row.to(keys.device), column.to(keys.device)
    column += tile.column
    exact = block.exact(row + tile.row, column)
    step = max(1, _SLOT_ELEMENTS // keys.shape[1])
    for i in range(0, len(row), step):
        r, c, key = row[i : i + step], column[i : i + step], exact[i : i + step, None]
        later = (keys[r] < key) | ((keys[r] == key) & (columns[r] < c[:, None]))
        slots += torch.bincount(r * slots.shape[1] + later.sum(1), minlength=slots.numel()).view_as(slots)
    return slots


def _bins(keys: Tensor, bounds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How many of the keys [r, c] lie between the boundaries [r, 2K] of their row, [r, 2K + 1]; row and column of those
    within the tolerance of a match, in the odd bins. The last bin may be short: nothing is read from it.
    """
    width = bounds.shape[1] + 1
    if keys.dtype == torch.float64:
        bins = torch.searchsorted(bounds, keys)
        row, column = (bins & 1).nonzero(as_tuple=True)
        bins += torch.arange(len(keys), device=bins.device)[:, None] * width
        return torch.bincount(bins.view(-1), minlength=len(keys) * width).view(len(keys), width), row, column
    last = bounds.masked_fill(torch.isinf(bounds), -torch.inf).amax(1, keepdim=True)
    near = keys <= last
    # Boundaries at both ends of float32, as infinite distances have, are too far apart for cells.
    if torch.count_nonzero(near) <= _FEW * keys.numel() or torch.isposinf(last - bounds[:, :1]).any():
        place, counts = near.view(-1).nonzero()[:, 0], 0
    else:
        place, counts = _by_cells(keys, bounds)
    row, each = place // keys.shape[1], torch.arange(len(keys), device=keys.device)[:, None]
    bins = torch.searchsorted(_ordered(each, bounds).view(-1), _ordered(row, keys.view(-1).index_select(0, place)))
    inside = (bins & 1).nonzero()[:, 0]  # rows have an even number of boundaries
    counts = counts + torch.bincount(bins + row, minlength=len(keys) * width).view(len(keys), width)
    return counts, row[inside], place[inside] % keys.shape[1]


def _by_cells(keys: Tensor, bounds: Tensor) -> tuple[Tensor, Tensor]:
    """Which keys [r, c] a histogram cannot count, as positions in all of them, and how many of the others lie between
    the boundaries, [r, 2K + 1].

    The range of a row's boundaries is divided into cells. What lies in a cell without a boundary lies between the same
    two: rounding moves keys and boundaries alike and never past each other.
    """
    finite = torch.isfinite(bounds)
    low = torch.where(finite[:, :1], bounds[:, :1], 0.0)
    span = bounds.masked_fill(~finite, -torch.inf).amax(1, keepdim=True) - low
    scale = torch.where(finite[:, :1], (_CELLS - 3) / span.clamp(min=1e-30), 1.0)

    def cell_of(values: Tensor) -> Tensor:
        # The first boundary is in cell 1 and the last one in the last but one: both ends hold keys alone.
        return values.sub(low).mul_(scale).clamp_(-1, _CELLS - 2).add_(1).to(torch.int32)

    first = torch.arange(0, len(keys) * _CELLS, _CELLS, dtype=torch.int32, device=keys.device)[:, None]
    cell = cell_of(keys).add_(first).view(-1)
    found = torch.bincount(cell, minlength=len(keys) * _CELLS).view(len(keys), _CELLS)
    held = torch.zeros_like(found).scatter_add_(1, cell_of(bounds).long(), finite.long())
    below = held.cumsum(1) - held
    unsure = (held > 0) | (below % 2 > 0)
    counts = found.new_zeros(len(keys), bounds.shape[1] + 1).scatter_add_(1, below, found.masked_fill(unsure, 0))
    return unsure.view(-1).index_select(0, cell).nonzero()[:, 0], counts


def _ordered(row: Tensor, values: Tensor) -> Tensor:
    """Integers in the order of the rows, and within a row in that of its float32 values."""
    bits = (values + 0.0).view(torch.int32)  # -0 becomes 0
    return (row << 32) + (bits ^ ((bits >> 31) & 0x7FFFFFFF))


def _boundaries(keys: Tensor, tolerance: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Where each match's tolerance begins and ends, [r, 2K] ascending, overlapping ones joined, infinity at the end;
    and after how many matches an item comes that lies after 0, 1, ..., K of these intervals, [r, K + 1].
    """
    absent = torch.isinf(keys)
    infinity = torch.tensor(torch.inf, dtype=dtype, device=keys.device)
    low = torch.nextafter((keys - tolerance).to(dtype), -infinity).masked_fill_(absent, torch.inf)
    high = torch.nextafter((keys + tolerance).to(dtype), infinity).masked_fill_(absent, torch.inf)
    joined = low[:, 1:] <= high[:, :-1]
    low[:, 1:].masked_fill_(joined, torch.inf)
    high[:, :-1].masked_fill_(joined, torch.inf)
    hits = torch.arange(1, keys.shape[1] + 1, device=keys.device)
    after = torch.where(torch.isinf(high), keys.shape[1], hits).sort(1)[0]
    return torch.cat([low, high], 1).sort(1)[0], torch.nn.functional.pad(after, (1, 0))
