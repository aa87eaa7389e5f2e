"""Matched skin detail in an evaluation, by ``TEST.POINTS``, ``TEST.LOCAL`` and ``TEST.FUSE_LOCAL``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.caches.point_cache import PointReader, find_all
from datasets.reading.workers import num_workers, of_each
from processor.biometrics.local_fusion import PARTS, JointScore, fit_joint, parts_of, trusted_joint
from processor.biometrics.training import TrainingFeatures, training_features
from processor.biometrics.trust import calibration_facts
from utils.console.logger import LOGGER
from utils.retrieval.features import Features
from utils.retrieval.local_order import LocalScores, Shortlist, order_by
from utils.retrieval.phase import phase_of, phase_scores
from utils.retrieval.points import agreeing_points

if TYPE_CHECKING:
    from torch.utils.data import DataLoader
    from yacs.config import CfgNode

    from datasets.bases import Record, ReIDDataset
    from model.base import Method
    from processor.runs.run import Run
    from utils.retrieval.identities import IdentityPairs

POINTS, PHASE, JOINT = "agreeing points", "phase-only correlation", "joint score of features, points and phases"
FITTED_IMAGES = 400
"""Training images that a joint score is fitted on at most: whole people."""


def wants_local(cfg: CfgNode) -> bool:
    """Whether rankings come from anything but features."""
    return cfg.TEST.POINTS != "0" or cfg.TEST.LOCAL != "none"


@dataclass(frozen=True)
class PointScore:
    """Numbers of agreeing points."""

    points: PointReader
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


@dataclass(frozen=True)
class JointPairScore:
    """Joint scores of features, points and phases; ``query`` [Q, D] and ``gallery`` [G, D] are features of length 1."""

    joint: JointScore
    query: Tensor
    gallery: Tensor
    points: PointScore
    phases: PhaseScore

    def __call__(self, wanted: Shortlist) -> np.ndarray:
        """Scores [n] of the pairs."""
        cosine = (self.gallery[torch.from_numpy(wanted.columns)] @ self.query[wanted.query]).numpy()
        return self.joint(cosine, self.points(wanted), self.phases(wanted))


class LocalMatching:
    """What is computed once for all images of a data set, and the scores of any query and gallery among them.

    Args:
        cfg: ``TEST`` and ``INPUT`` are read.
        dataset: how its files are read.
        loader: of the test images; its pictures are what phase-only correlation compares.
        model, run: compute features of training people, and receive the joint score; None where none is fitted.
    """

    def __init__(
        self,
        cfg: CfgNode,
        dataset: ReIDDataset,
        loader: DataLoader,
        model: Method | None = None,
        run: Run | None = None,
    ) -> None:
        self.cfg, self.dataset, self.loader, self.images = cfg, dataset, loader, loader.dataset
        self.model, self.run = model, run
        self.workers = num_workers(cfg)

    @cached_property
    def points(self) -> PointReader:
        """Of the test images."""
        return find_all(self.cfg, [record.path for record in self.images.records], self.dataset)

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
        elif keys.FUSE_LOCAL == "none":
            score, name = PointScore(self.points, asked, known), POINTS
        else:
            parts = PointScore(self.points, asked, known), self._phase_score(asked, known)
            units = (F.normalize(torch.as_tensor(part.features).float().cpu()) for part in features)
            score, name = JointPairScore(self.joint, *units, *parts), JOINT
        nearest = int(keys.POINTS) if keys.POINTS not in ("0", "all") else None
        return order_by(self._of_all(score), name, distances, pairs, nearest)

    @cached_property
    def joint(self) -> JointScore:
        """Fitted on training people and written into the output folder, or read from the file that is named.

        Raises:
            ReIDError: there are no training images, or the file is of another set or other weights.
        """
        cfg, name = self.cfg, self.dataset.name
        facts = calibration_facts(cfg, Path(cfg.TEST.WEIGHT) if cfg.TEST.WEIGHT else None)
        if cfg.TEST.FUSE_LOCAL != "fit":
            return trusted_joint(Path(cfg.TEST.FUSE_LOCAL), name, facts, cfg.TEST.FUSE_LOCAL_OTHER)
        training = training_features(cfg, self.dataset, self.model, self.loader, self.run.device, FITTED_IMAGES)
        joint = fit_joint(training, partial(self._parts, training), name, facts, cfg.DATASETS.SPLIT_SEED)
        joint.save(self.run.output_dir / "local_fusion.json")
        pairs, weights = joint.pairs, zip(PARTS, joint.fusion.weights, strict=True)
        LOGGER.info(
            "joint score from %d genuine and %d impostor pairs of %d training people of %s: weights of the normalised "
            "parts: %s",
            *(*pairs, joint.people, name, ", ".join(f"{part} {weight:.2f}" for part, weight in weights)),
        )
        return joint

    def _parts(self, training: TrainingFeatures, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Parts of the joint score [P, 3] of pairs of training images."""
        paths = [record.path for record in training.records]
        phases = self.phases_of(paths)
        phases = torch.stack([phases[path] for path in paths])
        scores = PointScore(find_all(self.cfg, paths, self.dataset), paths, paths), PhaseScore(phases, phases)
        lists = [Shortlist(int(a), np.array([b])) for a, b in zip(left, right, strict=True)]
        found = [np.concatenate(list(self._of_all(score)(lists))) for score in scores]
        features = training.features.features
        cosine = (features[torch.from_numpy(left)] * features[torch.from_numpy(right)]).sum(1).numpy()
        return parts_of(cosine, *found)

    def _phase_score(self, query: Sequence[str], gallery: Sequence[str]) -> PhaseScore:
        return PhaseScore(*(torch.stack([self.phases[path] for path in part]) for part in (query, gallery)))

    def _of_all(
        self, score: Callable[[Shortlist], np.ndarray]
    ) -> Callable[[Sequence[Shortlist]], Iterable[np.ndarray]]:
        return lambda lists: of_each(score, lists, self.workers, "comparing details", "evaluation")


def _phase(read: Callable, path: str) -> Tensor:
    return phase_of(read(path))
