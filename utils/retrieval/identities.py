"""Which gallery items are of a query's identity, found from sorted labels: no query x gallery matrix of labels."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from utils.errors import ReIDError, require_choice

JUNK = -1
"""Identity of images that count neither as right nor as wrong."""

CAMERA_RULES = ("market", "none")

_BLOCK_ELEMENTS = 2**22

_MOST_ROWS = 2**15
"""Queries of a block: the evaluation keeps 4 KB of each."""


class IdentityPairs:
    """Pairs of a query and a gallery item of the same identity; junk has none.

    Args:
        query_pids, query_camids: int64 [Q].
        gallery_pids, gallery_camids: int64 [G].
        camera_rule: ``"market"`` excludes pairs under the same camera from the matches; ``"none"`` excludes none.

    Raises:
        ReIDError: unknown camera rule.
    """

    def __init__(
        self,
        query_pids: Tensor,
        gallery_pids: Tensor,
        query_camids: Tensor,
        gallery_camids: Tensor,
        camera_rule: str,
    ) -> None:
        require_choice("DATASETS.CAMERA_RULE", camera_rule, CAMERA_RULES)
        self.query_pids, self.gallery_pids = query_pids, gallery_pids
        self.query_camids, self.gallery_camids = query_camids, gallery_camids
        self.camera_rule = camera_rule
        self.junk = (gallery_pids == JUNK).nonzero()[:, 0]
        ordered, self.by_pid = torch.sort(gallery_pids, stable=True)
        self.first = torch.searchsorted(ordered, query_pids)
        self.count = torch.searchsorted(ordered, query_pids, right=True) - self.first
        self.count[query_pids == JUNK] = 0

    def blocks(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, int]]:
        """The queries ``start`` to ``stop`` in ranges so small that a table of their pairs fits in memory."""
        first, widest = start, 1
        counts = self.count[start:stop].tolist()
        for i, count in enumerate(counts, start):
            if i - first == _MOST_ROWS or (i > first and max(widest, count) * (i + 1 - first) > _BLOCK_ELEMENTS):
                yield first, i
                first, widest = i, 1
            widest = max(widest, count)
        yield first, start + len(counts)

    def pairs(self, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        """All pairs of the queries ``start`` to ``stop``, by query, then by gallery index: the query counted from
        ``start``, the gallery index, and whether the pair is a match under the camera rule.
        """
        count = self.count[start:stop]
        row = torch.repeat_interleave(count)
        within = torch.arange(len(row)) - (count.cumsum(0) - count)[row]
        column = self.by_pid[self.first[start:stop][row] + within]
        if self.camera_rule == "none":
            return row, column, torch.ones_like(row, dtype=torch.bool)
        return row, column, self.query_camids[row + start] != self.gallery_camids[column]

    def ignored(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Pairs that do not count for the queries ``start`` to ``stop``: same person under the same camera, and junk.
        The query is counted from ``start``.
        """
        row, column, is_match = self.pairs(start, stop)
        queries = torch.arange(stop - start)
        row = torch.cat([row[~is_match], queries.repeat_interleave(len(self.junk))])
        return row, torch.cat([column[~is_match], self.junk.repeat(len(queries))])

    def no_match(self) -> ReIDError:
        """The error to raise where no query has a match."""
        rule = " once images of the same camera are ignored" if self.camera_rule == "market" else ""
        return ReIDError(
            f"none of the {len(self.query_pids)} query images has a match in the gallery{rule} (camera rule "
            f"{self.camera_rule!r}). Put other images of the query people into the gallery, or, for data without "
            "cameras, set DATASETS.CAMERA_RULE to 'none'."
        )


def inside(row: Tensor, column: Tensor, shape: torch.Size) -> Tensor:
    """Which positions lie in a tile of this shape."""
    return (row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1])
