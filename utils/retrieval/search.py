"""The nearest gallery items of each query: exact in bounded memory, or approximate with FAISS."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.compute.threads import in_threads
from utils.errors import ReIDError
from utils.optional import MissingPackageError, import_optional
from utils.retrieval.compiled import WORTH_COMPILED, compiled_loops
from utils.retrieval.coordinates import Coordinates, Placed, check_metric
from utils.retrieval.distances import rows_per_chunk
from utils.retrieval.features import GALLERY_ROWS, check_widths, device_of, release, rows
from utils.retrieval.scores import FeatureBlock, FeatureKeys, Tile

_FEW = 128
"""Nearest items up to which they are kept in order by insertion."""


class Nearest(NamedTuple):
    """The nearest gallery items of each query, nearest first."""

    distances: Tensor
    """[Q, k] float32: squared Euclidean, or 1 - cosine."""
    index: Tensor
    """[Q, k] gallery index; -1 where an approximate search found fewer than k items."""
    recall: float
    """Share of the true k nearest that were found: 1 if exact, else measured on a sample of the queries."""


def top_k(
    query: Tensor | np.ndarray,
    gallery: Tensor | np.ndarray,
    k: int,
    *,
    metric: str = "euclidean",
    chunk_size: int | None = None,
    device: torch.device | str | None = None,
) -> Nearest:
    """Exact search: queries [Q, D] in a gallery [G, D], which may be memory-mapped and is read once per query block.

    The ranking is that of :func:`utils.metrics.evaluate`: the best 2k + 64 by float32 are compared again in float64,
    and equal distances come in order of gallery index. Where these candidates may not be enough, as among many
    duplicates, the whole gallery is compared in float64.

    Args:
        k: length of the lists; at most the size of the gallery is given.
        chunk_size: queries compared at a time; by default what suits the device.

    Raises:
        ReIDError: k below 1, unknown metric, different widths, NaN features.
    """
    _check(query, gallery, k, metric)
    where = device_of(query, device)
    step = rows_per_chunk(min(len(gallery), GALLERY_ROWS), where, chunk_size)
    keys = FeatureKeys(query, gallery, metric, where, chunk_size)
    k = min(k, len(gallery))
    found = [_nearest(keys, start, min(start + step, len(query)), k) for start in range(0, len(query), step)]
    return Nearest(*(torch.cat(parts).to(where) for parts in zip(*found, strict=True)), 1.0)


def _check(query: Tensor | np.ndarray, gallery: Tensor | np.ndarray, k: int, metric: str) -> None:
    check_metric(metric)
    check_widths(query, gallery)
    if k < 1:
        raise ReIDError(f"a search for the {k} nearest items; expected at least 1.")


def _nearest(keys: FeatureKeys, start: int, stop: int, k: int) -> tuple[Tensor, Tensor]:
    """Distances and gallery indices [q, k] of the nearest items of the queries ``start`` to ``stop``."""
    block, total = keys.block(start, stop), len(keys.gallery)
    coarse, candidates = _candidates(block, stop - start, min(2 * k + 64, total), total)
    index, exact = _exact_best(block, candidates.to(keys.scale64.device), k)
    # Whatever is no candidate has a float32 key from the last candidate's on, and an exact one within the tolerance.
    limit = coarse[:, -1].to(exact) - keys.tolerance[start:stop].to(exact)
    doubtful = (exact[:, -1] >= limit).nonzero()[:, 0] if candidates.shape[1] < total else []
    for row in doubtful:
        index[row] = _exact_best(keys.block(start + int(row), start + int(row) + 1), torch.arange(total)[None], k)[0][0]
    row = torch.arange(stop - start, device=index.device).repeat_interleave(k)
    distance = block.distances(row, index.flatten()).view(-1, k)
    return keys.gallery.place.distance(distance).float(), index


def _candidates(block: FeatureBlock, queries: int, count: int, total: int) -> tuple[Tensor, Tensor]:
    """The smallest float32 keys of each query and their gallery indices [q, count], ascending."""
    value = torch.full((queries, min(count, total)), torch.inf, device=block.keys.tolerance.device)
    index = torch.zeros_like(value, dtype=torch.int64)

    def keep(tile: Tile) -> None:
        rows = slice(tile.row, tile.row + len(tile.keys))
        keep_smallest(value[rows], index[rows], tile.keys, tile.column)

    block.for_each_tile(keep)
    return value, index


def keep_smallest(value: Tensor, index: Tensor, found: Tensor, column: int) -> None:
    """Bring the smallest of ``found`` [r, c], whose first column is ``column``, into ``value`` and ``index`` [r, k],
    which hold the smallest of other columns, ascending.
    """
    found = found.contiguous()  # of a transposed tile as well
    few = found.device.type == "cpu" and found.dtype == torch.float32 and value.shape[1] <= _FEW
    if few and found.numel() >= WORTH_COMPILED and (loops := compiled_loops()):
        step = -(-len(found) // torch.get_num_threads())
        parts = zip(*(part.split(step) for part in (found, value, index)), strict=True)
        in_threads(lambda part: loops.keep_smallest(part[0].numpy(), column, part[1].numpy(), part[2].numpy()), parts)
        return
    near = torch.topk(found, min(value.shape[1], found.shape[1]), dim=1, largest=False)
    best = torch.topk(torch.cat([value, near.values], 1), value.shape[1], dim=1, largest=False)
    index.copy_(torch.cat([index, near.indices + column], 1).gather(1, best.indices))
    value.copy_(best.values)


def _exact_best(block: FeatureBlock, candidates: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Gallery indices and exact keys [q, k] of the best ``candidates`` [q, n] of each query."""
    candidates = candidates.sort(1)[0]
    row = torch.arange(len(candidates), device=candidates.device).repeat_interleave(candidates.shape[1])
    exact, order = block.exact(row, candidates.flatten()).view(candidates.shape).sort(dim=1, stable=True)
    return candidates.gather(1, order[:, :k]), exact[:, :k]


