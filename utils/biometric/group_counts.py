"""Counts of matches between units: a unit is the images of one person that are in one group."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.biometric.bootstrap.subjects import Subjects
from utils.biometric.comparisons import Comparisons
from utils.biometric.groups import GroupErrors


class Units(NamedTuple):
    """Numbers of the units of query [Q] and gallery images [G] (-1: no group), and each unit's person and group [U]."""

    query: Tensor
    gallery: Tensor
    subject: np.ndarray
    group: np.ndarray


def number_units(subjects: Subjects, groups: Sequence[Tensor]) -> Units:
    """Units of the images whose groups [Q] and [G] are given; -1 for none."""
    both = torch.cat([subjects.query, subjects.gallery]), torch.cat(list(groups))
    key = torch.stack(both)[:, both[1] >= 0]
    units, place = torch.unique(key, dim=1, return_inverse=True)
    number = torch.full_like(both[1], -1)
    number[both[1] >= 0] = place
    sides = number[: len(subjects.query)], number[len(subjects.query) :]
    return Units(*sides, units[0].numpy(), units[1].numpy())


class UnitCounts(NamedTuple):
    """Comparisons [U, U] of each kind between units, and those at or above the threshold."""

    units: Units
    genuine: np.ndarray
    accepted: np.ndarray
    impostor: np.ndarray
    matched: np.ndarray

    def by_group(self, names: Sequence[str], drawn: np.ndarray | None = None) -> GroupErrors:
        """Sums over groups; with the people ``drawn`` [N] so often, where that is given."""
        often = np.ones(1 + self.units.subject.max(), dtype=np.int64) if drawn is None else drawn
        weight = often[self.units.subject]
        same = self.units.subject[:, None] == self.units.subject
        pair = np.where(same, weight[:, None], weight[:, None] * weight)
        member = self.units.group[None] == np.arange(len(names))[:, None]

        def total(counts: np.ndarray) -> np.ndarray:
            return member @ (counts * pair) @ member.T

        genuine, accepted = (total(part).sum(1) for part in (self.genuine, self.accepted))
        return GroupErrors(names, genuine, genuine - accepted, total(self.impostor), total(self.matched))


def count_units(blocks: Iterable[Comparisons], units: Units, threshold: float) -> UnitCounts:
    """Count comparisons and matches between units at one threshold."""
    count = len(units.subject)
    sums = torch.zeros(4, count * count, dtype=torch.int64)
    for block in blocks:
        query = units.query[block.queries, None]
        cell = query * count + units.gallery
        known = block.counted.cpu() & (query >= 0) & (units.gallery >= 0)
        same, matched = block.same.cpu(), (block.scores >= threshold).cpu()
        for total, chosen in zip(sums, (same, same & matched, ~same, ~same & matched), strict=True):
            total += torch.bincount(cell[known & chosen], minlength=count * count)
    return UnitCounts(units, *(part.view(count, count).numpy() for part in sums))
