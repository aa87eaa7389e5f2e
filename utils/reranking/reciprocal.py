"""k-reciprocal neighbours, expanded, and their encodings (Zhong et al., CVPR 2017, equations 3 to 7).

On the CPU compiled loops where numba is installed, else torch; both find the same.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from utils.compute.threads import in_threads
from utils.reranking.neighbours import Items, Neighbours
from utils.reranking.overlap import Sparse
from utils.retrieval.compiled import compiled_loops

_SCRATCH_ELEMENTS = 2**23
_FEWEST_ROWS = 32
_PIECES = 32


def encode(items: Items, near: Neighbours, k1: int, half: int) -> Sparse:
    """V: for each item the weights exp(-d), summing to one, of its expanded set of k-reciprocal neighbours."""
    loops = compiled_loops() if near.index.device.type == "cpu" else None
    if loops is None:
        counts, column, distance = _expanded_by_torch(near, k1, half)
    else:
        counts, column, distance = _expanded_by_loops(loops, near, k1, half)
    row = torch.repeat_interleave(counts)
    missing = torch.isinf(distance).nonzero()[:, 0]
    distance[missing] = items.pair_distances(row[missing], column[missing]) / near.largest[row[missing]]
    weight = distance.neg_().exp_()
    sums = torch.zeros(len(counts), device=row.device).index_add_(0, row, weight)
    return Sparse.of(counts, column, weight.div_(sums[row]))


def _expanded_by_loops(loops: ModuleType, near: Neighbours, k1: int, half: int) -> tuple[Tensor, Tensor, Tensor]:
    """How many members each item's expanded set has [N], the members by ascending number, and their relative distances,
    infinite where the member is not among the nearest k1 + 1.
    """
    index, distance = near.index.numpy(), near.distance.numpy()
    total = len(index)
    mutual, mutual_half = (torch.empty(total, min(k, total), dtype=torch.bool) for k in (k1 + 1, half + 1))
    room = min(total, mutual.shape[1] * (1 + mutual_half.shape[1]))

    def expand(part: slice) -> tuple[Tensor, ...]:
        counts = torch.empty(part.stop - part.start, dtype=torch.int64)
        column, known = (torch.empty(room * len(counts), dtype=kind) for kind in (torch.int32, torch.float32))
        arrays = (tensor.numpy() for tensor in (mutual, mutual_half, column, known, counts))
        used = loops.expand(index, distance, part.start, *arrays)
        return counts, column[:used].clone(), known[:used].clone()

    parts = _parts(total, -(-total // _PIECES))
    for found in (mutual, mutual_half):
        in_threads(lambda part, found=found: loops.find_mutual(index, part.start, found[part].numpy()), parts)
    return _joined(expand, parts, near.index.device)


def _expanded_by_torch(near: Neighbours, k1: int, half: int) -> tuple[Tensor, Tensor, Tensor]:
    """The same."""
    total, device = len(near.index), near.index.device
    mutual, mutual_half = (_mutual(near.index[:, : k + 1]) for k in (k1, half))
    size_half = mutual_half.sum(1)

    def expand(part: slice) -> tuple[Tensor, Tensor, Tensor]:
        mine, chosen = near.index[part, : k1 + 1], mutual[part]
        member = torch.zeros(len(mine), total, dtype=torch.bool, device=device)
        row, friend = chosen.nonzero()[:, 0], mine[chosen]
        member[row, friend] = True
        # The half-sized sets of all mutual neighbours, [r * k, half + 1], kept if two thirds of them are members.
        friends, valid = near.index[friend, : half + 1], mutual_half[friend]
        overlap = (member[row[:, None], friends] & valid).sum(1)
        keep = overlap * 3 > size_half[friend] * 2
        valid = valid[keep]
        member[row[keep, None].expand_as(valid)[valid], friends[keep][valid]] = True
        known = torch.full((len(mine), total), torch.inf, device=device)
        known.scatter_(1, mine, near.distance[part, : k1 + 1])
        return member.sum(1), member.nonzero()[:, 1].int(), known[member]

    threads = torch.get_num_threads() if device.type == "cpu" else 1
    return _joined(expand, _parts(total, max(_FEWEST_ROWS, _SCRATCH_ELEMENTS // (total * threads))), device)


def _mutual(index: Tensor) -> Tensor:
    """Whether item i is among the neighbours of its own neighbour ``index[i, a]``: bool [N, k]."""
    parts = []
    step = max(1, _SCRATCH_ELEMENTS // index.shape[1] ** 2)
    for start in range(0, len(index), step):
        mine = index[start : start + step]
        own = torch.arange(start, start + len(mine), device=index.device)[:, None, None]
        parts.append((index[mine] == own).any(2))
    return torch.cat(parts)


def _parts(stop: int, step: int) -> list[slice]:
    return [slice(at, min(at + step, stop)) for at in range(0, stop, step)]


def _joined(work: Callable[[slice], tuple[Tensor, ...]], parts: list[slice], device: torch.device) -> tuple:
    return tuple(torch.cat(pieces) for pieces in zip(*in_threads(work, parts, device), strict=True))
