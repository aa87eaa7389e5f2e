"""Verification (is this the same person?): EER, TAR at FAR, rates at given thresholds, ROC and DET curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from utils.biometric.comparisons import Crossing
from utils.biometric.confidence import Interval
from utils.biometric.counting import Blocks, count
from utils.biometric.error_rates import Tally, comparisons_needed
from utils.retrieval.features import Features

FALSE_ACCEPT_RATES = (1e-2, 1e-3, 1e-4)
_POINTS = 500


class Curve(NamedTuple):
    """Points of the ROC (far, 1 - frr) and DET (far, frr) curves, by rising false accept rate: [P] each."""

    threshold: np.ndarray
    far: np.ndarray
    frr: np.ndarray


class Histogram(NamedTuple):
    """Genuine and impostor comparisons [B] between ``edges`` [B + 1]."""

    edges: np.ndarray
    genuine: np.ndarray
    impostor: np.ndarray


@dataclass(frozen=True)
class VerificationMetrics:
    """How well a threshold on the score separates genuine from impostor comparisons. Rates are fractions in [0, 1].

    Attributes:
        eer: equal error rate.
        eer_threshold: a score at which the rates meet.
        tar_at_far: true accept rate at the lowest threshold whose false accept rate is at most the key; None where
            the impostor comparisons are too few.
        threshold_at_far: that threshold.
        area: under the ROC curve.
        decidability: d'.
        rates_at: FMR and FNMR by given threshold.
        scores: the counts that everything is taken from.
    """

    eer: float
    eer_threshold: float
    tar_at_far: dict[float, float | None]
    threshold_at_far: dict[float, float]
    area: float
    decidability: float
    rates_at: dict[float, tuple[float, float]]
    scores: Tally

    @property
    def num_genuine(self) -> int:
        """Genuine comparisons."""
        return int(self.scores.num_genuine)

    @property
    def num_impostor(self) -> int:
        """Impostor comparisons."""
        return int(self.scores.num_impostor)

    @property
    def threshold_text(self) -> str:
        """``eer_threshold`` with more digits where scores lie close together."""
        return f"{self.eer_threshold:.{4 if self.eer_threshold < 0.999 else 8}f}"

    @property
    def curve(self) -> Curve:
        """At most 500 points at logarithmically spaced false accept rates, from one impostor comparison to all."""
        wanted = np.geomspace(1 / self.num_impostor, 1, _POINTS)
        places = np.unique(np.searchsorted(-self.scores.fmr, -wanted))[::-1]
        edges = np.append(self.scores.scores, np.inf)
        return Curve(edges[places], self.scores.fmr[places], self.scores.fnmr[places])

    def histogram(self, bins: int = 200) -> Histogram:
        """Counts in ``bins`` bins of one width over the scores that occur: for a picture."""
        scores = self.scores.scores
        low, high = float(scores[0]), float(scores[-1])
        edges = np.linspace(low, high if high > low else low + 1e-9, bins + 1)
        kinds = (np.histogram(scores, edges, weights=part)[0] for part in (self.scores.genuine, self.scores.impostor))
        return Histogram(edges, *(part.round().astype(np.int64) for part in kinds))

    def rates(self) -> dict[str, tuple[str, float]]:
        """By name: whose number limits what is known, people with ``genuine`` or ``impostor`` pairs, and the rate."""
        found = {"EER": ("genuine", self.eer)}
        found |= {f"TAR at FAR {far:g}": ("genuine", tar) for far, tar in self.tar_at_far.items() if tar is not None}
        for threshold, (fmr, fnmr) in self.rates_at.items():
            found |= {f"FMR at {threshold:g}": ("impostor", fmr), f"FNMR at {threshold:g}": ("genuine", fnmr)}
        return found

    def lines(self, intervals: Mapping[str, Interval] | None = None) -> list[str]:
        """The numbers for people, one line each, with the intervals that are known by name."""
        known = intervals or {}
        texts = {name: with_interval(rate, known.get(name)) for name, (_, rate) in self.rates().items()}
        text = [f"pairs: {self.num_genuine:,} genuine, {self.num_impostor:,} impostor"]
        text.append(f"EER {texts['EER']} at score {self.threshold_text}")
        for far, tar in self.tar_at_far.items():
            needed = f"{self.num_impostor:,} of {comparisons_needed(far):,} needed"
            name = f"TAR at FAR {far:g}"
            text.append(f"{name}: {f'not enough impostor pairs ({needed})' if tar is None else texts[name]}")
        for threshold in self.rates_at:
            fmr, fnmr = (texts[f"{kind} at {threshold:g}"] for kind in ("FMR", "FNMR"))
            text.append(f"at score {threshold:g}: FMR {fmr}, FNMR {fnmr}")
        return [*text, f"AUC {self.area:.6f}, d' {self.decidability:.3f}"]


def percent(rate: float) -> str:
    """A rate with two decimals, or with two significant digits where it is small: 0.000017%."""
    return f"{significant(100 * rate)}%"


def significant(value: float, decimals: int = 2) -> str:
    """A number with ``decimals``, or with two significant digits where these are more."""
    small = value and math.isfinite(value)
    return f"{value:.{max(decimals, 1 - math.floor(math.log10(abs(value)))) if small else decimals}f}"


def with_interval(rate: float, ends: Interval | None = None) -> str:
    """Such as "1.20% [0.80%, 1.70%]"."""
    return percent(rate) + ("" if ends is None else f" [{percent(ends.low)}, {percent(ends.high)}]")


def verify(
    query: Features,
    gallery: Features,
    *,
    camera_rule: str = "none",
    far: Sequence[float] = FALSE_ACCEPT_RATES,
    thresholds: Sequence[float] = (),
    chunk_size: int | None = None,
    device: torch.device | str | None = None,
) -> VerificationMetrics:
    """Compare every query with every gallery item, by cosine similarity.

    Args:
        query, gallery: features and labels; identity -1 (junk) takes no part.
        camera_rule: ``"market"`` leaves out genuine pairs under the same camera (or in the same session).
        far: false accept rates at which the true accept rate is wanted.
        thresholds: scores at which FMR and FNMR are wanted.
        chunk_size: queries compared at a time; by default what suits the device.
        device: where to compute; by default where the query features are.

    Raises:
        ReIDError: no genuine or no impostor pair, different widths, NaN features, unknown camera rule.
    """
    crossing = Crossing(query, gallery, camera_rule, chunk_size=chunk_size, device=device)
    return verify_comparisons(crossing.blocks, crossing, far, thresholds)


def verify_comparisons(
    blocks: Blocks,
    crossing: Crossing | None,
    far: Sequence[float],
    thresholds: Sequence[float] = (),
    span: tuple[float, float] = (-1, 1),
) -> VerificationMetrics:
    """The same for any comparisons; ``crossing`` says why there may be none of a kind, ``span`` between which scores.

    Raises:
        ReIDError: no genuine or no impostor comparison.
    """
    reason = crossing.no_comparison if crossing else "there is no {} comparison in the list of pairs.".format
    counted = count(blocks, fars=far, thresholds=thresholds, reason=reason, span=span)
    crossed = counted.equal_error()
    accepted = {f: counted.accept_rate(f) for f in far}
    rates = zip(*counted.rates_at(thresholds), strict=True)
    return VerificationMetrics(
        eer=crossed.rate,
        eer_threshold=(crossed.low + crossed.high) / 2,
        tar_at_far={f: found.tar if found.supported else None for f, found in accepted.items()},
        threshold_at_far={f: float(np.nextafter(found.above, np.inf)) for f, found in accepted.items()},
        area=counted.area(),
        decidability=counted.decidability(),
        rates_at={t: (float(fmr), float(fnmr)) for t, (fmr, fnmr) in zip(thresholds, rates, strict=True)},
        scores=counted,
    )
