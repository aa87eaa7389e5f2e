"""Error rates by group at the global threshold of each FAR."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from processor.biometrics.setting import Section, Setting
from utils.biometric.bootstrap.subjects import interval
from utils.biometric.confidence import bounded
from utils.biometric.group_counts import UnitCounts, count_units, number_units
from utils.biometric.groups import GroupErrors, gini, worst_over_best
from utils.biometric.verification import VerificationMetrics, with_interval
from utils.errors import ReIDError

if TYPE_CHECKING:
    from datasets.bases import ReIDDataset

FEWEST_PEOPLE = 10
"""Groups of fewer people are named, not reported."""


def by_group(setting: Setting, found: VerificationMetrics) -> Section:
    """FMR and FNMR of each group of each attribute in ``TEST.GROUPS`` at the threshold of the largest reported FAR.

    Raises:
        ReIDError: an attribute is not known of any image.
    """
    reported = [far for far, tar in found.tar_at_far.items() if tar is not None]
    far = min(reported) if reported else None
    threshold = found.threshold_at_far[far] if reported else found.eer_threshold
    where = f"FMR {far:g} overall" if reported else "the EER"
    record: dict[str, Any] = {"threshold": threshold, "threshold of": where}
    table = [("Global threshold", f"{threshold:.6g} ({where})")]
    keys = setting.test
    for attribute in keys.GROUPS:
        rows, text = _of_attribute(setting, attribute, threshold)
        record[attribute] = rows
        table += text
    protocol = (
        f"one threshold for all, that of {where}; FMR of pairs within the group, FNMR of its genuine pairs; groups of "
        f"fewer than {FEWEST_PEOPLE} people are not reported"
    )
    return Section("Error rates by group", protocol, record, table)


def group_names(dataset: ReIDDataset, attribute: str) -> list[str]:
    """The values of an attribute in the test images.

    Raises:
        ReIDError: there is none.
    """
    facts = [dataset.attributes.get(record.path, {}) for record in (*dataset.query, *dataset.gallery)]
    names = sorted({known[attribute] for known in facts if attribute in known})
    if not names:
        others = ", ".join(sorted({name for known in facts for name in known})) or "none"
        raise ReIDError(f"TEST.GROUPS: {dataset.name} has no attribute {attribute!r}; its attributes are: {others}.")
    return names


def _of_attribute(setting: Setting, attribute: str, threshold: float) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    names = group_names(setting.dataset, attribute)
    values = [
        [setting.dataset.attributes.get(record.path, {}).get(attribute) for record in part]
        for part in (setting.dataset.query, setting.dataset.gallery)
    ]
    places = [torch.tensor([-1 if value is None else names.index(value) for value in part]) for part in values]
    units = number_units(setting.subjects, places)
    counts = count_units(setting.blocks(), units, threshold)
    people = [len(np.unique(units.subject[units.group == g])) for g in range(len(names))]
    large = [g for g in range(len(names)) if people[g] >= FEWEST_PEOPLE]
    small = {names[g]: people[g] for g in range(len(names)) if people[g] < FEWEST_PEOPLE}
    record: dict[str, Any] = {"too few people": small} if small else {}
    table = [(f"{attribute}: not reported, people", ", ".join(f"{n} ({c})" for n, c in small.items()))] if small else []
    if not large:
        return record, table
    return _rates(setting, attribute, counts, names, people, large, record, table)


def _rates(
    setting: Setting,
    attribute: str,
    counts: UnitCounts,
    names: list[str],
    people: list[int],
    large: list[int],
    record: dict[str, Any],
    table: list[tuple[str, str]],
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    whole = counts.by_group(names).only(large)
    spread = [counts.by_group(names, drawn).only(large) for drawn in setting.drawn]
    ends = (
        [
            [interval(values) if spread and not np.isnan(values).all() else None for values in np.array(rates).T]
            for rates in ([s.fmr_within for s in spread], [s.fnmr for s in spread])
        ]
        if spread
        else [[None] * len(large)] * 2
    )
    for k, g in enumerate(large):
        rates = dict(zip(("FMR", "FNMR"), (whole.fmr_within[k], whole.fnmr[k]), strict=True))
        record[names[g]] = {"people": people[g], "genuine pairs": int(whole.genuine[k])} | {
            key: None if np.isnan(rate) else 100 * float(rate) for key, rate in rates.items()
        }
        texts = []
        with_genuine = _people_with_genuine(counts, g)
        record[names[g]]["people with genuine pairs"] = with_genuine
        for (kind, rate), n, part in zip(rates.items(), (people[g], with_genuine), ends, strict=True):
            bounds = bounded(float(rate), n, part[k])
            if bounds:
                record[names[g]][f"{kind} interval"] = [100 * end for end in bounds]
            texts.append(f"{kind} {'unknown' if np.isnan(rate) else with_interval(float(rate), bounds)}")
        table.append((f"{attribute} {names[g]} ({people[g]} people)", ", ".join(texts)))
    record["FMR by pair of groups"] = [[None if np.isnan(v) else 100 * float(v) for v in row] for row in whole.fmr]
    record["FMR by pair of groups, intervals"] = [
        [_interval_of_pair(whole, [s.fmr for s in spread], people, large, (i, j)) for j in range(len(large))]
        for i in range(len(large))
    ]
    if len(large) > 1:
        record |= {
            "FMR worst/best": worst_over_best(whole.fmr_within),
            "FNMR worst/best": worst_over_best(whole.fnmr),
            "Gini FMR": gini(whole.fmr_within),
            "Gini FNMR": gini(whole.fnmr),
            "GARBE 0.5": whole.garbe(),
        }
        ratio = f"FMR {record['FMR worst/best']:.2f}, FNMR {record['FNMR worst/best']:.2f}"
        table.append((f"{attribute}: worst / best", ratio))
        table.append((f"{attribute}: GARBE (alpha 0.5)", f"{record['GARBE 0.5']:.3f}"))
    return record, table


def _interval_of_pair(
    whole: GroupErrors, spread: list[np.ndarray], people: list[int], large: list[int], place: tuple[int, int]
) -> list[float] | None:
    """95 % interval in percent of the FMR between two groups; a bound is over the people of the smaller one."""
    values = np.array([fmr[place] for fmr in spread])
    ends = None if np.isnan(values).all() else interval(values)
    ends = bounded(float(whole.fmr[place]), min(people[large[i]] for i in place), ends)
    return ends and [100 * end for end in ends]


def _people_with_genuine(counts: UnitCounts, group: int) -> int:
    """People of a group with a genuine comparison in it."""
    own = (counts.genuine.sum(1) > 0) & (counts.units.group == group)
    return len(np.unique(counts.units.subject[own]))
