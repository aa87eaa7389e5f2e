"""Cosine similarities of features, block by block, the same to the last digit whatever the size of the blocks.

Products are formed in float64 and rounded to 2^-40, far coarser than the order of adding changes them and far finer
than float32 features can resolve.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from utils.compute.device import wide_device
from utils.retrieval.features import GALLERY_ROWS, device_of, release, rows, squared_norms

BLOCK_ELEMENTS = {"cpu": 2**22, "other": 2**26}
"""Scores held at a time, 8 bytes each, with what is made of them."""

GRAIN = 2.0**-40


def block_rows(columns: int, device: torch.device, chunk_size: int | None = None) -> int:
    """How many rows of ``columns`` scores to hold at once: ``chunk_size``, or what fits 32 MB (CPU)."""
    return chunk_size or max(1, BLOCK_ELEMENTS["cpu" if device.type == "cpu" else "other"] // max(1, columns))


def check_features(*features: Tensor | np.ndarray) -> None:
    """Refuse features with NaN or infinite values.

    Raises:
        ReIDError: naming the first row.
    """
    for part in features:
        squared_norms(part)


def unit_rows(features: Tensor | np.ndarray, index: slice | Tensor, device: torch.device) -> Tensor:
    """Some rows [n, D] in float64, of length 1; a zero row stays zero."""
    return torch.nn.functional.normalize(rows(features, index, device, torch.float64), dim=1)


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """Scores [n, m] in float64 of unit rows [n, D] and [m, D]."""
    return round_scores(torch.mm(first, second.T))


def round_scores(scores: Tensor) -> Tensor:
    """Round scores to :data:`GRAIN`, in place."""
    return scores.div_(GRAIN).round_().mul_(GRAIN)


def score_blocks(
    query: Tensor | np.ndarray,
    gallery: Tensor | np.ndarray,
    *,
    chunk_size: int | None = None,
    device: torch.device | str | None = None,
) -> Iterator[tuple[slice, Tensor]]:
    """Queries and their scores [q, G] with the whole gallery, in order.

    Args:
        query, gallery: features [Q, D] and [G, D] of any length; the gallery may be mapped from disk.
        chunk_size: queries at a time.
        device: where to compute; by default where the queries are.
    """
    where = wide_device(device_of(query, device))
    step = block_rows(len(gallery), where, chunk_size)
    for start in range(0, len(query), step):
        queries = slice(start, min(start + step, len(query)))
        part = unit_rows(query, queries, where)
        block = torch.empty(len(part), len(gallery), dtype=torch.float64, device=where)
        for column in range(0, len(gallery), GALLERY_ROWS):
            columns = slice(column, column + GALLERY_ROWS)
            block[:, columns] = cosine(part, unit_rows(gallery, columns, where))
            release(gallery)
        yield queries, block


def paired_scores(
    first: Tensor | np.ndarray, second: Tensor | np.ndarray, left: Tensor, right: Tensor, *, at_a_time: int = 2**17
) -> Tensor:
    """Scores [P] in float64 of the pairs (``left[p]``, ``right[p]``), rows of ``first`` and ``second``."""
    out = torch.empty(len(left), dtype=torch.float64)
    step = max(1, at_a_time // first.shape[1])
    where = wide_device(device_of(first))
    for start in range(0, len(left), step):
        part = slice(start, start + step)
        products = unit_rows(first, left[part], where).mul_(unit_rows(second, right[part], where)).sum(1)
        out[part] = round_scores(products).cpu()
        release(second)
    return out
