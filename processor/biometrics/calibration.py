"""Likelihood ratios: calibrated on training people, evaluated on test people, and stored beside the checkpoint."""

from __future__ import annotations

from typing import Any

import numpy as np

from processor.biometrics.setting import Section, Setting
from utils.biometric.confidence import bounded
from utils.biometric.error_rates import Tally
from utils.biometric.scores.calibration import RULES, Calibration, calibrate
from utils.biometric.scores.likelihood import (
    cllr,
    empirical_cross_entropy,
    misleading,
    optimal_llrs,
    prior_entropy,
    tippett,
)
from utils.biometric.verification import percent, with_interval

_ODDS = np.linspace(-3, 3, 61)

LABELS = {"logistic": "logistic regression", "pav": "PAV"}
"""Of the rules in charts."""


def fit(setting: Setting, facts: dict[str, Any]) -> Calibration:
    """Calibrate on the training people.

    Raises:
        ReIDError: their scores are separable, or of one kind.
    """
    genuine, impostor = setting.training.scores()
    people = len(set(setting.training.people))
    return calibrate(genuine, impostor, people=people, dataset=setting.dataset.name, **facts)


def likelihood_ratios(setting: Setting, calibration: Calibration, counted: Tally) -> Section:
    """Cllr, calibration loss and misleading evidence of the test, by either rule."""
    weights = counted.genuine, counted.impostor
    people = setting.genuine_people, setting.impostor_people
    record: dict[str, Any] = {"population": calibration.population}
    table = [("Calibrated on", calibration.population)]
    curves: dict[str, list[tuple[str, np.ndarray, np.ndarray]]] = {"tippett": [], "ece": []}
    for rule in RULES:
        llr = calibration.llr(counted.scores, rule)
        least = optimal_llrs(llr, llr, *weights)
        cost, minimum = cllr(llr, llr, *weights), cllr(*least, *weights)
        wrong = misleading(llr, llr, *weights)
        bounds = calibration.bounds[rule]
        record[rule] = {
            "Cllr": cost,
            "Cllr_min": minimum,
            "Cllr_cal": cost - minimum,
            "genuine with LR < 1": 100 * wrong.genuine,
            "impostor with LR > 1": 100 * wrong.impostor,
            "ELUB log10": list(bounds),
        }
        table.append((f"Cllr / Cllr_min / loss, {rule}", f"{cost:.4f} / {minimum:.4f} / {cost - minimum:.4f} bits"))
        texts = [with_interval(rate, bounded(rate, n)) for rate, n in zip(wrong, people, strict=True)]
        table.append((f"Misleading, {rule}", f"{texts[0]} genuine, {texts[1]} impostor"))
        table.append((f"Limits of the LR (ELUB), {rule}", f"{10 ** bounds[0]:.2g} to {10 ** bounds[1]:.3g}"))
        grid = np.linspace(*(min(bounds[0] - 0.2, -1), max(bounds[1] + 0.2, 1)), 121)
        for kind, part in zip(("genuine", "impostor"), weights, strict=True):
            curves["tippett"].append((f"{kind}, {LABELS[rule]} ({int(part.sum()):,})", grid, tippett(llr, grid, part)))
        curves["ece"].append((LABELS[rule], _ODDS, empirical_cross_entropy(llr, llr, _ODDS, *weights)))
        if rule == "logistic":
            curves["ece"].append(("after PAV on the test", _ODDS, empirical_cross_entropy(*least, _ODDS, *weights)))
    curves["ece"].append(("LR = 1 always", _ODDS, prior_entropy(_ODDS)))
    outside = (counted.scores < calibration.score_range[0]) | (counted.scores > calibration.score_range[1])
    share = float((outside * (weights[0] + weights[1])).sum() / (weights[0] + weights[1]).sum())
    record["scores outside the calibration range"] = 100 * share
    table.append(("Scores outside the calibration range", percent(share)))
    protocol = (
        "class-balanced, unregularised logistic regression and PAV on pairs of training people, held within the ELUB "
        "of the training scores"
    )
    return Section("Likelihood ratios", protocol, record, table, curves)
