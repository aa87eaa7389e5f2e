"""Open-set identification in replicates of the subject bootstrap.

Enrolled people and those who only probe are drawn together. Other people rank ahead of a probe's own person as often as
they were drawn; copies of the own person never do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.biometric.open_set import best_by_group

_CANDIDATES = 64


class Drawn(NamedTuple):
    """FPIR-bound FNIR of each replicate.

    Attributes:
        fnir: [F, B] FNIR at rank R and the lowest threshold with FPIR at most each wanted one.
        rank1: [B] closed-set rank-1 rate of the mated probes.
    """

    fnir: np.ndarray
    rank1: np.ndarray


def resample_searches(
    blocks: Iterable[tuple[slice, Tensor]],
    probe_pids: Tensor,
    template_pids: Tensor,
    subject_of: Tensor,
    drawn: np.ndarray,
    fpirs: Sequence[float],
    rank: int = 1,
) -> Drawn:
    """FNIR at given FPIRs with the people drawn.

    Args:
        blocks: probes and their scores [p, T] with all templates.
        probe_pids, template_pids: identities [P] and [T].
        subject_of: [I] subject of each identity.
        drawn: [B, N] of :func:`utils.biometric.bootstrap.subjects.draw_people`.
        fpirs: [F].
        rank: the own person must be among the first so many.
    """
    people, column = torch.unique(template_pids, return_inverse=True)
    weights = torch.from_numpy(drawn)
    enrolled_weights = weights[:, subject_of[people]]
    mated = torch.isin(probe_pids, people)
    own, within, top, mated_weight, other_weight = [], [], [], [], []
    for queries, scores in blocks:
        best = best_by_group(scores, column, len(people)).cpu()
        known, pids = mated[queries], probe_pids[queries]
        place = torch.searchsorted(people, pids[known])[:, None]
        own.append(best[known].gather(1, place)[:, 0])
        ahead = best[known] >= own[-1][:, None]
        # Copies of the probe's subject do not count against it; its other hands in its own copy do, once.
        same = subject_of[people] == subject_of[pids[known]][:, None]
        once = (ahead & same).scatter(1, place, False).sum(1, keepdim=True)
        before = (ahead & ~same).float() @ enrolled_weights.T.float() + once
        within.append(before < rank)
        mated_weight.append(weights[:, subject_of[pids[known]]].T)
        top.append(_top_scores(best[~known], enrolled_weights))
        other_weight.append(weights[:, subject_of[pids[~known]]].T)
    own, within, top = torch.cat(own)[:, None], torch.cat(within), torch.cat(top).numpy()
    mated_weight, other_weight = torch.cat(mated_weight).double(), torch.cat(other_weight).numpy()
    total = mated_weight.sum(0)
    found = []
    for fpir in fpirs:
        refused = torch.from_numpy(_refused_scores(top, other_weight, fpir))
        right = (within & (own > refused)).double().mul_(mated_weight).sum(0)
        found.append((1 - right / total).numpy())
    return Drawn(np.array(found), (within.double().mul_(mated_weight).sum(0) / total).numpy())


def _top_scores(best: Tensor, weights: Tensor) -> Tensor:
    """Highest score [p, B] among the enrolled people that were drawn; ``best`` [p, E], ``weights`` [B, E]."""
    some = best.topk(min(_CANDIDATES, best.shape[1]), dim=1)
    top = best.new_full((len(best), len(weights)), -torch.inf)
    for row in range(len(best)):
        there = weights[:, some.indices[row]] > 0
        top[row] = torch.where(there.any(1), some.values[row][there.byte().argmax(1)], -torch.inf)
        for missed in (~there.any(1)).nonzero()[:, 0].tolist():
            top[row, missed] = best[row].masked_fill(weights[missed] == 0, -torch.inf).max()
    return top


def _refused_scores(top: np.ndarray, weight: np.ndarray, fpir: float) -> np.ndarray:
    """Highest score [B] that ``fpir`` does not permit, from the top scores and weights [N, B]."""
    order = np.argsort(-top, axis=0, kind="stable")
    ordered = np.take_along_axis(top, order, axis=0)
    positives = np.take_along_axis(weight, order, axis=0).cumsum(0)
    permitted = np.floor(fpir * positives[-1] * (1 + 1e-12))
    beyond = positives > permitted
    first = beyond.argmax(0)
    refused = np.take_along_axis(ordered, first[None], axis=0)[0]
    return np.where(beyond.any(0), refused, -np.inf)
