"""Error rates of comparisons, and the intervals of all figures of the evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from processor.biometrics.setting import Section, Setting, intervals_of
from utils.biometric.bootstrap.replicates import resample_identification, resample_verification
from utils.biometric.confidence import Interval, bounded
from utils.biometric.verification import VerificationMetrics, with_interval
from utils.metrics import RankingMetrics

WITHOUT_ERRORS = "an interval without errors ends at the one-sided Clopper-Pearson bound over people, about 3 / n"
PROTOCOLS = {
    "": "every query image with every gallery image",
    "open": "every query image with every gallery image, of people unseen in training",
    "closed": "every query image with every gallery image, of the training people",
    "all_pairs": "each unordered pair of two different images once",
    "fvc": "FVC2000: all genuine pairs; impostor pairs between the first images of two identities",
    "pairs": "a fixed list of pairs",
}


def error_rates(setting: Setting, found: VerificationMetrics, ranks: RankingMetrics) -> Section:
    """EER, TAR at FAR, rates at thresholds with intervals; also the intervals of mAP and CMC, whose figures are
    ``ranks``.
    """
    replicates = _replicates(setting, found)
    figures = {"mAP": ranks.mAP, "mINP": ranks.mINP, **{f"Rank-{k}": ranks.rank(k) for k in (1, 5, 10)}}
    intervals = bounded_rates(setting, found, intervals_of(replicates, figures))
    if setting.pairs is None:
        intervals = bounded_intervals(figures, setting.genuine_people, intervals)
    record = verification_record(found, intervals) | numbers_of_people(setting)
    ranks = {name: _percents(ends) for name, ends in intervals.items() if name.startswith(("mAP", "Rank", "mINP"))}
    record |= {"intervals": ranks} if ranks else {}
    curve = found.curve
    texts = {name: with_interval(rate, intervals.get(name)) for name, (_, rate) in found.rates().items()}
    table = [
        ("Comparisons (genuine / impostor)", f"{found.num_genuine:,} / {found.num_impostor:,}"),
        ("People (with genuine comparisons)", f"{setting.subjects.count:,} ({setting.genuine_people:,})"),
        ("EER", texts["EER"]),
    ]
    for far in found.tar_at_far:
        text = texts.get(f"TAR at FAR {far:g}", "not reported: too few impostor comparisons")
        table.append((f"TAR (1 - FNMR) at FMR {far:g}", text))
    for threshold in found.rates_at:
        table += [(f"{kind} at score {threshold:g}", texts[f"{kind} at {threshold:g}"]) for kind in ("FMR", "FNMR")]
    table += [("AUC", f"{found.area:.6f}"), ("d'", f"{found.decidability:.3f}")]
    protocol = PROTOCOLS.get(getattr(setting.dataset, "protocol", ""), PROTOCOLS[""])
    drawn = len(setting.drawn)
    spread = f"; 95 % intervals: {drawn:,} replicates of the subject bootstrap over {setting.subjects.count} people"
    counts = f"{found.num_genuine:,} genuine, {found.num_impostor:,} impostor"
    curves = {"det": [(f"all comparisons ({counts})", curve.far, curve.frr)]}
    text = f"{protocol}; {setting.score_name}; match at score >= threshold{spread if drawn else ''}; {WITHOUT_ERRORS}"
    return Section("Error rates", text, record, table, curves, replicates, intervals)


def bounded_intervals(
    rates: Mapping[str, float], people: int, known: Mapping[str, Interval] | None = None
) -> dict[str, Interval]:
    """Intervals by name: those ``known``, and bounds over ``people`` for rates of 0 and 1."""
    known = known or {}
    found = {name: bounded(rate, people, known.get(name)) for name, rate in rates.items()}
    return dict(known) | {name: ends for name, ends in found.items() if ends}


def bounded_rates(
    setting: Setting, found: VerificationMetrics, known: Mapping[str, Interval] | None = None
) -> dict[str, Interval]:
    """:func:`bounded_intervals` of error rates, each over the people whose comparisons it is of."""
    people = {"genuine": setting.genuine_people, "impostor": setting.impostor_people}
    for kind, count in people.items():
        rates = {name: rate for name, (of, rate) in found.rates().items() if of == kind}
        known = bounded_intervals(rates, count, known)
    return dict(known)


def numbers_of_people(setting: Setting) -> dict[str, int]:
    """For ``metrics.json``: n of every interval."""
    return {"people": setting.subjects.count, "people with genuine pairs": setting.genuine_people}


def _replicates(setting: Setting, found: VerificationMetrics) -> dict[str, np.ndarray]:
    keys = setting.test
    if not len(setting.drawn) or setting.subjects.count < 3:
        return {}
    thresholds = tuple(found.rates_at)
    measures = resample_verification(
        setting.blocks, setting.subjects, found.scores, setting.drawn, tuple(found.tar_at_far), thresholds
    )
    if setting.pairs is None and (setting.local is not None or not keys.RE_RANKING):
        measures |= resample_identification(setting.ranking.blocks, setting.subjects, setting.drawn, keys.AP)
    return {name: values for name, values in measures.items() if not np.isnan(values).all()}


def verification_record(found: VerificationMetrics, intervals: Mapping[str, Interval] | None = None) -> dict[str, Any]:
    """What ``metrics.json`` keeps, in percent; None where the impostor comparisons are too few."""
    known = intervals or {}
    record: dict[str, Any] = {
        "EER": 100 * found.eer,
        "EER interval": _percents(known.get("EER")),
        "EER threshold": found.eer_threshold,
    }
    for far, tar in found.tar_at_far.items():
        name = f"TAR at FAR {far:g}"
        record |= {name: None if tar is None else 100 * tar, f"threshold at FAR {far:g}": found.threshold_at_far[far]}
        record |= {f"{name} interval": _percents(known[name])} if name in known else {}
    for threshold, rates in found.rates_at.items():
        for kind, rate in zip(("FMR", "FNMR"), rates, strict=True):
            name = f"{kind} at {threshold:g}"
            record |= {name: 100 * rate} | ({f"{name} interval": _percents(known[name])} if name in known else {})
    return record | {
        "AUC": found.area,
        "d'": found.decidability,
        "genuine pairs": found.num_genuine,
        "impostor pairs": found.num_impostor,
    }


def _percents(ends: Interval | None) -> list[float] | None:
    return None if ends is None else [100 * end for end in ends]
