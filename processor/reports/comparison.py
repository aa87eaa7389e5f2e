"""Runs of several configurations with several seeds as one table: means, deviations, costs, differences."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from processor.reports.error_rates import MISSING, RATES
from processor.runs.folder import RunFolder
from processor.runs.settings import free_to_change
from utils.biometric.bootstrap.subjects import Difference, centred, interval, resample_means
from utils.biometric.bootstrap.subjects import difference as bootstrap_difference
from utils.biometric.confidence import bounded, upper_bound_without_errors
from utils.biometric.verification import significant

MEASURES = ("mAP", "Rank-1", "EER")
RANKS = ("mAP", "Rank-1")
"""Measures whose replicates are biased and are shifted to the figure."""

WITH_INTERVAL = (*MEASURES, *RATES)
PAIRS = ("genuine pairs", "impostor pairs")
PEOPLE = "people with genuine pairs"

SEEN_BY_TESTS = ("TEST.NECK_FEAT", "TEST.FEATURE")
"""Keys of ``TEST`` that belong to a method and change the numbers of one model."""

METHODS_OWN = (*SEEN_BY_TESTS, "TEST.WEIGHT", "TEST.IMS_PER_BATCH", "TEST.BEFORE_TRAINING", "TEST.PICTURES")
"""Keys of ``TEST`` in which configurations may differ: they choose what is tested, not how."""

MORE_NUMBERS = tuple(
    f"TEST.{key}"
    for key in (
        *("FAR", "THRESHOLDS", "THRESHOLD_FROM", "BOOTSTRAP", "OPEN_SET", "FPIR", "TEMPLATE", "TEMPLATE_SIZE"),
        *("TEMPLATE_RULE", "FUSE", "SCORE_NORM", "COHORT_TOP", "CALIBRATION", "GROUPS"),
    )
)
"""Keys of ``TEST`` that add numbers and change none of those that are compared."""

NOT_DATA = ("DATASETS.CACHE", "DATASETS.CHECK_IMAGES", "DATASETS.BAD_IMAGES", "DATASETS.TEXTURES")
"""Keys of ``DATASETS``, or their beginnings, that do not select images."""


def is_protocol(key: str) -> bool:
    """Whether runs that differ in ``key`` were measured on other images or in another way."""
    if key.startswith("DATASETS."):
        return not key.startswith(NOT_DATA)
    return key.startswith("TEST.") and key not in (*METHODS_OWN, *MORE_NUMBERS)


def measured_on(run: RunFolder) -> dict[str, Any]:
    """What must be equal for the numbers of two runs to compare: data, test protocol, and the images themselves."""
    keys = {key: value for key, value in run.settings.items() if is_protocol(key)}
    return keys | {"the test images": run.result.get("images"), "the number format": number_format(run)}


def number_format(run: RunFolder) -> str | None:
    """In which a run trained, such as bfloat16; None of a test, whose ``TEST.PRECISION`` is compared, or if unknown."""
    if not run.metrics.get("history"):
        return None
    return str(run.result.get("device", "")).rpartition(", ")[2] or None


def set_apart_by(first: RunFolder, second: RunFolder) -> list[str]:
    """Why the numbers of two runs do not compare: the keys of :func:`measured_on` with different values.

    An older run may lack the fingerprint of its images, or a key.
    """
    one, other = measured_on(first), measured_on(second)
    return [
        key for key in one if key in other and None not in (one[key], other[key]) and repr(one[key]) != repr(other[key])
    ]


def seeds_of_one(runs: Mapping[str, RunFolder]) -> list[dict[str, RunFolder]]:
    """Groups of runs by name that share data, protocol and every key that training or testing sees but the seed."""
    groups: dict[str, dict[str, RunFolder]] = {}
    for name, run in runs.items():
        own = {key: value for key, value in run.settings.items() if not free_to_change(key) or key in SEEN_BY_TESTS}
        same = repr(sorted((own | measured_on(run) | {"SOLVER.SEED": None}).items()))
        groups.setdefault(same, {})[name] = run
    return list(groups.values())


def summarise(runs: Mapping[str, Mapping[int, RunFolder]]) -> list[dict[str, Any]]:
    """One row for each configuration that has a finished run.

    Args:
        runs: finished runs by configuration and seed; the others are measured against the first configuration.

    Returns:
        For each configuration its method, model and start weights, the seeds, mean and sample standard deviation of
        each measure in percent (None where it was not measured, or for a single seed), the mean seconds, the parameters
        trained, the numbers of :func:`_error_rates`, and the ``difference`` in mAP to the first one with its 95 %
        interval.
    """
    rows = []
    first = next(iter(runs.values()), {})
    for name, seeds in runs.items():
        if not seeds:
            continue
        results = [run.result for run in seeds.values()]
        trained = {run.metrics.get("parameters_trained") for run in seeds.values()}
        row: dict[str, Any] = {"name": name, "seeds": list(seeds)}
        row |= {key: _together(result[key] for result in results) for key in ("method", "model", "weights")}
        for measure in MEASURES:
            row |= _mean_and_deviation(measure, [result.get(measure) for result in results])
        row["seconds"] = float(np.mean([run.metrics["seconds"] for run in seeds.values()]))
        row["parameters trained"] = trained.pop() if len(trained) == 1 else None
        row |= _error_rates(list(seeds.values()), row)
        row["targets"] = _targets(results)
        row["difference"] = None if seeds is first else difference(first, seeds)
        rows.append(row)
    return rows


def _targets(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """mAP and Rank-1 on each of ``TEST.TARGETS`` and their mean over the targets; nothing where there are none."""
    found = [result.get("targets") for result in results]
    if not all(found):
        return {}
    rows = [one["sets"] | {"mean": one["mean"]} for one in found]
    return {
        name: {
            key: value
            for measure in RANKS
            for key, value in _mean_and_deviation(measure, [row[name][measure] for row in rows]).items()
        }
        for name in rows[0]
    }


def _mean_and_deviation(name: str, values: Sequence[float | None]) -> dict[str, float | None]:
    if None in values:
        return {name: None, f"{name} std": None}
    return {name: float(np.mean(values)), f"{name} std": float(np.std(values, ddof=1)) if len(values) > 1 else None}


def _error_rates(runs: Sequence[RunFolder], means: Mapping[str, Any]) -> dict[str, Any]:
    """TAR at FAR over the seeds, numbers of pairs and people, and 95 % intervals of all measures, in percent.

    Over random splits the pairs and their rates are those of the first split only, and nothing is given. The interval
    is over the test people: the mean over the seeds of the replicates, which draw the same people in every run.
    """
    found = [{} if "runs" in run.result else run.result.get("verification") or {} for run in runs]
    rates: dict[str, Any] = {}
    for name in RATES:
        rates |= _mean_and_deviation(name, [one.get(name) for one in found])
    for name in (*PAIRS, PEOPLE):
        numbers = {one.get(name) for one in found}
        rates[name] = numbers.pop() if len(numbers) == 1 else None
    kept = [run.replicates() if one else {} for run, one in zip(runs, found, strict=True)]
    for name in WITH_INTERVAL:
        replicates = [one.get(f"Error rates: {name}") for one in kept]
        low, high = _interval(name, replicates, (means | rates).get(name), rates[PEOPLE])
        rates |= {f"{name} low": low, f"{name} high": high}
    return rates


def _interval(
    name: str, kept: Sequence[np.ndarray | None], figure: float | None, people: int | None
) -> tuple[float | None, float | None]:
    """Ends in percent of the interval of a mean over runs; None where a run kept no replicates.

    Where no run made an error it ends at the bound over ``people``.
    """
    complete = all(values is not None and len(values) == len(kept[0]) for values in kept)
    values = np.mean(kept, axis=0) if complete else np.full(1, np.nan)
    if name in RANKS and figure is not None:
        values = centred(values, figure / 100)
    ends = None if np.isnan(values).all() else interval(values)
    if figure is not None and people:
        ends = bounded(figure / 100, people, ends)
    return (None, None) if ends is None else (100 * ends.low, 100 * ends.high)


def difference(first: Mapping[int, RunFolder], second: Mapping[int, RunFolder]) -> dict[str, float] | None:
    """Bootstrap of the mAP of ``second`` minus that of ``first``, in points, over the seeds that both have.

    Seeds and people are drawn. None if there is no such seed, or if the runs did not keep the same queries.
    """
    seeds = [seed for seed in first if seed in second]
    found = paired_difference(*([runs[seed] for seed in seeds] for runs in (first, second)))
    return found and {"mean": 100 * found.mean, "low": 100 * found.low, "high": 100 * found.high, "p": found.p}


def paired_difference(first: Sequence[RunFolder], second: Sequence[RunFolder]) -> Difference | None:
    """Difference in mAP between runs of two configurations, over seeds and people (query and gallery together).

    Runs that kept no replicates, or average over several random splits, are resampled by their queries' average
    precisions. Where no query differs, the bound over the queries' identities takes the place of an interval without
    width. None where the runs did not keep the same queries, or where the number format differs.
    """
    runs = [*first, *second]
    queries = [run.queries() for run in runs]
    if not runs or any(found is None or not same_queries(queries[0], found) for found in queries):
        return None
    precisions = np.array([found["average_precision"] for found in queries])
    precisions[:, np.isnan(precisions).any(0)] = np.nan
    if np.isnan(precisions).all():
        return None
    means = np.nanmean(precisions, axis=1)
    kept = [run.replicates().get("Error rates: mAP") for run in runs]
    if any(values is None or len(values) != len(kept[0]) for values in kept) or any("runs" in r.result for r in runs):
        kept = [resample_means(values, queries[0]["identity"]) for values in precisions]
    half = len(first)
    mean = float(means[half:].mean() - means[:half].mean())
    found = bootstrap_difference(np.array(kept[:half]), np.array(kept[half:]), mean=mean)
    if found.low < found.high:
        return found
    bound = upper_bound_without_errors(len(np.unique(queries[0]["identity"])))
    return found._replace(low=mean - bound, high=mean + bound)


def same_queries(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> bool:
    """Whether two runs had the same queries: file names and identities, since the data may have moved."""
    names = [[Path(path).name for path in queries["path"].tolist()] for queries in (first, second)]
    return names[0] == names[1] and np.array_equal(first["identity"], second["identity"])


def as_markdown(rows: Sequence[Mapping[str, Any]], failed: Sequence[str], title: str) -> str:
    """A table for people, with what its numbers are."""
    against = f"mAP against {rows[0]['name'] if rows else ''}"
    columns = ("configuration", "start", "seeds", *MEASURES, "seconds", "parameters trained", against)
    cells = [
        (
            *(row["name"], row["weights"], str(len(row["seeds"])), *(_spread(row, measure) for measure in MEASURES)),
            *(f"{row['seconds']:.0f}", _count(row["parameters trained"]), _difference(row["difference"])),
        )
        for row in rows
    ]
    lines = [f"# {title}", "", *_table(columns, cells)]
    lines += [
        "",
        "mAP, Rank-1 and EER in percent, mean ± sample standard deviation over the seeds; seconds of a run, mean.",
    ]
    lines += ["In brackets the 95 % interval of a paired bootstrap over seeds and test people.", ""]
    lines += _targets_table(rows)
    lines += _rates_table(rows)
    return "\n".join([*lines, *(f"Failed: {line}" for line in failed), *([""] if failed else [])])


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of Markdown."""
    return [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", *(f"| {' | '.join(row)} |" for row in rows)]


def _targets_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """mAP / Rank-1 on each target; nothing where none was tested on."""
    names = list(dict.fromkeys(name for row in rows for name in row["targets"] if name != "mean"))
    if not names:
        return []

    def text(found: Mapping[str, float | None] | None) -> str:
        return MISSING if found is None else " / ".join(_spread(found, measure) for measure in RANKS)

    cells = [(row["name"], *(text(row["targets"].get(name)) for name in (*names, "mean"))) for row in rows]
    lines = _table(("configuration", *(f"-> {name}" for name in names), "mean"), cells)
    return [*lines, "", "mAP / Rank-1 in percent of the same models on the data sets of TEST.TARGETS.", ""]


def _rates_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A second table: error rates with intervals and the numbers of pairs; nothing where none was measured."""
    if all(row[name] is None for row in rows for name in (*PAIRS, *RATES)):
        return []
    columns = ("configuration", *(f"{measure} 95 %" for measure in MEASURES), *RATES.values())
    cells = [
        (
            row["name"],
            *(_ends(row, measure) or MISSING for measure in MEASURES),
            *(f"{_spread(row, name)} {_ends(row, name)}".strip() for name in RATES),
            MISSING if None in (row[name] for name in PAIRS) else " / ".join(_count(row[name]) for name in PAIRS),
        )
        for row in rows
    ]
    lines = _table((*columns, "genuine / impostor pairs"), cells)
    return [*lines, "", "In percent; in brackets 95 % intervals over the test people of the mean over the seeds.", ""]


def _count(number: int | None) -> str:
    return MISSING if number is None else f"{number:,}"


def _ends(row: Mapping[str, Any], name: str) -> str:
    low, high = row[f"{name} low"], row[f"{name} high"]
    if low is None:
        return ""
    return "(no spread in the sample)" if low == high else f"[{significant(low)}, {significant(high)}]"


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as comma-separated values with a header; empty where there is no number."""
    text = io.StringIO()
    flat = []
    for row in rows:
        on_targets = {
            f"{key} -> {name}": value for name, found in row["targets"].items() for key, value in found.items()
        }
        own = {**row, "seeds": " ".join(map(str, row["seeds"])), **_flat_difference(row["difference"]), **on_targets}
        flat.append({key: value for key, value in own.items() if key not in ("difference", "targets")})
    columns = list(dict.fromkeys(key for row in flat for key in row)) or ["name"]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def _together(values: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(values))


def _spread(row: Mapping[str, Any], measure: str) -> str:
    if row[measure] is None:
        return MISSING
    std = row[f"{measure} std"]
    return significant(row[measure], 1) + ("" if std is None else f" ± {significant(std, 1)}")


def _difference(found: Mapping[str, float] | None) -> str:
    return MISSING if found is None else f"{found['mean']:+.1f} [{found['low']:+.1f}, {found['high']:+.1f}]"


def _flat_difference(found: Mapping[str, float] | None) -> dict[str, Any]:
    return {f"mAP difference {key}": None if found is None else found[key] for key in ("mean", "low", "high", "p")}
