"""Rankings in replicates of the subject bootstrap: mAP, CMC and mINP with the people drawn as query and gallery."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from utils.biometric.bootstrap.subjects import Subjects
from utils.biometric.comparisons import Comparisons

_ELEMENTS = 2**23

_GRAIN = 2.0**-36


@dataclass
class RankReplicates:
    """Sums over the queries of each replicate [B].

    Attributes:
        weight: queries that have a match, each as often as its person was drawn.
        precision, penalty: of their average precisions and inverse negative penalties.
        found: [B, K] of those whose first match is among the first k.
    """

    weight: np.ndarray
    precision: np.ndarray
    penalty: np.ndarray
    found: np.ndarray

    def measures(self) -> dict[str, np.ndarray]:
        """mAP, Rank-k and mINP [B] as fractions; NaN where no person with a match was drawn."""
        with np.errstate(invalid="ignore"):
            ranks = {f"Rank-{k}": self.found[:, k - 1] / self.weight for k in (1, 5, 10)}
            return {"mAP": self.precision / self.weight, **ranks, "mINP": self.penalty / self.weight}


def resample_rankings(
    blocks: Iterable[Comparisons],
    subjects: Subjects,
    drawn: np.ndarray,
    average_precision: str = "standard",
    max_rank: int = 10,
) -> RankReplicates:
    """Rank the gallery images of the people drawn for each query drawn.

    A query finds its matches within its own copy. Ahead of a match stand the images of other people, as often as these
    were drawn; equal scores rank by gallery index.

    Args:
        blocks: all comparisons; ``counted`` is false for junk and for pairs that the camera rule leaves out.
        subjects: the people.
        drawn: [B, N] of :func:`utils.biometric.bootstrap.subjects.draw_people`.
        average_precision: ``standard`` or ``trapezoid``.
        max_rank: of the CMC.
    """
    weights = torch.from_numpy(drawn).float()
    sums = torch.zeros(3 + max_rank, len(drawn), dtype=torch.float64)
    for block in blocks:
        match = (block.same & block.counted).cpu()
        for rows in _parts(match.sum(1), max(subjects.count, len(drawn))):
            who = subjects.query[block.queries][rows]
            other = (block.counted[rows].cpu()) & ~block.same[rows].cpu()
            ahead, known = _ahead(block.scores[rows].cpu(), match[rows], other, subjects)
            before = _weighted(ahead, who, weights)
            sums += _sum_up(before, known, weights[:, who].T.double(), average_precision, max_rank)
    return RankReplicates(sums[0].numpy(), sums[1].numpy(), sums[2].numpy(), sums[3:].T.numpy())


def _parts(matches: Tensor, width: int) -> list[Tensor]:
    """Rows with a match, in parts of bounded memory; rows with as many matches stand together."""
    rows = (matches > 0).nonzero()[:, 0]
    rows = rows[matches[rows].argsort(stable=True)]
    widest = int(matches.max()) if len(rows) else 1
    return list(rows.split(max(1, _ELEMENTS // (width * (widest + 1))))) if len(rows) else []


def _ahead(scores: Tensor, match: Tensor, other: Tensor, subjects: Subjects) -> tuple[Tensor, Tensor]:
    """Images of each person ahead of the k-th match [q, K, N], and which matches there are [q, K]."""
    count = match.sum(1)
    most = int(count.max())
    own = scores.masked_fill(~match, -torch.inf).topk(most, dim=1).values
    known = torch.arange(most) < count[:, None]
    # An image stands behind the matches above it: by score, and by index among those of the same score.
    ascending = own.flip(1).contiguous()
    behind = most - torch.searchsorted(ascending, scores.contiguous(), right=True)
    equal = behind != most - torch.searchsorted(ascending, scores.contiguous(), right=False)
    for row, column in (equal & other).nonzero().tolist():
        tied = match[row, :column] & (scores[row, :column] == scores[row, column])
        behind[row, column] += int(tied.sum())
    row, column = (other & (behind < count[:, None])).nonzero(as_tuple=True)
    place = (row * most + behind[row, column]) * subjects.count + subjects.gallery[column]
    ahead = torch.bincount(place, minlength=len(scores) * most * subjects.count)
    return ahead.view(len(scores), most, subjects.count).cumsum(1), known


def _weighted(ahead: Tensor, who: Tensor, weights: Tensor) -> Tensor:
    """Images ahead of each match in each replicate [q, K, B]; those of the query's own person count once."""
    place = who[:, None, None].expand(-1, ahead.shape[1], 1)
    own = ahead.gather(2, place)
    rest = ahead.scatter(2, place, 0)
    return rest.float() @ weights.T + own


def _sum_up(before: Tensor, known: Tensor, weight: Tensor, average_precision: str, max_rank: int) -> Tensor:
    """Weighted sums [3 + max_rank, B] over the queries: weight, AP, INP, first match found by rank k."""
    count = known.sum(1)
    hits = torch.arange(1, known.shape[1] + 1)[:, None]
    rank = (hits + before).double()
    precision = hits / rank
    if average_precision == "trapezoid":
        just_before = torch.where(rank > 1, (hits - 1) / (rank - 1).clamp(min=1), 1.0)
        precision = (precision + just_before) / 2
    precision = (precision * known[:, :, None]).sum(1) / count[:, None]
    last = rank.gather(1, (count - 1)[:, None, None].expand(-1, 1, rank.shape[2]))[:, 0]
    first = rank[:, 0]
    found = [(first <= k).double() for k in range(1, max_rank + 1)]
    # Of rounded numbers the sums are exact, so that their order, and the size of blocks, has no influence.
    rounded = ((value / _GRAIN).round_().mul_(_GRAIN) for value in (precision, count[:, None] / last))
    return torch.stack([(value * weight).sum(0) for value in (torch.ones_like(weight), *rounded, *found)])
