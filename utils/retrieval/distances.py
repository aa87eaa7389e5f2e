"""Distances between features, one block of rows at a time, and the file that keeps them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils.errors import ReIDError
from utils.files.checkpoint import new_array
from utils.retrieval.coordinates import Coordinates, Placed, check_metric, pair_distances, squared_distances
from utils.retrieval.features import GALLERY_ROWS, check_widths, device_of, release
from utils.retrieval.visible import VISIBLE, visible_chunks

_CLOSE = 2.0**-8
"""Share of |a|^2 + |b|^2 below which the squared distance of a and b is computed in float64."""

_CHUNK_ELEMENTS = {"cpu": 2**23, "other": 2**26}


def distance_chunks(
    query: Tensor | np.ndarray,
    gallery: Tensor | np.ndarray,
    *,
    metric: str = "euclidean",
    chunk_size: int | None = None,
    device: torch.device | str | None = None,
) -> Iterator[Tensor]:
    """Distances of all queries [Q, D] to all gallery items [G, D], in blocks [q, G] of float32, in order.

    ``euclidean`` is the *squared* Euclidean distance |q - g|^2 (what the published code ranks by), ``cosine`` is
    1 - q.g / (|q| |g|), ``visible`` that of :func:`visible_chunks`. Each of the
    first two is within 1e-3 of its value, usually within 1e-6, however close the features lie: short distances are
    computed in float64. The gallery may be memory-mapped; it is read once per block.

    Args:
        chunk_size: queries per block; by default what fits 32 MB (256 MB on an accelerator).
        device: where to compute; by default where the queries are.

    Raises:
        ReIDError: unknown metric, different widths, NaN features.
    """
    check_widths(query, gallery)
    where = device_of(query, device)
    step = rows_per_chunk(len(gallery), where, chunk_size)
    if metric == VISIBLE:
        return visible_chunks(query, gallery, step, where)
    check_metric(metric)
    return _blocks(query, gallery, Coordinates(gallery, metric), step, where)


def _blocks(
    query: Tensor | np.ndarray, gallery: Tensor | np.ndarray, place: Coordinates, step: int, device: torch.device
) -> Iterator[Tensor]:
    """The work of :func:`distance_chunks`, which has checked the arguments."""
    asked, known = Placed(query, place, device), Placed(gallery, place, device)
    for start in range(0, len(query), step):
        mine = slice(start, min(start + step, len(query)))
        part = asked.quick_rows(mine)
        out = torch.empty(len(part), len(gallery), device=device)
        for column in range(0, len(gallery), GALLERY_ROWS):
            columns = slice(column, min(column + GALLERY_ROWS, len(gallery)))
            products = part @ known.quick_rows(columns).T
            out[:, columns] = squared_distances(products, asked.norms[mine], known.norms[columns])
            release(gallery)
        _recompute_close(out, asked, known, start)
        yield place.distance(out)


def _recompute_close(out: Tensor, query: Placed, gallery: Placed, start: int) -> None:
    """Compute the short ones of the distances ``out`` [q, G] of the queries from ``start`` again, in float64."""
    # A row at a time, since a mask of all would take as much memory as the distances.
    for number, row in enumerate(out, start):
        close = (row <= _CLOSE * (query.norms[number] + gallery.norms)).nonzero()[:, 0]
        index = close.to(query.wide)
        row[close] = pair_distances(query, gallery, torch.full_like(index, number), index).to(row)


def rows_per_chunk(columns: int, device: torch.device, chunk_size: int | None = None) -> int:
    """How many rows of ``columns`` float32 numbers to hold at once: ``chunk_size``, or what fits 32 MB (CPU)."""
    if chunk_size is not None:
        return max(1, chunk_size)
    budget = _CHUNK_ELEMENTS["cpu" if device.type == "cpu" else "other"]
    return max(1, budget // max(1, columns))


def save_distances(path: str | os.PathLike[str], chunks: Iterable[Tensor], shape: tuple[int, int]) -> Path:
    """Write blocks of rows, from :func:`distance_chunks` or from re-ranking, to a ``.npy`` file [Q, G] of float32.

    The file is written through a memory map, so it may be larger than the memory, and appears under its name only
    when complete. Read it with ``np.load(path, mmap_mode="r")``.

    Raises:
        ReIDError: the blocks do not add up to ``shape``, or there is no room for the file.
    """
    path = Path(path)
    unfinished = path.with_name(path.name + ".part")
    target = new_array(unfinished, shape)
    start = 0
    for chunk in chunks:
        stop = start + len(chunk)
        if chunk.shape[1] != shape[1] or stop > shape[0]:
            start = stop
            break
        target[start:stop] = chunk.detach().float().cpu().numpy()
        target.flush()
        release(target)
        start = stop
    del target
    if start != shape[0] or chunk.shape[1] != shape[1]:
        unfinished.unlink()
        raise ReIDError(
            f"{path}: the distance blocks have {start} rows and {chunk.shape[1]} columns (as far as read); expected "
            f"{shape[0]} queries and {shape[1]} gallery items. Give the shape of the distances."
        )
    try:
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink()
        raise ReIDError(f"{path}: cannot be written ({error.strerror}). Choose another name.") from None
    return path
