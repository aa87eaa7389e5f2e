"""What every section of the biometric performance reads: comparisons, people, training scores."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from processor.biometrics.training import TrainingFeatures
from processor.runs.folder import read_metrics
from utils.biometric.bootstrap.subjects import Subjects, centred, draw_people, interval, number_subjects
from utils.biometric.comparisons import Comparisons, Crossing, listed_blocks
from utils.biometric.confidence import Interval
from utils.biometric.counting import Blocks
from utils.biometric.pair_scores import paired_scores
from utils.biometric.protocols import Pairs, fvc
from utils.biometric.verification import VerificationMetrics, verify_comparisons
from utils.console.logger import LOGGER
from utils.errors import ReIDError
from utils.retrieval.features import Features
from utils.retrieval.local_order import LocalScores

if TYPE_CHECKING:
    from collections.abc import Iterator

    from yacs.config import CfgNode

    from datasets.bases import QueryGallerySplit, Record, ReIDDataset


@dataclass(frozen=True)
class Section:
    """One part of the biometric performance.

    Attributes:
        title: of the part.
        protocol: what was compared and how, in words.
        record: what ``metrics.json`` keeps, in percent.
        table: rows of measure and value for people.
        curves: lines by chart, each with its name, x and y.
        replicates: bootstrap replicates [B] by measure, fractions.
        intervals: 95 % intervals by measure, fractions.
    """

    title: str
    protocol: str
    record: dict[str, Any]
    table: list[tuple[str, str]]
    curves: dict[str, list[tuple[str, np.ndarray, np.ndarray]]] = field(default_factory=dict)
    replicates: dict[str, np.ndarray] = field(default_factory=dict)
    intervals: dict[str, Interval] = field(default_factory=dict)


def intervals_of(replicates: dict[str, np.ndarray], figures: dict[str, float]) -> dict[str, Interval]:
    """95 % intervals by measure; those with a figure are shifted to it."""
    return {
        name: interval(centred(values, figures[name]) if name in figures else values)
        for name, values in replicates.items()
    }


@dataclass(frozen=True)
class Setting:
    """One evaluation.

    Attributes:
        test: ``cfg.TEST``.
        seed: of everything drawn.
        dataset: images, identities, people, protocol.
        query, gallery: features of the first trial, in the order of its records.
        training: features of training people; None where no section needs them.
        local: scores of matched skin detail that take the place of cosines, None without them.
    """

    test: CfgNode
    seed: int
    dataset: ReIDDataset
    query: Features
    gallery: Features
    training: TrainingFeatures | None = None
    local: LocalScores | None = None

    @cached_property
    def crossing(self) -> Crossing:
        """Query against gallery as the data set's protocol has it."""
        crossing = crossing_of(self.dataset.trials[0], self.query, self.gallery, self.dataset.camera_rule)
        return crossing if self.local is None else replace(crossing, scores=self.local.scores)

    @property
    def ranking(self) -> Crossing:
        """The same with scores that rank as the evaluation does."""
        return self.crossing if self.local is None else replace(self.crossing, scores=self.local.standing)

    @property
    def score_name(self) -> str:
        """What a score is, in words."""
        return "cosine similarity" if self.local is None else self.local.name

    @cached_property
    def pairs(self) -> Pairs | None:
        """The list of pairs that the protocol compares; None where it crosses query and gallery.

        Pairs of an image with itself or with a copy of its file are left out.
        """
        protocol = getattr(self.dataset, "protocol", "")
        if protocol not in ("fvc", "pairs"):
            return None
        pairs = fvc(self.query.pids) if protocol == "fvc" else Pairs(*map(torch.from_numpy, self.dataset.pair_rows()))
        copies = self.crossing.copies
        differ = torch.ones_like(pairs.same) if copies is None else copies[0][pairs.left] != copies[1][pairs.right]
        left_out = len(differ) - int(differ.sum())
        if left_out:
            said = "%d of %d pairs of the protocol are left out: an image with itself or with a copy of its file"
            LOGGER.warning(said, left_out, len(differ))
        return Pairs(*(part[differ] for part in pairs))

    @property
    def blocks(self) -> Blocks:
        """All comparisons of the protocol."""
        if self.pairs is None:
            return self.crossing.blocks
        scores = self.pair_scores
        return lambda: listed_blocks(self.pairs, scores, len(self.query), len(self.gallery))

    @cached_property
    def pair_scores(self) -> Tensor:
        """[P] of :attr:`pairs`."""
        if self.local is not None:
            return torch.from_numpy(self.local.scores[self.pairs.left, self.pairs.right].astype(np.float64))
        return paired_scores(self.query.features, self.gallery.features, self.pairs.left, self.pairs.right)

    @cached_property
    def people(self) -> tuple[list[str], list[str]]:
        """Whom the images of query and gallery show; the identity where the data set does not say the person."""
        names = self.dataset.test_identities
        return tuple(
            [self.dataset.person(record) or names[record.pid] for record in part]
            for part in (self.dataset.query, self.dataset.gallery)
        )

    @cached_property
    def subjects(self) -> Subjects:
        """The people, numbered in the order of their names."""
        return number_subjects(*self.people)

    @cached_property
    def genuine_people(self) -> int:
        """People with at least one genuine comparison: n of a bound on errors of genuine comparisons."""
        if self.pairs is not None:
            return len(self.subjects.query[self.pairs.left[self.pairs.same]].unique())
        return len(self.subjects.query[self.crossing.has_match()].unique())

    @cached_property
    def impostor_people(self) -> int:
        """People with at least one impostor comparison."""
        if self.pairs is None:
            return self.subjects.count
        left, right = self.pairs.left[~self.pairs.same], self.pairs.right[~self.pairs.same]
        return len(torch.cat([self.subjects.query[left], self.subjects.gallery[right]]).unique())

    @cached_property
    def drawn(self) -> np.ndarray:
        """[B, N] how often each person is drawn; B is ``TEST.BOOTSTRAP``, which may be 0."""
        keys = self.test
        if not keys.BOOTSTRAP:
            return np.zeros((0, self.subjects.count), dtype=np.int64)
        return draw_people(self.subjects.count, keys.BOOTSTRAP, self.seed)


