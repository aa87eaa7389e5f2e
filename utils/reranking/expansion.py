"""Local query expansion: the mean of sparse rows, by a compiled loop where numba is installed, else by torch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from utils.compute.threads import in_threads
from utils.reranking.overlap import Sparse
from utils.retrieval.compiled import compiled_loops

_SCRATCH_ELEMENTS = 2**23
_PIECES = 32


def mean_rows(rows: Sparse, members: Tensor) -> Sparse:
    """Row i of the result is the mean of the rows ``members[i]``; [N, k] of N rows with N columns.

    Both ways add the same numbers in the same order.
    """
    if members.shape[1] == 1:
        return rows
    share = rows._replace(value=rows.value / members.shape[1])
    loops = compiled_loops() if rows.value.device.type == "cpu" else None
    return _with_torch(share, members) if loops is None else _compiled(loops.add_rows, share, members)


def _compiled(loop: Callable, rows: Sparse, members: Tensor) -> Sparse:
    counts = (rows.start[1:] - rows.start[:-1])[members].sum(1)
    arrays = [part.numpy() for part in rows]

    def piece(part: tuple[Tensor, int]) -> list[np.ndarray]:
        own, room = part
        column, value, count = np.empty(room, np.int32), np.empty(room, np.float32), np.empty(len(own), np.int64)
        used = loop(*arrays, own.numpy(), len(members), column, value, count)
        return [column[:used].copy(), value[:used].copy(), count]

    step = max(1, -(-len(members) // _PIECES))
    rooms = [int(part.sum()) for part in counts.split(step)]
    found = in_threads(piece, zip(members.contiguous().split(step), rooms, strict=True))
    column, value, count = (torch.from_numpy(np.concatenate(parts)) for parts in zip(*found, strict=True))
    return Sparse.of(count, column, value)


def _with_torch(rows: Sparse, members: Tensor) -> Sparse:
    total, size = members.shape
    columns, values, counts = [], [], []
    step = max(1, _SCRATCH_ELEMENTS // total)
    for start in range(0, total, step):
        mine = members[start : start + step]
        owner, column, value = rows.take(mine.flatten())
        mean = torch.zeros(len(mine) * total, device=mine.device)
        mean.index_add_(0, owner.div_(size, rounding_mode="floor").mul_(total).add_(column), value)
        row, column = mean.view(len(mine), total).nonzero(as_tuple=True)
        columns.append(column.int())
        values.append(mean[mean != 0])
        counts.append(torch.bincount(row, minlength=len(mine)))
    return Sparse.of(torch.cat(counts), torch.cat(columns), torch.cat(values))
