"""The joint score of features, agreeing points and phase-only correlation, learned from training people of one set.

The weights of the parts differ from set to set, so a joint score records the set that it was fitted on.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from processor.biometrics.training import TrainingFeatures
from utils.biometric.scores.fusion import Fusion, fit_fusion
from utils.errors import ReIDError
from utils.files.checkpoint import save_json

PARTS = ("cosine", "log(1 + points)", "phase-only correlation")
MOST_PAIRS = {"genuine": 2000, "impostor": 4000}
"""Training pairs of each kind, drawn where there are more."""

RIDGE = 1e-3
"""Penalty on the squared weights, which keeps them finite where the training pairs do not overlap."""


@dataclass(frozen=True)
class JointScore:
    """A natural-log likelihood ratio, as far as the training people represent the test people.

    Attributes:
        fusion: of the three parts.
        dataset: name of the set whose training people it was fitted on.
        people: how many they were.
        pairs: genuine and impostor training pairs.
        facts: what the features come from, of :func:`processor.biometrics.trust.calibration_facts`.
    """

    fusion: Fusion
    dataset: str
    people: int
    pairs: tuple[int, int]
    facts: dict[str, Any] = field(default_factory=dict)

    def __call__(self, cosine: np.ndarray, counts: np.ndarray, peaks: np.ndarray) -> np.ndarray:
        """Joint scores [n] of n pairs."""
        return self.fusion.fuse(parts_of(cosine, counts, peaks))

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        fusion = {key: np.asarray(value).tolist() for key, value in asdict(self.fusion).items()}
        facts = {"dataset": self.dataset, "people": self.people, "pairs": list(self.pairs), "facts": self.facts}
        save_json({"format": 1, "parts": list(PARTS), "fusion": fusion, **facts}, path)


def parts_of(cosine: np.ndarray, counts: np.ndarray, peaks: np.ndarray) -> np.ndarray:
    """The parts [n, 3] of n pairs; of counts the logarithm, since ten points more mean less from 100 than from 5."""
    return np.stack([cosine, np.log1p(counts), peaks], axis=-1).astype(np.float64)


def fit_joint(
    training: TrainingFeatures,
    compare: Callable[[np.ndarray, np.ndarray], np.ndarray],
    dataset: str,
    facts: dict[str, Any],
    seed: int,
) -> JointScore:
    """Fit the joint score on pairs of training images.

    Args:
        training: features, identities, people.
        compare: the parts [P, 3] of pairs of rows [P] and [P].
        dataset: name of the set.
        facts: what the features come from.
        seed: of the pairs that are drawn.

    Raises:
        ReIDError: there are no genuine or no impostor training pairs.
    """
    left, right, same = training_pairs(training, seed)
    fusion = fit_fusion(compare(left, right), same, "logistic", ridge=RIDGE)
    return JointScore(fusion, dataset, len(set(training.people)), (int(same.sum()), int((~same).sum())), facts)


def training_pairs(training: TrainingFeatures, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows [P] and [P] of pairs of training images, and whether they are of one identity [P].

    Pairs of two hands of one person count as neither; where the test compares across cameras, so do these.

    Raises:
        ReIDError: a kind is missing.
    """
    pids, cameras = training.features.pids.numpy(), training.features.camids.numpy()
    _, person = np.unique(np.asarray(training.people), return_inverse=True)
    generator, chosen = np.random.default_rng(seed), []
    left, right = np.triu_indices(len(pids), 1)
    apart = cameras[left] != cameras[right] if training.apart else np.ones(len(left), bool)
    kinds = {"genuine": pids[left] == pids[right], "impostor": person[left] != person[right]}
    for kind, found in kinds.items():
        rows = np.flatnonzero(found & apart)
        if not len(rows):
            raise ReIDError(f"TEST.FUSE_LOCAL fit: the training images have no {kind} pair to fit on.")
        chosen.append(np.sort(generator.permutation(rows)[: MOST_PAIRS[kind]]))
    rows = np.concatenate(chosen)
    return left[rows], right[rows], np.arange(len(rows)) < len(chosen[0])


def trusted_joint(path: Path, dataset: str, facts: dict[str, Any], other_set: bool) -> JointScore:
    """The joint score in a file, if it was fitted for these weights on this set.

    Args:
        path: of the file.
        dataset: name of the set that is tested.
        facts: of the weights that are tested.
        other_set: ``TEST.FUSE_LOCAL_OTHER``: take it whatever it was fitted on.

    Raises:
        ReIDError: there is no such file, or it is of another set or other weights.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        given = {key: np.array(content["fusion"][key]) for key in ("mean", "std", "weights")}
        fusion = Fusion(**given, intercept=float(content["fusion"]["intercept"]))
        known = content["dataset"], int(content["people"]), tuple(content["pairs"]), content["facts"]
        if content["format"] != 1 or content["parts"] != list(PARTS):
            raise ValueError("of another version")
    except OSError as error:
        raise ReIDError(
            f"TEST.FUSE_LOCAL = {path}: cannot be read ({error.strerror}). TEST.FUSE_LOCAL fit fits one on training "
            "people and writes local_fusion.json into OUTPUT_DIR."
        ) from None
    except (KeyError, TypeError, ValueError) as error:
        raise ReIDError(f"TEST.FUSE_LOCAL = {path}: not a joint score ({error}). Fit it again.") from None
    joint = JointScore(fusion, *known)
    differing = [f"the data set {joint.dataset} (here {dataset})"] if joint.dataset != dataset else []
    differing += ["other weights or other test settings"] if joint.facts != facts else []
    if differing and not other_set:
        raise ReIDError(
            f"TEST.FUSE_LOCAL = {path}: fitted for {' and '.join(differing)}. A joint score does not carry over: fit "
            "it here (TEST.FUSE_LOCAL fit), or take it as it is with TEST.FUSE_LOCAL_OTHER True."
        )
    return joint