def smallest(distances: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k smallest of each row of ``distances`` [q, G] and their columns, ascending, equal ones by column."""
    value, index = torch.topk(distances, k, dim=1, largest=False)
    last = value[:, -1:]
    # Which of the items that equal the last one are among the k is topk's choice.
    tied = (distances == last).sum(1) > (value == last).sum(1)
    for row in tied.nonzero()[:, 0]:
        value[row], index[row] = (part[:k] for part in distances[row].sort(stable=True))
    return ascending(value, index)


def ascending(value: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Both, [r, k], sorted by value, equal values by index."""
    index, order = index.sort(dim=1)
    value, order = value.gather(1, order).sort(dim=1, stable=True)
    return value, index.gather(1, order)


def approximate_top_k(
    query: Tensor | np.ndarray,
    gallery: Tensor | np.ndarray,
    k: int,
    *,
    metric: str = "euclidean",
    probes: int = 16,
    recall_queries: int = 200,
    seed: int = 0,
) -> Nearest:
    """Approximate search with FAISS, on the CPU: the gallery is grouped in about 4 sqrt(G) cells, of which each query
    looks into the ``probes`` nearest. The recall is measured against :func:`top_k`.

    Args:
        probes: cells visited per query; more is slower and nearer to exact.
        recall_queries: how many queries, drawn with ``seed``, the recall is measured on.

    Raises:
        ReIDError: FAISS is not installed, or as :func:`top_k`.
    """
    _check(query, gallery, k, metric)
    faiss = require_faiss()
    cpu, place = torch.device("cpu"), Coordinates(gallery, metric)
    asked, known = Placed(query, place, cpu), Placed(gallery, place, cpu)
    cells = max(1, min(int(4 * len(gallery) ** 0.5), len(gallery) // 39))
    index = faiss.index_factory(query.shape[1], f"IVF{cells},Flat", faiss.METRIC_L2)
    index.nprobe = probes
    index.cp.min_points_per_centroid = 1  # FAISS warns below 39, which a small gallery has even in one cell
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randperm(len(gallery), generator=generator)[: 64 * cells].sort()[0]
    index.train(known.rows(sample).numpy())
    for start in range(0, len(gallery), GALLERY_ROWS):
        index.add(known.rows(slice(start, start + GALLERY_ROWS)).numpy())
        release(gallery)
    value, found = index.search(asked.rows(slice(None)).numpy(), min(k, len(gallery)))
    distances = place.distance(torch.from_numpy(value))
    found = torch.from_numpy(found)
    checked = torch.randperm(len(query), generator=generator)[:recall_queries]
    exact = top_k(rows(query, checked, cpu), gallery, k, metric=metric)
    hits = (found[checked][:, :, None] == exact.index[:, None, :]).any(1)
    return Nearest(distances, found, float(hits.double().mean()))


def require_faiss() -> ModuleType:
    """The package FAISS.

    Raises:
        ReIDError: it is not installed.
    """
    try:
        return import_optional("faiss")
    except MissingPackageError as error:
        raise ReIDError(
            f"approximate search (TEST.SEARCH faiss, --search faiss) needs the package FAISS; {error}. "
            "Run `pip install faiss-cpu`, or use the exact search, which needs no package."
        ) from None


SEARCHES: dict[str, Callable[..., Nearest]] = {"exact": top_k, "faiss": approximate_top_k}
"""By ``TEST.SEARCH``; both take queries, gallery, k and ``metric``."""
