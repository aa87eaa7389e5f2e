"""Templates: several images of a person as one reference, and several images of a probe as one query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.biometric.open_set import best_by_group
from utils.biometric.pair_scores import unit_rows
from utils.compute.device import wide_device
from utils.retrieval.features import device_of

RULES = ("mean_feature", "best", "mean_score")
_ROWS = 2**13


class Groups(NamedTuple):
    """Images that make up templates.

    Attributes:
        rows: [I] image numbers, group by group.
        group: [I] template of each.
        pids: [G] identity of each template.
    """

    rows: Tensor
    group: Tensor
    pids: Tensor


def choose_images(
    pids: Tensor | np.ndarray, size: int, seed: int | None = None, *, every: bool = False, apart: Sequence | None = None
) -> Groups:
    """Group the images of each identity into templates of ``size`` images; identities with fewer are left out.

    Args:
        pids: [N] identity of each image; negative ones (junk) make no template.
        size: images of a template.
        seed: shuffles the images of an identity before; None takes them in their order.
        every: make as many templates of an identity as its images allow (probes), not just one (enrolment).
        apart: [N] what must be equal within a template besides the identity, such as the session.
    """
    labels = torch.as_tensor(pids)
    order = np.arange(len(labels)) if seed is None else np.random.default_rng(seed).permutation(len(labels))
    key = np.stack([labels.numpy(), np.zeros(len(labels), int) if apart is None else np.asarray(apart)])
    _, place = np.unique(key, axis=1, return_inverse=True)
    order = order[np.argsort(place[order], kind="stable")]
    sorted_place = place[order]
    within = np.arange(len(order)) - np.searchsorted(sorted_place, sorted_place, side="left")
    count = np.bincount(place, minlength=place.max() + 1)[sorted_place] if len(order) else within
    full = (count // size if every else np.minimum(count // size, 1)) * size
    order = order[(within < full) & (labels.numpy()[order] >= 0)]
    group = torch.arange(len(order)) // size
    rows = torch.from_numpy(order)
    return Groups(rows, group, labels[rows[::size]])


def mean_features(features: Tensor | np.ndarray, groups: Groups) -> Tensor:
    """Mean of the unit features of each group, normalised again: [G, D] in float64."""
    where = wide_device(device_of(features))
    total = torch.zeros(len(groups.pids), features.shape[1], dtype=torch.float64, device=where)
    for start in range(0, len(groups.rows), _ROWS):
        part = slice(start, start + _ROWS)
        total.index_add_(0, groups.group[part].to(where), unit_rows(features, groups.rows[part], where))
    return torch.nn.functional.normalize(total, dim=1)


def join_columns(scores: Tensor, group: Tensor, groups: int, rule: str) -> Tensor:
    """Scores [q, I] with single images to scores [q, groups] with templates: their ``best`` or ``mean_score``."""
    if rule == "best":
        return best_by_group(scores, group, groups)
    where = group.to(scores.device)
    total = scores.new_zeros(len(scores), groups).index_add_(1, where, scores)
    return total / torch.bincount(where, minlength=groups)


def join_rows(scores: Tensor, group: Tensor, groups: int, rule: str) -> Tensor:
    """:func:`join_columns` for rows that are images of one probe: [I, T] to [groups, T]."""
    return join_columns(scores.T, group, groups, rule).T
