"""What sparse non-negative rows have in common: the sum of min(a, b) over the columns.

On the CPU a compiled loop where numba is installed, else torch. Both add the same numbers in the same order.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from utils.retrieval.compiled import compiled_loops

_PAIRS_AT_ONCE = {"cpu": 2**17, "other": 2**24}


class Sparse(NamedTuple):
    """Rows of non-negative numbers: those of row i are ``start[i]`` to ``start[i + 1]`` of the other two."""

    start: Tensor
    column: Tensor
    value: Tensor

    @classmethod
    def of(cls, counts: Tensor, column: Tensor, value: Tensor) -> Sparse:
        """From the length of each row."""
        return cls(torch.nn.functional.pad(counts.cumsum(0), (1, 0)), column, value)

    def take(self, row: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The entries of the given rows, one row after another: position in ``row``, column and value."""
        count = self.start[row + 1] - self.start[row]
        owner = torch.repeat_interleave(count)
        shift = self.start[row] - count.cumsum(0) + count
        place = torch.index_select(shift, 0, owner).add_(torch.arange(len(owner), device=row.device))
        return owner, torch.index_select(self.column, 0, place), torch.index_select(self.value, 0, place)


def shared_weight(encoding: Sparse, inverted: Sparse, start: int, stop: int, num_gallery: int) -> Tensor:
    """Sum over all columns of min(V_q, V_g), for the rows q from ``start`` to ``stop`` and all gallery items: [q, G].

    Args:
        encoding: V, float32, with int32 columns.
        inverted: for each column of V the gallery items g that have it, int32 from 0, and V_g there.
        num_gallery: G.
    """
    loops = compiled_loops() if encoding.value.device.type == "cpu" else None
    if loops is None:
        return _with_torch(encoding, inverted, start, stop, num_gallery)
    shared = torch.zeros(stop - start, num_gallery)
    loops.add_shared(*(part.numpy() for part in (*encoding, *inverted)), start, shared.numpy())
    return shared


def _with_torch(encoding: Sparse, inverted: Sparse, start: int, stop: int, num_gallery: int) -> Tensor:
    entries = slice(int(encoding.start[start]), int(encoding.start[stop]))
    column, value = encoding.column[entries].long(), encoding.value[entries]
    count = encoding.start[start + 1 : stop + 1] - encoding.start[start:stop]
    target = torch.repeat_interleave(torch.arange(stop - start, device=count.device) * num_gallery, count)
    shared = torch.zeros((stop - start) * num_gallery, device=count.device)
    work = (inverted.start[column + 1] - inverted.start[column]).cumsum(0)
    piece = _PAIRS_AT_ONCE["cpu" if work.device.type == "cpu" else "other"]
    limits = torch.arange(piece, int(work[-1]) + piece, piece, device=work.device)
    begin = 0
    for end in torch.searchsorted(work, limits).add_(1).clamp_(max=len(work)).tolist():
        owner, item, weight = inverted.take(column[begin:end])
        place = torch.index_select(target[begin:end], 0, owner).add_(item)
        weight = torch.minimum(torch.index_select(value[begin:end], 0, owner), weight)
        shared.index_add_(0, place, weight)
        begin = end
    return shared.view(stop - start, num_gallery)
