"""Open-set identification: a share of the people is not enrolled."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from processor.biometrics.errors import WITHOUT_ERRORS, bounded_intervals
from processor.biometrics.setting import Section, Setting, intervals_of, masked
from utils.biometric.bootstrap.open_set import resample_searches
from utils.biometric.confidence import Interval, bounded
from utils.biometric.error_rates import RULE_OF_30
from utils.biometric.open_set import Searches, draw_enrolled, search_people
from utils.biometric.verification import with_interval
from utils.words import number_of

_RANKS = (1, 5)
_POINTS = 200


def open_set(setting: Setting) -> Section:
    """FNIR at each FPIR over ``TEST.RUNS`` drawings of who is enrolled; curves and intervals are of the first.

    Where the data set has queries of people without a gallery image, these people are not enrolled, and none is drawn.
    """
    keys = setting.test
    searches = [_search(setting, run) for run in range(1 if _is_given(setting) else keys.RUNS)]
    first = searches[0]
    replicates = _replicates(setting)
    figures = {f"FNIR at FPIR {fpir:g}": float(np.mean(_fnir(searches, fpir, 1))) for fpir in keys.FPIR}
    people = _mated_people(setting)
    intervals = bounded_intervals(figures, people, intervals_of(replicates, figures))
    record: dict[str, Any] = {
        "enrolled people": first.enrolled,
        "people with mated searches": people,
        "mated searches": first.num_mated,
        "non-mated searches": first.num_nonmated,
        "drawings": len(searches),
    }
    table = [("Enrolled identities", f"{first.enrolled:,}")]
    table.append(("Searches (mated / non-mated)", f"{first.num_mated:,} / {first.num_nonmated:,}"))
    for fpir in keys.FPIR:
        rows, text = _at(searches, fpir, intervals, people)
        record |= rows
        table += text
    for rank in _RANKS:
        found = float(np.mean([s.identification(rank) for s in searches]))
        record[f"closed-set Rank-{rank}"] = 100 * found
        text = with_interval(found, bounded(found, people))
        table.append((f"Rank-{rank} of the mated searches, no threshold", text))
    thresholds = _thresholds(first)
    counts = f"{first.num_mated:,} mated, {first.num_nonmated:,} non-mated searches"
    lines = [(f"rank {k} ({counts})", first.fpir(thresholds), first.fnir(thresholds, k)) for k in _RANKS]
    drawn = f"{100 * keys.OPEN_SET:g} % of the people are not enrolled, {number_of(len(searches), 'drawing')}"
    given = "people without a gallery image are not enrolled, as the data set has it"
    protocol = (
        f"{given if _is_given(setting) else drawn}; a person is scored by the best enrolled image; ties count against "
        f"the system; FPIR holds for this number of enrolled identities; {WITHOUT_ERRORS}"
    )
    return Section("Open-set identification", protocol, record, table, {"open_set": lines}, replicates, intervals)


def _enrolled(setting: Setting, run: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Gallery images of those who are enrolled, and whether each query is searched: junk is not."""
    keys = setting.test
    if _is_given(setting):
        return (setting.gallery.pids >= 0).nonzero()[:, 0], setting.query.pids >= 0
    people = np.asarray(setting.people[1])
    numbered = np.unique(people, return_inverse=True)[1]
    chosen = draw_enrolled(numbered, keys.OPEN_SET, setting.seed + run)
    images = torch.from_numpy(np.isin(numbered, chosen)) & (setting.gallery.pids >= 0)
    return images.nonzero()[:, 0], setting.query.pids >= 0


def _is_given(setting: Setting) -> bool:
    """Whether the data set itself has queries of people who are not enrolled, such as a listing."""
    query = setting.query.pids
    return bool(((query >= 0) & ~torch.isin(query, setting.gallery.pids)).any())


def _mated_people(setting: Setting) -> int:
    """People with a mated search in the first drawing: n of a bound where no search failed."""
    images, searched = _enrolled(setting, 0)
    mated = searched & torch.isin(setting.query.pids, setting.gallery.pids[images])
    return len(setting.subjects.query[mated].unique())


