"""Ranks of the matches, without sorting the gallery."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from utils.compute.device import wide_device
from utils.retrieval.bins import Bins
from utils.retrieval.identities import inside
from utils.retrieval.scores import Block, Tile

_SLOT_ELEMENTS = 2**20


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
    gaps: dict[int, _Gaps] = {}  # the same queries come with each part of the gallery

    def add(tile: Tile) -> None:
        _ignore(tile, *ignored)
        mine = slice(tile.row, tile.row + len(tile.keys))
        part = _Matches(*(values[mine] for values in matches))
        if tile.row not in gaps:
            gaps[tile.row] = _gaps(part.keys, tile.tolerance.to(part.keys), tile.keys)
        slots[mine] += _count_slots(tile, block, part, gaps[tile.row])

    block.for_each_tile(add)
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


def _count_slots(tile: Tile, block: Block, matches: _Matches, gaps: _Gaps) -> Tensor:
    """How many of the tile's items come after exactly 0, 1, ..., K matches of their query: int64 [r, K + 1]."""
    keys, columns = matches
    counts, row, column = gaps.bins.count(tile.keys)
    slots = torch.zeros_like(gaps.slot).scatter_add_(1, gaps.slot, counts.to(keys.device)[:, ::2])
    row, column = row.to(keys.device), column.to(keys.device)
    column += tile.column
    exact = block.exact(row + tile.row, column)
    step = max(1, _SLOT_ELEMENTS // keys.shape[1])
    for i in range(0, len(row), step):
        r, c, key = row[i : i + step], column[i : i + step], exact[i : i + step, None]
        later = (keys[r] < key) | ((keys[r] == key) & (columns[r] < c[:, None]))
        slots += torch.bincount(r * slots.shape[1] + later.sum(1), minlength=slots.numel()).view_as(slots)
    return slots


class _Gaps(NamedTuple):
    """The gaps between the matches of some queries.

    Attributes:
        bins: each match's tolerance lies between two boundaries, overlapping ones are joined; infinity at the end.
        slot: [r, K + 1] after how many matches an item comes that lies after 0, 1, ..., K of these intervals.
    """

    bins: Bins
    slot: Tensor


def _gaps(keys: Tensor, tolerance: Tensor, like: Tensor) -> _Gaps:
    """From the matches' keys [r, K], infinite where there are fewer, and their tolerance [r, 1]."""
    absent = torch.isinf(keys)
    infinity = torch.tensor(torch.inf, dtype=like.dtype, device=keys.device)
    low = torch.nextafter((keys - tolerance).to(like.dtype), -infinity).masked_fill_(absent, torch.inf)
    high = torch.nextafter((keys + tolerance).to(like.dtype), infinity).masked_fill_(absent, torch.inf)
    joined = low[:, 1:] <= high[:, :-1]
    low[:, 1:].masked_fill_(joined, torch.inf)
    high[:, :-1].masked_fill_(joined, torch.inf)
    hits = torch.arange(1, keys.shape[1] + 1, device=keys.device)
    after = torch.where(torch.isinf(high), keys.shape[1], hits).sort(1)[0]
    bounds = torch.cat([low, high], 1).sort(1)[0]
    return _Gaps(Bins(bounds.to(like.device)), torch.nn.functional.pad(after, (1, 0)))
