"""Score normalisation with a cohort: images of people who are not compared.

Standard deviations are those of the population (divisor n). References: z- and t-norm, Auckenthaler et al. 2000;
s-norm, Kenny 2010; adaptive s-norm, Matejka et al. 2017 (its AS-norm1).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from utils.errors import ReIDError

RULES = ("z", "t", "s", "as")


class Spread(NamedTuple):
    """Mean and standard deviation [N] of the scores of each image with its cohort."""

    mean: Tensor
    std: Tensor


def cohort_spread(
    scores: Tensor, pids: Tensor | None = None, cohort_pids: Tensor | None = None, top: int | None = None
) -> Spread:
    """Mean and population standard deviation of cohort scores [N, C].

    Args:
        scores: of each image with each cohort member.
        pids, cohort_pids: identities [N] and [C]; members of the image's own identity are left out first. None where
            cohort and images share no person.
        top: only so many of the highest scores of each image count; None for all.

    Raises:
        ReIDError: an image has fewer than two members left, or all its members score the same.
    """
    left_out = torch.zeros_like(scores, dtype=torch.bool) if pids is None else pids[:, None] == cohort_pids
    count = (~left_out).sum(1)
    if int(count.min()) < 2:
        raise ReIDError(
            f"score normalisation: {int((count < 2).sum())} of {len(count)} images have fewer than two cohort images "
            "of other people. Take a larger cohort."
        )
    if top is not None:
        kept = scores.masked_fill(left_out, -torch.inf).topk(min(top, scores.shape[1]), dim=1).values
        left_out = torch.isinf(kept)
        scores, count = kept, (~left_out).sum(1)
    mean = scores.masked_fill(left_out, 0).sum(1) / count
    variance = (scores - mean[:, None]).masked_fill(left_out, 0).square().sum(1) / count
    if not bool((variance > 0).all()):
        raise ReIDError("score normalisation: an image scores the same with all of its cohort; the features are equal.")
    return Spread(mean, variance.sqrt())


def normalise(scores: Tensor, rule: str, references: Spread, probes: Spread) -> Tensor:
    """Normalised scores [R, P] of references (rows) with probes (columns).

    ``z`` uses the spread of the reference, ``t`` that of the probe, ``s`` and ``as`` are the mean of both; for
    ``as`` the spreads are those of the top members.
    """
    z = (scores - references.mean[:, None]) / references.std[:, None]
    t = (scores - probes.mean) / probes.std
    return {"z": z, "t": t}.get(rule, (z + t) / 2)


def zt_norm(scores: Tensor, references: Tensor, probes: Tensor, cohort: Tensor, cohort_pids: Tensor) -> Tensor:
    """zt-norm [R, P]: z-norm of the scores and of the cohort as references, then t-norm by the latter.

    Args:
        scores: [R, P].
        references, probes: their scores with the cohort [R, C] and [P, C].
        cohort: scores within the cohort [C, C]; members of one identity are left out.
        cohort_pids: [C].
    """
    z_of_reference = cohort_spread(references)
    z = (scores - z_of_reference.mean[:, None]) / z_of_reference.std[:, None]
    z_of_cohort = cohort_spread(cohort, cohort_pids, cohort_pids)
    t = cohort_spread((probes - z_of_cohort.mean) / z_of_cohort.std)
    return (z - t.mean) / t.std


def sample_rows(count: int, most: int, seed: int) -> Tensor:
    """At most ``most`` of ``count`` rows, ascending, drawn with ``seed``: a cohort of bounded size."""
    if count <= most:
        return torch.arange(count)
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:most].sort().values


def default_top(cohort: int) -> int:
    """Members that adaptive s-norm takes where none are named: a tenth of the cohort, 20 to 400."""
    return min(cohort, max(20, min(400, math.ceil(cohort / 10))))
