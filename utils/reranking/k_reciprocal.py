"""k-reciprocal re-ranking (Zhong et al., CVPR 2017) in bounded memory.

Queries and gallery are one set of N = Q + G items. Of each item only the nearest k1 + 1 are ranked; neighbour
encodings are sparse, and the result is made a few queries at a time. Nothing of size N x N is ever held.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from utils.compute.threads import in_threads
from utils.errors import ReIDError
from utils.reranking.expansion import mean_rows
from utils.reranking.neighbours import Items, nearest
from utils.reranking.overlap import Sparse, shared_weight
from utils.reranking.reciprocal import encode
from utils.retrieval.coordinates import check_metric
from utils.retrieval.features import check_widths, device_of

_BLOCK_ELEMENTS = 2**23

_PART_ELEMENTS = 2**20
"""Numbers that a thread holds at a time: what its cache holds."""


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
    items = Items(query, gallery, metric, device_of(query, device))
    step = chunk_size or max(1, _BLOCK_ELEMENTS // len(gallery))
    return _blocks(items, k1, k2, lambda_value, step)


def _blocks(items: Items, k1: int, k2: int, weight: float, step: int) -> Iterator[Tensor]:
    """The work of :func:`k_reciprocal`."""
    half = round(k1 / 2)
    near, known = nearest(items, max(k1 + 1, k2), {k1 + 1, half + 1, k2})
    encoding = mean_rows(encode(items, near, k1, half), near.index[:, :k2])
    inverted = _invert(encoding, items.num_query)
    for block in _parts(items.num_query, step):
        original = items.distances(block, slice(items.num_query, None)) if known is None else known[block]
        out = torch.empty_like(original)

        def fill(part: slice, first: int = block.start, original: Tensor = original, out: Tensor = out) -> None:
            mine = slice(first + part.start, first + part.stop)
            shared = shared_weight(encoding, inverted, mine.start, mine.stop, out.shape[1])
            torch.div(original[part], near.largest[mine, None], out=out[part])
            out[part].mul_(weight).add_((1 - shared / (2 - shared)).clamp_(min=0), alpha=1 - weight)

        in_threads(fill, _parts(len(out), _rows(out)), out.device)
        yield out


def _parts(stop: int, step: int) -> list[slice]:
    return [slice(at, min(at + step, stop)) for at in range(0, stop, step)]


def _rows(out: Tensor) -> int:
    """How many rows of ``out`` one thread handles at a time."""
    if out.device.type != "cpu":
        return len(out)
    return max(1, min(_PART_ELEMENTS // out.shape[1], len(out) // (4 * torch.get_num_threads())))


def _invert(encoding: Sparse, num_query: int) -> Sparse:
    """For each item the gallery items in whose encoding it appears, numbered from 0, and its weight there."""
    first = encoding.start[num_query]
    count = encoding.start[num_query + 1 :] - encoding.start[num_query:-1]
    row = torch.repeat_interleave(torch.arange(len(count), dtype=torch.int32, device=count.device), count)
    column, order = torch.sort(encoding.column[first:], stable=True)
    return Sparse.of(
        torch.bincount(column, minlength=len(encoding.start) - 1), row[order], encoding.value[first:][order]
    )