def _blocks(setting: Setting, images: torch.Tensor, searched: torch.Tensor):  # noqa: ANN202
    start = 0
    for queries, scores in masked(setting.crossing.blocks()):
        kept = scores[searched[queries].to(scores.device)][:, images.to(scores.device)]
        yield slice(start, start + len(kept)), kept
        start += len(kept)


def _search(setting: Setting, run: int) -> Searches:
    images, searched = _enrolled(setting, run)
    labels = setting.query.pids[searched], setting.gallery.pids[images]
    return search_people(_blocks(setting, images, searched), *labels)


def _replicates(setting: Setting) -> dict[str, np.ndarray]:
    keys = setting.test
    if not len(setting.drawn):
        return {}
    images, searched = _enrolled(setting, 0)
    labels = setting.query.pids[searched], setting.gallery.pids[images]
    subject_of = torch.zeros(1 + int(max(setting.query.pids.max(), setting.gallery.pids.max())), dtype=torch.int64)
    for pids, people in (
        (setting.query.pids, setting.subjects.query),
        (setting.gallery.pids, setting.subjects.gallery),
    ):
        subject_of[pids[pids >= 0]] = people[pids >= 0]
    blocks = _blocks(setting, images, searched)
    found = resample_searches(blocks, *labels, subject_of, setting.drawn, keys.FPIR)
    names = [f"FNIR at FPIR {fpir:g}" for fpir in keys.FPIR]
    return {name: values for name, values in zip(names, found.fnir, strict=True) if not np.isnan(values).all()}


def _at(
    searches: list[Searches], fpir: float, intervals: dict[str, Interval], people: int
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Means over the drawings at one FPIR."""
    name = f"FNIR at FPIR {fpir:g}"
    first = searches[0]
    if not all(s.is_supported(fpir) for s in searches):
        needed = round(RULE_OF_30 / fpir)
        reason = f"not reported: {first.num_nonmated:,} of {needed:,} non-mated searches needed (rule of 30)"
        return {name: None}, [(name, reason)]
    thresholds = [s.threshold_at(fpir) for s in searches]
    record: dict[str, Any] = {f"threshold at FPIR {fpir:g}": thresholds[0]}
    table = []
    for rank in _RANKS:
        values = _fnir(searches, fpir, rank)
        mean = float(np.mean(values))
        ends = intervals.get(name) if rank == 1 else bounded(mean, people)
        suffix = "" if rank == 1 else f", rank {rank}"
        record |= {f"{name}{suffix}": 100 * mean, f"DIR at FPIR {fpir:g}{suffix}": 100 * (1 - mean)}
        record |= {f"{name}{suffix} std": 100 * float(np.std(values, ddof=1))} if len(values) > 1 else {}
        record |= {f"{name} interval": [100 * end for end in ends]} if ends else {}
        table.append((f"FNIR (1 - DIR) at FPIR {fpir:g}, rank {rank}", with_interval(mean, ends)))
    wrong = float(np.mean([s.mated_misidentification([t])[0] for s, t in zip(searches, thresholds, strict=True)]))
    record[f"mated misidentification at FPIR {fpir:g}"] = 100 * wrong
    table.append((f"Mated searches led by another person, FPIR {fpir:g}", with_interval(wrong, bounded(wrong, people))))
    return record, table


def _fnir(searches: list[Searches], fpir: float, rank: int) -> list[float]:
    """FNIR of each drawing."""
    return [float(s.fnir([s.threshold_at(fpir)], rank)[0]) for s in searches]


def _thresholds(searches: Searches) -> np.ndarray:
    """Scores at which FPIR passes through logarithmically spaced values."""
    descending = np.sort(searches.top)[::-1]
    place = np.unique(np.geomspace(1, len(descending), _POINTS).round().astype(int)) - 1
    return descending[place]
