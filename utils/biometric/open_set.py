"""Open-set identification (ISO/IEC 19795-1): which enrolled person a probe shows, if any.

A probe of an enrolled person is mated, any other non-mated. FPIR(t), the false positive identification rate, is the
share of the non-mated probes with at least one enrolled person at score t or above. FNIR(R, t), the false negative
identification rate, is the share of the mated probes whose own person scores below t or is not among the first R.
DIR(R, t) = 1 - FNIR(R, t) is the detection and identification rate. People are ranked, not their images, and a tie
counts against the system. Both rates depend on the number of enrolled people, which belongs beside them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from utils.biometric.error_rates import RULE_OF_30
from utils.biometric.pair_scores import score_blocks
from utils.errors import ReIDError


@dataclass(frozen=True)
class Searches:
    """What the search of each probe among the enrolled people found.

    Attributes:
        own: [M] score of a mated probe with its own person.
        rank: [M] 1 + number of other people at or above that score.
        other: [M] best score of a mated probe with another person; -inf where no other person is enrolled.
        top: [N] best score of a non-mated probe.
        enrolled: number of enrolled people.
    """

    own: np.ndarray
    rank: np.ndarray
    other: np.ndarray
    top: np.ndarray
    enrolled: int

    @property
    def num_mated(self) -> int:
        """Mated searches."""
        return len(self.own)

    @property
    def num_nonmated(self) -> int:
        """Non-mated searches."""
        return len(self.top)

    def fpir(self, thresholds: Sequence[float] | np.ndarray) -> np.ndarray:
        """FPIR [T] at thresholds [T]."""
        return _share_from(np.sort(self.top), thresholds)

    def dir(self, thresholds: Sequence[float] | np.ndarray, rank: int | None = 1) -> np.ndarray:
        """DIR [T] at thresholds [T] among the first ``rank`` people; of any rank for None."""
        found = self.own if rank is None else self.own[self.rank <= rank]
        return _share_from(np.sort(found), thresholds, self.num_mated)

    def fnir(self, thresholds: Sequence[float] | np.ndarray, rank: int | None = 1) -> np.ndarray:
        """FNIR [T] = 1 - DIR."""
        return 1 - self.dir(thresholds, rank)

    def mated_misidentification(self, thresholds: Sequence[float] | np.ndarray) -> np.ndarray:
        """Share [T] of the mated probes whose first candidate is another person at or above the threshold."""
        wrong = self.other[self.other >= self.own]
        return _share_from(np.sort(wrong), thresholds, self.num_mated)

    def identification(self, rank: int) -> float:
        """Closed-set rate: the own person is among the first ``rank``, without threshold."""
        return float((self.rank <= rank).mean())

    def refused_score(self, fpir: float) -> float:
        """Highest score that FPIR <= ``fpir`` does not permit: the lowest threshold lies just above it."""
        permitted = int(np.floor(fpir * self.num_nonmated * (1 + 1e-12)))
        descending = np.sort(self.top)[::-1]
        return float(descending[permitted]) if permitted < len(descending) else -np.inf

    def threshold_at(self, fpir: float) -> float:
        """Lowest threshold with FPIR <= ``fpir``."""
        return float(np.nextafter(self.refused_score(fpir), np.inf))

    def is_supported(self, fpir: float) -> bool:
        """Whether :data:`RULE_OF_30` false positives are expected at this FPIR."""
        return fpir * self.num_nonmated * (1 + 1e-12) >= RULE_OF_30


def _share_from(ascending: np.ndarray, thresholds: Sequence[float] | np.ndarray, of: int | None = None) -> np.ndarray:
    """Share of the values at or above each threshold, of ``of`` or of all."""
    below = np.searchsorted(ascending, np.asarray(thresholds, dtype=np.float64), side="left")
    return (len(ascending) - below) / (len(ascending) if of is None else of)


def search_people(
    blocks: Iterable[tuple[slice, Tensor]],
    probe_pids: Tensor | np.ndarray,
    template_pids: Tensor | np.ndarray,
) -> Searches:
    """Rank the enrolled people for each probe by the best score of their templates.

    Args:
        blocks: probes and their scores [p, T] with all templates, as of
            :func:`utils.biometric.pair_scores.score_blocks`.
        probe_pids: [P].
        template_pids: [T]; a person may have several.

    Raises:
        ReIDError: there is no mated or no non-mated probe.
    """
    probes = torch.as_tensor(probe_pids)
    people, column = torch.unique(torch.as_tensor(template_pids), return_inverse=True)
    mated = torch.isin(probes, people)
    if mated.all() or not mated.any():
        raise ReIDError(
            f"{int(mated.sum())} of {len(mated)} probes are of enrolled people. Open-set identification needs probes "
            "of people who are enrolled and probes of people who are not."
        )
    own, rank, other, top = [], [], [], []
    for queries, scores in blocks:
        best = best_by_group(scores, column, len(people)).cpu()
        known = mated[queries]
        top.append(best[~known].amax(1))
        place = torch.searchsorted(people, probes[queries][known])[:, None]
        of_known = best[known]
        own.append(of_known.gather(1, place)[:, 0])
        of_known.scatter_(1, place, -torch.inf)
        rank.append(1 + (of_known >= own[-1][:, None]).sum(1))
        other.append(of_known.amax(1))
    return Searches(*(torch.cat(part).numpy() for part in (own, rank, other, top)), enrolled=len(people))


def search_features(
    probe: Tensor | np.ndarray,
    probe_pids: Tensor | np.ndarray,
    template: Tensor | np.ndarray,
    template_pids: Tensor | np.ndarray,
    *,
    chunk_size: int | None = None,
    device: torch.device | str | None = None,
) -> Searches:
    """:func:`search_people` by the cosine similarity of features [P, D] and [T, D]."""
    blocks = score_blocks(probe, template, chunk_size=chunk_size, device=device)
    return search_people(blocks, probe_pids, template_pids)


def best_by_group(scores: Tensor, group: Tensor, groups: int) -> Tensor:
    """Highest score [q, groups] among the columns of each group; ``scores`` [q, T], ``group`` [T]."""
    if groups == scores.shape[1] and torch.equal(group, torch.arange(groups)):
        return scores
    best = scores.new_full((len(scores), groups), -torch.inf)
    return best.scatter_reduce_(1, group.to(scores.device).expand(len(scores), -1), scores, "amax")


def draw_enrolled(identities: Sequence[int], share: float, seed: int) -> np.ndarray:
    """Identities that are enrolled, ascending; ``share`` of all is left out, drawn with ``seed``.

    Raises:
        ReIDError: none or all would be left out.
    """
    people = np.unique(np.asarray(identities))
    left_out = round(share * len(people))
    if not 0 < left_out < len(people):
        raise ReIDError(
            f"leaving out {share:g} of {len(people)} identities leaves out {left_out}; at least one must be enrolled "
            "and one left out. Change TEST.OPEN_SET."
        )
    chosen = np.random.default_rng(seed).permutation(len(people))[left_out:]
    return people[np.sort(chosen)]
