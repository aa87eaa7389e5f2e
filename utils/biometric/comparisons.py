"""Which comparisons of query and gallery count, with their scores, in blocks of bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.biometric.pair_scores import block_rows, check_features, score_blocks
from utils.biometric.protocols import Pairs
from utils.errors import require_choice
from utils.retrieval.features import Features, check_widths, device_of
from utils.retrieval.identities import CAMERA_RULES, JUNK, IdentityPairs


class Comparisons(NamedTuple):
    """Comparisons of some queries with the whole gallery.

    Attributes:
        queries: which.
        scores: [q, G] in float64.
        same: [q, G] of one identity.
        counted: [q, G] false for junk and for pairs that the protocol leaves out.
    """

    queries: slice
    scores: Tensor
    same: Tensor
    counted: Tensor


@dataclass(frozen=True)
class Crossing:
    """Every query with every gallery image, but for what the protocol leaves out.

    Attributes:
        query, gallery: features and labels; identity -1 (junk) takes no part.
        camera_rule: ``"market"`` leaves out genuine pairs under the same camera (or in the same session).
        copies: numbers [Q] and [G] of the files' contents; an image is never compared with itself or with a copy of
            its file. None where no image is on both sides.
        once: query and gallery are one list, each unordered pair of which counts once.
        chunk_size: queries at a time; by default what suits the device.
        device: where to compute; by default where the query features are.
        scores: [Q, G] of another matcher in place of cosines, which may be mapped from disk.
    """

    query: Features
    gallery: Features
    camera_rule: str = "none"
    copies: tuple[Tensor, Tensor] | None = None
    once: bool = False
    chunk_size: int | None = None
    device: torch.device | str | None = None
    scores: np.ndarray | None = None

    def __post_init__(self) -> None:
        require_choice("DATASETS.CAMERA_RULE", self.camera_rule, CAMERA_RULES)
        check_widths(self.query.features, self.gallery.features)
        check_features(self.query.features, self.gallery.features)

    def blocks(self) -> Iterator[Comparisons]:
        """All comparisons, each once; may be called again."""
        where = device_of(self.query.features, self.device)
        if self.scores is None:
            found = score_blocks(self.query.features, self.gallery.features, chunk_size=self.chunk_size, device=where)
        else:
            found = _given_scores(self.scores, self.chunk_size)
        for queries, scores in found:
            yield Comparisons(queries, scores, *self._labels(queries, scores.device))

    def _labels(self, queries: slice, device: torch.device) -> tuple[Tensor, Tensor]:
        query, gallery = self.query.pids[queries, None].to(device), self.gallery.pids.to(device)
        same = query == gallery
        counted = (query != JUNK) & (gallery != JUNK)
        if self.camera_rule == "market":
            counted &= ~(same & (self.query.camids[queries, None] == self.gallery.camids).to(device))
        if self.copies is not None:
            counted &= (self.copies[0][queries, None] != self.copies[1]).to(device)
        if self.once:
            rows = torch.arange(queries.start, queries.start + len(same), device=device)
            counted &= rows[:, None] < torch.arange(len(gallery), device=device)
        return same, counted

    def has_match(self) -> Tensor:
        """[Q] whether a query has a genuine comparison, from the labels alone."""
        query, gallery = self.query, self.gallery
        pairs = IdentityPairs(query.pids, gallery.pids, query.camids, gallery.camids, self.camera_rule)
        found = torch.zeros(len(query), dtype=torch.bool)
        for start, stop in pairs.blocks():
            row, column, counted = pairs.pairs(start, stop)
            row = row + start
            if self.copies is not None:
                counted = counted & (self.copies[0][row] != self.copies[1][column])
            if self.once:
                counted = counted & (row < column)
            found[row[counted]] = True
        return found

    def no_comparison(self, kind: str) -> str:
        """Why there may be no comparison of a kind, for messages."""
        if kind == "impostor":
            return "all pairs of a query and a gallery image are of the same person; verification needs two."
        rule = " once images of the same camera are ignored" if self.camera_rule == "market" else ""
        return (
            f"none of the {len(self.query)} query images has a match in the gallery{rule} (camera rule "
            f"{self.camera_rule!r}). Put other images of the query people into the gallery, or, for data without "
            "cameras, set DATASETS.CAMERA_RULE to 'none'."
        )


def _given_scores(scores: np.ndarray, chunk_size: int | None) -> Iterator[tuple[slice, Tensor]]:
    """Queries and their scores [q, G] in float64, as :func:`utils.biometric.pair_scores.score_blocks` gives them."""
    step = block_rows(scores.shape[1], torch.device("cpu"), chunk_size)
    for start in range(0, len(scores), step):
        queries = slice(start, min(start + step, len(scores)))
        yield queries, torch.from_numpy(scores[queries].astype(np.float64))


def listed_blocks(pairs: Pairs, scores: Tensor, rows: int, columns: int) -> Iterator[Comparisons]:
    """A list of pairs as comparisons of ``rows`` queries with ``columns`` gallery images, all others left out.

    Args:
        pairs: rows of the query and of the gallery.
        scores: [P] of the pairs.
    """
    order = pairs.left.argsort(stable=True)
    bounds = torch.searchsorted(pairs.left[order].contiguous(), torch.arange(rows + 1))
    step = max(1, 2**22 // max(1, columns))
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        chosen = order[bounds[start] : bounds[stop]]
        place = pairs.left[chosen] - start, pairs.right[chosen]
        block = torch.zeros(stop - start, columns, dtype=torch.float64)
        same, counted = (torch.zeros(stop - start, columns, dtype=torch.bool) for _ in range(2))
        block[place], same[place], counted[place] = scores[chosen], pairs.same[chosen], True
        yield Comparisons(slice(start, stop), block, same, counted)
