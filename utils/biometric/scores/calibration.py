"""From scores to likelihood ratios: what was fitted on training people, its limits, and the file that keeps it.

Internally weights of evidence are natural-log LRs; outputs give the LR.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from utils.biometric.scores.isotonic import Blocks, isotonic_blocks
from utils.biometric.scores.likelihood import LN10, elub
from utils.biometric.scores.logistic import fit_logistic
from utils.errors import ReIDError
from utils.files.checkpoint import save_json

RULES = ("logistic", "pav")
FORMAT = 1


@dataclass(frozen=True)
class Calibration:
    """A calibration with what it holds for.

    Attributes:
        slope, intercept: natural-log LR = slope * score + intercept.
        blocks: of the isotonic regression.
        bounds: log10 LRs that the training scores support (ELUB), by rule.
        score_range: lowest and highest training score.
        pairs: genuine and impostor training comparisons.
        facts: the population: data set, people, how they were compared, weights.
    """

    slope: float
    intercept: float
    blocks: Blocks
    bounds: dict[str, tuple[float, float]]
    score_range: tuple[float, float]
    pairs: tuple[int, int]
    facts: dict[str, Any] = field(default_factory=dict)

    def raw_llr(self, scores: np.ndarray, rule: str = "logistic") -> np.ndarray:
        """Natural-log LRs without limits."""
        scores = np.asarray(scores, dtype=np.float64)
        return self.slope * scores + self.intercept if rule == "logistic" else self.blocks.llr(scores)

    def llr(self, scores: np.ndarray, rule: str = "logistic") -> np.ndarray:
        """Natural-log LRs, held within the limits that the training scores support."""
        low, high = self.bounds[rule]
        return np.clip(self.raw_llr(scores, rule), low * LN10, high * LN10)

    def answer(self, score: float, rule: str = "logistic") -> Evidence:
        """What to say about one score."""
        raw, held = (float(f(np.array([score]), rule)[0]) for f in (self.raw_llr, self.llr))
        low, high = self.score_range
        return Evidence(score, held, not low <= score <= high, raw != held, self.population)

    @property
    def population(self) -> str:
        """The people that it was fitted on, in words."""
        genuine, impostor = self.pairs
        people = self.facts.get("people", "?")
        return (
            f"{people} training people of {self.facts.get('dataset', 'an unnamed data set')} "
            f"({genuine:,} genuine and {impostor:,} impostor pairs)"
        )

    def save(self, path: Path) -> None:
        """Write a JSON file."""
        blocks = {name: values.tolist() for name, values in asdict(self.blocks).items()}
        save_json({"format": FORMAT, **asdict(self), "blocks": blocks}, path)


@dataclass(frozen=True)
class Evidence:
    """The evidence of one comparison.

    Attributes:
        score: of the comparison.
        llr: natural-log LR within the limits.
        outside: the score lies outside the calibration range.
        limited: the LR was held at a limit.
        population: that the LR holds for.
    """

    score: float
    llr: float
    outside: bool
    limited: bool
    population: str

    @property
    def lr(self) -> float:
        """The likelihood ratio."""
        return math.exp(self.llr)

    def text(self, same: str = "the same hand", different: str = "different hands") -> str:
        """Such as "LR 350 in favour of the same hand"."""
        ratio = self.lr if self.llr >= 0 else 1 / self.lr
        favour = same if self.llr >= 0 else different
        notes = [note for note, holds in (("at the limit", self.limited), ("score outside", self.outside)) if holds]
        return f"LR {ratio:.{2 if ratio < 10 else 0}f} in favour of {favour}" + (
            f" ({', '.join(notes)})" if notes else ""
        )


def calibrate(genuine: np.ndarray, impostor: np.ndarray, **facts: Any) -> Calibration:
    """Fit both rules and their limits on training scores.

    Raises:
        SeparableError: the scores do not overlap.
        ReIDError: a kind is missing, or all scores are equal.
    """
    genuine, impostor = (np.asarray(part, dtype=np.float64) for part in (genuine, impostor))
    both = np.concatenate([genuine, impostor])
    (slope,), intercept = fit_logistic(both[:, None], np.arange(len(both)) < len(genuine))
    blocks = isotonic_blocks(genuine, impostor)
    bounds = {
        "logistic": elub(slope * genuine + intercept, slope * impostor + intercept),
        "pav": elub(blocks.llr_of_training(genuine), blocks.llr_of_training(impostor)),
    }
    score_range = float(both.min()), float(both.max())
    return Calibration(float(slope), intercept, blocks, bounds, score_range, (len(genuine), len(impostor)), facts)


def load_calibration(path: Path) -> Calibration:
    """Read what :meth:`Calibration.save` wrote.

    Raises:
        ReIDError: there is no such file, or it is none of these.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ReIDError(
            f"{path}: no calibration ({error.strerror}). A likelihood ratio needs one: evaluate the model with "
            "TEST.CALIBRATION True, which fits it on training people."
        ) from None
    except ValueError as error:
        raise ReIDError(f"{path}: not a calibration ({error}). Evaluate again with TEST.CALIBRATION True.") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise ReIDError(f"{path}: format {found}; this version reads format {FORMAT}. Calibrate again.")
    try:
        blocks = Blocks(*(np.array(content["blocks"][name]) for name in ("low", "high", "genuine", "impostor")))
        bounds = {rule: tuple(content["bounds"][rule]) for rule in RULES}
        ranges = tuple(content["score_range"]), tuple(content["pairs"])
        return Calibration(content["slope"], content["intercept"], blocks, bounds, *ranges, content["facts"])
    except (KeyError, TypeError) as error:
        raise ReIDError(f"{path}: a part of the calibration is missing ({error}). Calibrate again.") from None
