"""CMC, mAP and mINP from the ranks of the matches alone, in bounded memory.

A query's matches are few and the gallery is large, so nothing is sorted but the matches. For each query the
float32 distances of all gallery items are dropped into the gaps between the distances of its matches; the few
items closer to a match than float32 can tell are settled in float64. Equal distances rank by gallery index. The
result is that of a full float64 sort, on every device.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from utils.distances import (
    GALLERY_ROWS,
    Features,
    check_metric,
    check_widths,
    device_of,
    distance_chunks,
    labels,
    product_error,
    release,
    rows,
    save_distances,
    squared_norms,
)
from utils.errors import ReIDError

__all__ = [
    "Features",
    "RankingMetrics",
    "distance_chunks",
    "evaluate",
    "evaluate_distances",
    "save_distances",
]

CAMERA_RULES = ("market", "none")
AVERAGE_PRECISIONS = ("standard", "trapezoid")

JUNK = -1
"""Gallery identity that counts neither as right nor as wrong."""

_TILE_ELEMENTS = {"cpu": 2**22, "other": 2**26}
_MATCH_ELEMENTS = 2**22
_PAIR_ELEMENTS = 2**17
_SLOT_ELEMENTS = 2**20


@dataclass(frozen=True)
class RankingMetrics:
    """What a ranking is worth. All values are fractions in [0, 1].

    Attributes:
        cmc: [max_rank], share of the valid queries whose first match is among the first k items; where the gallery
            is smaller than max_rank the last value is held.
        mAP: mean average precision over the valid queries.
        mINP: mean inverse negative penalty (Ye et al. 2020): number of matches / rank of the last match.
        num_queries: queries with at least one match in the gallery.
        num_skipped: queries without one, which count nowhere.
        average_precision: [Q], NaN where skipped.
    """

    cmc: np.ndarray
    mAP: float
    mINP: float
    num_queries: int
    num_skipped: int
    average_precision: np.ndarray

    def rank(self, k: int) -> float:
        """CMC at rank ``k`` = 1, 2, ...; beyond max_rank its last value."""
        if k < 1:
            raise ValueError(f"ranks start at 1, got {k}")
        return float(self.cmc[min(k, len(self.cmc)) - 1])


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
        metric: ``"euclidean"`` or ``"cosine"``.
        max_rank: length of the CMC curve.
        average_precision: ``"standard"`` is the mean of the precisions at the matches (Market-1501);
            ``"trapezoid"`` the mean of (precision before + precision at) / 2 (hand recognition papers).
        chunk_size: queries compared at a time; by default what suits the device. Memory grows with it, the result
            does not change.
        device: where to compute; by default where the query features are.

    Raises:
        ReIDError: a value out of range, features of different widths or with NaN, or no query with a match.
    """
    check_metric(metric)
    check_widths(query.features, gallery.features)
    judge = _Judge(query.pids, gallery.pids, query.camids, gallery.camids, camera_rule, average_precision)
    where = device_of(query.features, device)
    keys = _FeatureKeys(query.features, gallery.features, metric, where, chunk_size)
    for start, stop in judge.blocks():
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
    judge = _Judge(
        *map(labels, (query_pids, gallery_pids, query_camids, gallery_camids)), camera_rule, average_precision
    )
    expected = len(judge.query_pids), len(judge.gallery_pids)
    start = 0
    for chunk in _row_chunks(distances, expected[1]):
        stop = start + len(chunk)
        if stop > expected[0] or chunk.shape[1] != expected[1]:
            raise _wrong_shape((stop, chunk.shape[1]), expected)
        judge.add(_DistanceBlock(chunk), start, stop, chunk.device)
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
    """Blocks of rows that the judge may write on."""
    whole = isinstance(distances, Tensor | np.ndarray)
    for part in [distances] if whole else distances:
        on_cpu = not isinstance(part, Tensor) or part.device.type == "cpu"
        step = max(1, _TILE_ELEMENTS["cpu" if on_cpu else "other"] // max(1, columns))
        for start in range(0, len(part), step):
            chunk = part[start : start + step]
            chunk = chunk.detach().clone() if isinstance(chunk, Tensor) else torch.from_numpy(np.array(chunk))
            release(part)
            yield chunk if chunk.dtype in (torch.float32, torch.float64) else chunk.float()


class _DistanceBlock:
    """Distances as they are: every key is exact. The chunk is written on."""

    def __init__(self, chunk: Tensor) -> None:
        if torch.isnan(chunk).any():
            raise ReIDError("the distances hold NaN. Were they computed from the features of a diverged model?")
        # The judge marks what it ignores by infinity.
        self.chunk = chunk.clamp_(-torch.finfo(chunk.dtype).max / 2, torch.finfo(chunk.dtype).max / 2)

    def exact(self, row: Tensor, column: Tensor) -> Tensor:
        return self.chunk[row, column].to(_wide(self.chunk.device), torch.float64)

    def tiles(self) -> Iterator[Tile]:
        yield Tile(0, 0, self.chunk, self.chunk.new_zeros(len(self.chunk), 1))


class _FeatureKeys:
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
        self.wide = _wide(device)
        self.g_norms64 = squared_norms(gallery, self.wide, torch.float64)
        self.g_norms = self.g_norms64.to(device, torch.float32)
        self.g_inverse = self.g_norms.clamp(min=torch.finfo(torch.float32).tiny).rsqrt()
        columns = min(len(gallery), GALLERY_ROWS)
        self.step = chunk_size or max(1, _TILE_ELEMENTS["cpu" if device.type == "cpu" else "other"] // columns)
        self.error = product_error(device, query.shape[1])
        # Size of the largest key of each query, [Q]: what its float32 rounding errors are proportional to.
        length = squared_norms(query, device).sqrt()
        largest = self.g_norms.max()
        self.scale = (largest + 2 * length * largest.sqrt()) if metric == "euclidean" else length

    def block(self, start: int, stop: int) -> _FeatureBlock:
        return _FeatureBlock(self, start, stop)

    def tile(self, query: Tensor, gallery: Tensor, start: int) -> Tensor:
        """Keys [r, c] in float32 for the queries [r, D] and the gallery rows [c, D] from ``start``."""
        columns = slice(start, start + len(gallery))
        if self.metric == "euclidean":
            return torch.mm(query * -2, gallery.T).add_(self.g_norms[columns])
        return torch.mm(-query, gallery.T).mul_(self.g_inverse[columns])

    def settle(self, dot: Tensor, norm: Tensor, scale: Tensor) -> Tensor:
        """Keys in float64 from q.g, |g|^2 and the scale, rounded to 2^-36 of the scale: far finer than float32 and
        far coarser than float64, so that keys equal on paper are equal whatever the order of summation.
        """
        keys = norm - 2 * dot if self.metric == "euclidean" else -dot * norm.clamp(min=1e-300).rsqrt()
        grain = torch.exp2(torch.log2(scale.clamp(min=1e-300)).ceil() - 36)
        return (keys / grain).round_() * grain


class _FeatureBlock:
    """The queries ``start`` to ``stop`` of :class:`_FeatureKeys`."""

    def __init__(self, keys: _FeatureKeys, start: int, stop: int) -> None:
        self.keys, self.start, self.stop = keys, start, stop

    def exact(self, row: Tensor, column: Tensor) -> Tensor:
        keys = self.keys
        scale = keys.scale.to(keys.wide, torch.float64)[row + self.start]
        out = torch.empty(len(row), dtype=torch.float64, device=keys.wide)
        step = max(1, _PAIR_ELEMENTS // keys.query.shape[1])
        for i in range(0, len(row), step):
            part = slice(i, i + step)
            q = rows(keys.query, row[part] + self.start, keys.wide, torch.float64)
            g = rows(keys.gallery, column[part], keys.wide, torch.float64)
            out[part] = keys.settle((q * g).sum(1), keys.g_norms64[column[part]], scale[part])
        release(keys.gallery)
        return out

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


def _wide(device: torch.device) -> torch.device:
    """Where float64 lives: on the device itself except on Apple's, which has none."""
    return torch.device("cpu") if device.type == "mps" else device


class _Judge:
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
        _check_choice("DATASETS.CAMERA_RULE", camera_rule, CAMERA_RULES)
        _check_choice("TEST.AP", average_precision, AVERAGE_PRECISIONS)
        self.query_pids, self.gallery_pids = query_pids, gallery_pids
        self.query_camids, self.gallery_camids = query_camids, gallery_camids
        self.camera_rule, self.average_precision = camera_rule, average_precision
        self.junk = (gallery_pids == JUNK).nonzero()[:, 0]
        ordered, self.by_pid = torch.sort(gallery_pids, stable=True)
        self.first = torch.searchsorted(ordered, query_pids)
        self.count = torch.searchsorted(ordered, query_pids, right=True) - self.first
        self.count[query_pids == JUNK] = 0
        queries = len(query_pids)
        self.precision = np.full(queries, np.nan)
        self.penalty = np.full(queries, np.nan)
        self.first_rank = np.full(queries, -1, dtype=np.int64)

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Ranges of queries small enough that their matches fit in memory."""
        start, widest = 0, 1
        for i, count in enumerate(self.count.tolist()):
            if i > start and max(widest, count) * (i + 1 - start) > _MATCH_ELEMENTS:
                yield start, i
                start, widest = i, 1
            widest = max(widest, count)
        yield start, len(self.count)

    def add(self, block: Block, start: int, stop: int, device: torch.device) -> None:
        """Judge the queries ``start`` to ``stop``, which are the rows of ``block``."""
        row, column = self._same_identity(start, stop)
        is_match = torch.ones_like(row, dtype=torch.bool)
        if self.camera_rule == "market":
            is_match = self.query_camids[row + start] != self.gallery_camids[column]
        if not is_match.any():
            return
        matches = _sort_matches(block, row[is_match], column[is_match], stop - start, device)
        ignored = row.to(device), column.to(device), self.junk.to(device)
        slots = torch.zeros(stop - start, matches.keys.shape[1] + 1, dtype=torch.int64, device=_wide(device))
        for tile in block.tiles():
            _ignore(tile, *ignored)
            slots[tile.row : tile.row + len(tile.keys)] += _count_slots(tile, block, matches)
        self._score(slots.cpu(), torch.bincount(row[is_match], minlength=stop - start), start, stop)

    def _same_identity(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """All pairs of a query (row from ``start``) and a gallery item of its identity, by row, then by item."""
        count = self.count[start:stop]
        row = torch.repeat_interleave(torch.arange(stop - start), count)
        within = torch.arange(len(row)) - (count.cumsum(0) - count)[row]
        return row, self.by_pid[self.first[start:stop][row] + within]

    def _score(self, slots: Tensor, count: Tensor, start: int, stop: int) -> None:
        """Average precision and so on from the number of strangers in each gap between the matches, [b, K + 1]."""
        wanted = count > 0
        hit = torch.arange(1, slots.shape[1], dtype=torch.float64)
        rank = slots[wanted].cumsum(1)[:, :-1] + hit
        count = count[wanted, None]
        precision = hit / rank
        if self.average_precision == "trapezoid":
            precision = (precision + torch.where(rank > 1, (hit - 1) / (rank - 1), 1.0)) / 2
        mine = torch.arange(start, stop)[wanted].numpy()
        self.precision[mine] = ((precision * (hit <= count)).sum(1) / count[:, 0]).numpy()
        self.penalty[mine] = (count / rank.gather(1, count - 1))[:, 0].numpy()
        self.first_rank[mine] = rank[:, 0].long().numpy() - 1

    def result(self, max_rank: int) -> RankingMetrics:
        valid = self.first_rank >= 0
        if not valid.any():
            rule = " once images of the same camera are ignored" if self.camera_rule == "market" else ""
            raise ReIDError(
                f"none of the {len(valid)} query identities appears in the gallery{rule} (camera rule "
                f"{self.camera_rule!r}). Put other images of the query people into the gallery, or, for data "
                "without cameras, set DATASETS.CAMERA_RULE to 'none'."
            )
        found_at = np.bincount(self.first_rank[valid].clip(max=max_rank), minlength=max_rank + 1)[:max_rank]
        return RankingMetrics(
            cmc=found_at.cumsum() / valid.sum(),
            mAP=float(self.precision[valid].mean()),
            mINP=float(self.penalty[valid].mean()),
            num_queries=int(valid.sum()),
            num_skipped=int((~valid).sum()),
            average_precision=self.precision,
        )


class _Matches(NamedTuple):
    """The matches of a block's queries in ranking order, [b, K]; shorter rows end in infinite keys."""

    keys: Tensor
    columns: Tensor


def _sort_matches(block: Block, row: Tensor, column: Tensor, num_rows: int, device: torch.device) -> _Matches:
    """Rank the matches of each query among themselves by exact key, then by gallery index."""
    wide = _wide(device)
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
    num_rows, num_columns = tile.keys.shape
    row, column, junk = row - tile.row, column - tile.column, junk - tile.column
    inside = (row >= 0) & (row < num_rows) & (column >= 0) & (column < num_columns)
    tile.keys[row[inside], column[inside]] = torch.inf
    tile.keys[:, junk[(junk >= 0) & (junk < num_columns)]] = torch.inf


def _count_slots(tile: Tile, block: Block, matches: _Matches) -> Tensor:
    """How many of the tile's items come after exactly 0, 1, ..., K matches of their query: int64 [r, K + 1]."""
    num_rows = len(tile.keys)
    mine = slice(tile.row, tile.row + num_rows)
    keys, columns = matches.keys[mine], matches.columns[mine]
    bounds, slot_after = _boundaries(keys, tile.tolerance.to(keys), tile.keys.dtype)
    # Even bins lie outside every match's tolerance, odd ones inside.
    bins = torch.searchsorted(bounds.to(tile.keys.device), tile.keys, out_int32=True)
    row, column = (bins & 1).nonzero(as_tuple=True)
    width = bounds.shape[1] + 2
    bins += torch.arange(num_rows, dtype=torch.int32, device=bins.device)[:, None] * width
    counts = torch.bincount(bins.view(-1), minlength=num_rows * width).view(num_rows, width).to(keys.device)
    slots = torch.zeros_like(slot_after).scatter_add_(1, slot_after, counts[:, :-1:2])
    row, column = row.to(keys.device), column.to(keys.device)
    step = max(1, _SLOT_ELEMENTS // keys.shape[1])
    for i in range(0, len(row), step):
        r, c = row[i : i + step], column[i : i + step] + tile.column
        key = block.exact(r + tile.row, c)[:, None]
        later = (keys[r] < key) | ((keys[r] == key) & (columns[r] < c[:, None]))
        slots += torch.bincount(r * slots.shape[1] + later.sum(1), minlength=slots.numel()).view_as(slots)
    return slots


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


def _check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ReIDError(f"{key} is {value!r}; expected one of {', '.join(map(repr, choices))}.")
