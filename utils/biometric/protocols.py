"""Comparisons as a list of pairs of rows, and those that FVC counts."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from utils.errors import ReIDError


class Pairs(NamedTuple):
    """Comparisons [P] of row ``left`` with row ``right``, genuine where ``same``."""

    left: Tensor
    right: Tensor
    same: Tensor


def fvc(pids: Tensor) -> Pairs:
    """FVC2000: all unordered genuine pairs; impostor pairs of the first images of two people.

    Args:
        pids: [N] identities; a negative one is junk and in no pair.

    Raises:
        ReIDError: there is no genuine or no impostor pair.
    """
    place = (pids >= 0).nonzero()[:, 0]
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
