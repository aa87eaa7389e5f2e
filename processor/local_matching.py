"""Matched skin detail in an evaluation: which score ``TEST.POINTS``, ``TEST.LOCAL`` and ``TEST.FUSE_LOCAL`` ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from datasets.each import of_each
from datasets.make_dataloader_clipreid import num_workers
from datasets.point_cache import Reader, find_all
from utils.retrieval.distances import Features
from utils.retrieval.local_order import LocalScores, Shortlist, order_by
from utils.retrieval.phase import phase_of, phase_scores
from utils.retrieval.points import agreeing_points

if TYPE_CHECKING:
    from torch.utils.data import DataLoader
    from yacs.config import CfgNode

    from datasets.bases import Record, ReIDDataset
    from utils.retrieval.identities import IdentityPairs

POINTS, PHASE = "agreeing points", "phase-only correlation"


def wants_local(cfg: CfgNode) -> bool:
    """Whether rankings come from anything but features."""
    return cfg.TEST.POINTS != "0" or cfg.TEST.LOCAL != "none"


@dataclass(frozen=True)
class PointScore:
    """Numbers of agreeing points."""

    points: Reader
    query: Sequence[str]
    gallery: Sequence[str]

    def __call__(self, wanted: Shortlist) -> np.ndarray:
        """Counts [n] of the pairs."""
        own = self.points.read(self.query[wanted.query])
        found = (agreeing_points(own, self.points.read(self.gallery[column])).count for column in wanted.columns)
        return np.fromiter(found, np.float32, len(wanted.columns))


@dataclass(frozen=True)
class PhaseScore:
    """Peaks of the phase-only correlation; ``query`` [Q, r, c] and ``gallery`` [G, r, c] are phases."""

    query: Tensor
    gallery: Tensor

    def __call__(self, wanted: Shortlist) -> np.ndarray:
        """Peaks [n] of the pairs."""
        return phase_scores(self.query[wanted.query], self.gallery[torch.from_numpy(wanted.columns)]).numpy()


class LocalMatching:
    """What is computed once for all images of a data set, and the scores of any query and gallery among them.

    Args:
        cfg: ``TEST`` and ``INPUT`` are read.
        dataset: how its files are read.
        loader: of the test images; its pictures are what phase-only correlation compares.
    """

    def __init__(self, cfg: CfgNode, dataset: ReIDDataset, loader: DataLoader) -> None:
        self.cfg, self.dataset, self.images = cfg, dataset, loader.dataset
        self.workers = num_workers(cfg)

    @cached_property
    def points(self) -> Reader:
        """Of the test images."""
        return find_all(self.cfg, [record.path for record in self.images.records], self.dataset.reading)

    @cached_property
    def phases(self) -> dict[str, Tensor]:
        """Of the test images, by path: 7 KB an image of 112 x 224 pixels."""
        return self.phases_of([record.path for record in self.images.records])

    def phases_of(self, paths: Sequence[str]) -> dict[str, Tensor]:
        """Phases of some images as the network sees them, by path."""
        found = of_each(partial(_phase, self.images.read), paths, self.workers, "phases", "evaluation")
        # Copies: what worker processes hand over is shared memory, which keeps a file open as long as it lives.
        return {path: phase.clone() for path, phase in zip(paths, found, strict=True)}

    def order(
        self,
        query: Sequence[Record],
        gallery: Sequence[Record],
        features: tuple[Features, Features],
        distances: Iterable[Tensor],
        pairs: IdentityPairs,
    ) -> LocalScores:
        """The ranking of one trial.

        Args:
            query, gallery: its images.
            features: of them.
            distances: [q, G] of them, blocks in order.
            pairs: what does not count.
        """
        asked, known = ([record.path for record in part] for part in (query, gallery))
        keys = self.cfg.TEST
        if keys.LOCAL == "poc":
            score, name = self._phase_score(asked, known), PHASE
        else:
            score, name = PointScore(self.points, asked, known), POINTS
        nearest = int(keys.POINTS) if keys.POINTS not in ("0", "all") else None
        return order_by(self._of_all(score), name, distances, pairs, nearest)

    def _phase_score(self, query: Sequence[str], gallery: Sequence[str]) -> PhaseScore:
        return PhaseScore(*(torch.stack([self.phases[path] for path in part]) for part in (query, gallery)))

    def _of_all(
        self, score: Callable[[Shortlist], np.ndarray]
    ) -> Callable[[Sequence[Shortlist]], Iterable[np.ndarray]]:
        return lambda lists: of_each(score, lists, self.workers, "comparing details", "evaluation")


def _phase(read: Callable, path: str) -> Tensor:
    return phase_of(read(path))