def crossing_of(trial: QueryGallerySplit[Record], query: Features, gallery: Features, camera_rule: str) -> Crossing:
    """Query against gallery, no image with itself or a copy of its file; each pair once where both are one list."""
    once = list(trial.query) == list(trial.gallery)
    return Crossing(query, gallery, camera_rule, copy_numbers(trial.query, trial.gallery), once)


def ranked_without_copies(crossing: Crossing) -> tuple[Features, Features, str]:
    """Query, gallery and camera rule of a ranking that never compares an image with itself.

    Without a camera rule, the numbers of the files take the place of cameras: a match under the same number is ignored.
    With one, an image is under its own camera, and is ignored anyway.
    """
    if crossing.copies is None or crossing.camera_rule != "none":
        return crossing.query, crossing.gallery, crossing.camera_rule
    LOGGER.info("note: query and gallery share images: an image is not compared with itself or a copy of its file")
    sides = zip((crossing.query, crossing.gallery), crossing.copies, strict=True)
    return *(replace(part, camids=numbers) for part, numbers in sides), "market"


def verified(
    keys: CfgNode, blocks: Blocks, crossing: Crossing | None, local: LocalScores | None = None
) -> VerificationMetrics | None:
    """Error rates at the FARs and thresholds of ``TEST``; None where there are no comparisons of a kind."""
    span = (-1, 1) if local is None else local.span
    try:
        return verify_comparisons(blocks, crossing, keys.FAR, given_thresholds(keys), span)
    except ReIDError as error:  # such as a test set of one person: the other numbers are kept
        LOGGER.warning("no verification: %s", error)
        return None


def given_thresholds(keys: CfgNode) -> list[float]:
    """``TEST.THRESHOLDS``, and those that the run in ``TEST.THRESHOLD_FROM`` had at its FARs.

    Raises:
        ReIDError: that folder holds no run with such thresholds, or they are of another kind of score.
    """
    chosen = [float(threshold) for threshold in keys.THRESHOLDS]
    if not keys.THRESHOLD_FROM:
        return chosen
    folder = Path(keys.THRESHOLD_FROM)
    try:
        rows = list(read_metrics(folder / "metrics.json")["results"].values())
    except (OSError, ValueError, ReIDError) as error:
        raise ReIDError(f"TEST.THRESHOLD_FROM = {folder}: no metrics.json of a finished run ({error}).") from None
    last = rows[-1] if rows else {}
    kept = [value for key, value in last.get("verification", {}).items() if key.startswith("threshold at FAR")]
    theirs, own = _score_kind(last.get("protocol", {})), _score_kind(keys)
    if kept and theirs != own:
        raise ReIDError(
            f"TEST.THRESHOLD_FROM = {folder}: its thresholds are of the score {theirs!r}, here the score is {own!r}. "
            "Name a run with the same TEST.POINTS, LOCAL and FUSE_LOCAL."
        )
    if not kept:
        raise ReIDError(
            f"TEST.THRESHOLD_FROM = {folder}: its last result has no threshold at a FAR. Evaluate it again."
        )
    return list(dict.fromkeys([*chosen, *kept]))


def _score_kind(keys: Mapping[str, Any]) -> str:
    """What the keys of ``TEST``, or the ``protocol`` of a result, compare images by."""
    if keys.get("FUSE_LOCAL", "none") != "none":
        return "joint score"
    if keys.get("POINTS", "0") != "0":
        return "agreeing points"
    return "phase-only correlation" if keys.get("LOCAL", "none") == "poc" else "cosine similarity"


def masked(blocks: Iterator[Comparisons]) -> Iterator[tuple[slice, Tensor]]:
    """Scores with -inf where a comparison does not count."""
    for block in blocks:
        yield block.queries, block.scores.masked_fill(~block.counted, -torch.inf)


def copy_numbers(query: Sequence[Record], gallery: Sequence[Record]) -> tuple[Tensor, Tensor] | None:
    """Equal numbers for equal files of query [Q] and gallery [G]; None where no file is on both sides.

    Files are equal if they have one path, or the same bytes; only files of one size are read.
    """
    sides = [[record.path for record in part] for part in (query, gallery)]
    sizes = {path: _size(path) for path in {*sides[0], *sides[1]}}
    both = {sizes[path] for path in sides[0]} & {sizes[path] for path in sides[1]} - {-1}
    digests = {path: _digest(path) if size in both else path for path, size in sizes.items()}
    first, second = ([digests[path] for path in side] for side in sides)
    if not set(first) & set(second):
        return None
    numbers = {digest: number for number, digest in enumerate(dict.fromkeys([*first, *second]))}
    return tuple(torch.tensor([numbers[digest] for digest in side]) for side in (first, second))


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:  # the image was read before; if it has been removed, its name is compared
        return -1


@lru_cache(maxsize=2**20)
def _digest(path: str) -> str:
    try:
        return hashlib.blake2b(Path(path).read_bytes(), digest_size=16).hexdigest()
    except OSError:
        return path
