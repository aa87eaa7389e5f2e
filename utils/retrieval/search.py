"""The nearest gallery items of each query: exact in bounded memory, or approximate with FAISS."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity as cosine

from utils.errors import ReIDError
from utils.retrieval.distances import (
    GALLERY_ROWS,
    check_metric,
    check_widths,
    device_of,
    from_products,
    release,
    rows,
    rows_per_chunk,
    squared_norms,
)
from utils.retrieval.scores import wide_device

_SETTLED_ELEMENTS = 2**22


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

    The best 2k + 64 by float32 are compared again in float64, which tells apart features that lie close together. Equal
    distances come in order of gallery index, but which of several equally far items is the k-th is not defined.

    Args:
        k: length of the lists; at most the size of the gallery is given.
        chunk_size: queries compared at a time; by default what suits the device.

    Raises:
        ReIDError: k below 1, unknown metric, different widths, NaN features.
    """
    _check(query, gallery, k, metric)
    where = device_of(query, device)
    step = rows_per_chunk(min(len(gallery), GALLERY_ROWS), where, chunk_size)
    g_norms = squared_norms(gallery, where)
    squared_norms(query, where)
    k = min(k, len(gallery))
    found = []
    for start in range(0, len(query), step):
        part = rows(query, slice(start, start + step), where)
        _, index = _best(part, gallery, g_norms, min(2 * k + 64, len(gallery)), metric)
        found.append(_settle(part, gallery, index, k, metric))
    return Nearest(torch.cat([f[0] for f in found]), torch.cat([f[1] for f in found]), 1.0)


def _check(query: Tensor | np.ndarray, gallery: Tensor | np.ndarray, k: int, metric: str) -> None:
    check_metric(metric)
    check_widths(query, gallery)
    if k < 1:
        raise ReIDError(f"a search for the {k} nearest items was asked for; expected at least 1.")


def _best(query: Tensor, gallery: Tensor | np.ndarray, g_norms: Tensor, k: int, metric: str) -> tuple[Tensor, Tensor]:
    """The k nearest of one block of queries, [q, k], kept up to date block of gallery by block."""
    q_norms = squared_norms(query, query.device)
    value = torch.empty(len(query), 0, device=query.device)
    index = torch.empty(len(query), 0, dtype=torch.int64, device=query.device)
    for start in range(0, len(gallery), GALLERY_ROWS):
        part = rows(gallery, slice(start, start + GALLERY_ROWS), query.device)
        block = from_products(query @ part.T, q_norms, g_norms[start : start + len(part)], metric)
        near = torch.topk(block, min(k, len(part)), dim=1, largest=False)
        value = torch.cat([value, near.values], 1)
        index = torch.cat([index, near.indices + start], 1)
        order = index.argsort(1)
        value, index = value.gather(1, order), index.gather(1, order)
        value, order = value.sort(dim=1, stable=True)
        value, index = value[:, :k], index.gather(1, order)[:, :k]
        release(gallery)
    return value, index


def _settle(query: Tensor, gallery: Tensor | np.ndarray, index: Tensor, k: int, metric: str) -> tuple[Tensor, Tensor]:
    """The k nearest of a block of queries among their candidates ``index`` [q, n], by float64."""
    wide = wide_device(query.device)
    index = index.to(wide).sort(1)[0]
    value = torch.empty(index.shape, dtype=torch.float64, device=wide)
    step = max(1, _SETTLED_ELEMENTS // (index.shape[1] * query.shape[1]))
    for start in range(0, len(query), step):
        q = query[start : start + step, None].to(wide, torch.float64)
        g = rows(gallery, index[start : start + step].flatten(), wide, torch.float64).view(len(q), -1, q.shape[2])
        value[start : start + step] = (q - g).square().sum(2) if metric == "euclidean" else 1 - cosine(q, g, dim=2)
        release(gallery)
    value, order = value.sort(dim=1, stable=True)
    found = value[:, :k].float(), index.gather(1, order)[:, :k]
    return tuple(part.to(query.device) for part in found)


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
    cpu = torch.device("cpu")
    cells = max(1, min(int(4 * len(gallery) ** 0.5), len(gallery) // 39))
    kind = faiss.METRIC_L2 if metric == "euclidean" else faiss.METRIC_INNER_PRODUCT
    index = faiss.index_factory(query.shape[1], f"IVF{cells},Flat", kind)
    index.nprobe = probes
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randperm(len(gallery), generator=generator)[: 64 * cells].sort()[0]
    index.train(_prepared(rows(gallery, sample, cpu), metric))
    for start in range(0, len(gallery), GALLERY_ROWS):
        index.add(_prepared(rows(gallery, slice(start, start + GALLERY_ROWS), cpu), metric))
        release(gallery)
    value, found = index.search(_prepared(rows(query, slice(None), cpu), metric), min(k, len(gallery)))
    distances = torch.from_numpy(value if metric == "euclidean" else 1 - value)
    found = torch.from_numpy(found)
    checked = torch.randperm(len(query), generator=generator)[:recall_queries]
    exact = top_k(rows(query, checked, cpu), gallery, k, metric=metric)
    hits = (found[checked][:, :, None] == exact.index[:, None, :]).any(1)
    return Nearest(distances, found, float(hits.double().mean()))


def _prepared(features: Tensor, metric: str) -> np.ndarray:
    """Rows as FAISS wants them; of unit length where inner products shall be cosines."""
    return (torch.nn.functional.normalize(features) if metric == "cosine" else features).contiguous().numpy()


def require_faiss() -> ModuleType:
    """The package FAISS.

    Raises:
        ReIDError: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise ReIDError(
            "approximate search (TEST.SEARCH faiss, --search faiss) needs the package FAISS, which is not installed. "
            "Run `pip install faiss-cpu`, or use the exact search, which needs nothing."
        ) from error
    return faiss


SEARCHES: dict[str, Callable[..., Nearest]] = {"exact": top_k, "faiss": approximate_top_k}
"""By ``TEST.SEARCH``; both take queries, gallery, k and ``metric``."""
