"""Which comparisons a protocol counts: all against all, FVC, a given list of pairs.

All of them give pairs of rows and whether each is genuine; junk (negative identities) is in none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from utils.errors import ReIDError

_PAIRS_AT_A_TIME = 2**20


class Pairs(NamedTuple):
    """Comparisons [P] of row ``left`` with row ``right``, genuine where ``same``."""

    left: Tensor
    right: Tensor
    same: Tensor


def all_against_all(
    pids: Tensor,
    *,
    camids: Tensor | None = None,
    copies: Tensor | None = None,
    at_a_time: int = _PAIRS_AT_A_TIME,
) -> Iterator[Pairs]:
    """Each unordered pair of two different images once, in blocks.

    Args:
        pids: [N] identities; junk takes no part.
        camids: [N]; where given, genuine pairs under one camera are left out (camera rule ``market``).
        copies: [N] number of the file's content; two images with the same number are never compared.
        at_a_time: pairs in a block, about.
    """
    known = (pids >= 0).nonzero()[:, 0]
    step = max(1, at_a_time // max(1, len(known)))
    for start in range(0, len(known) - 1, step):
        rows = torch.arange(start, min(start + step, len(known) - 1))
        count = len(known) - 1 - rows
        first = torch.repeat_interleave(rows, count)
        ends = count.cumsum(0)
        second = first + 1 + torch.arange(int(ends[-1])) - torch.repeat_interleave(ends - count, count)
        left, right = known[first], known[second]
        same = pids[left] == pids[right]
        kept = torch.ones_like(same)
        if camids is not None:
            kept &= ~(same & (camids[left] == camids[right]))
        if copies is not None:
            kept &= copies[left] != copies[right]
        yield Pairs(left[kept], right[kept], same[kept])


def fvc(pids: Tensor, order: Sequence[int] | None = None) -> Pairs:
    """FVC2000: all unordered genuine pairs; impostor pairs of the first images of two people.

    Args:
        pids: [N] identities.
        order: [N] sorts the images of an identity (sample numbers); the first one is compared with other people's.
    """
    place = torch.arange(len(pids)) if order is None else torch.as_tensor(order).argsort(stable=True)
    place = place[pids[place] >= 0]
    place = place[pids[place].argsort(stable=True)]
    people, count = pids[place].unique_consecutive(return_counts=True)
    within = [torch.combinations(part) for part in place.split(count.tolist()) if len(part) > 1]
    if not within or len(people) < 2:
        raise ReIDError(
            f"the FVC protocol needs two identities, one of them with two images; found {len(people)} identities with "
            f"at most {int(count.max()) if len(count) else 0} images."
        )
    genuine = torch.cat(within)
    impostor = torch.combinations(place[count.cumsum(0) - count])
    both = torch.cat([genuine, impostor])
    return Pairs(both[:, 0], both[:, 1], torch.arange(len(both)) < len(genuine))
