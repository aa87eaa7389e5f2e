"""Error rates of a row of ``metrics.json`` as short texts, for tables."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

from utils.biometric.verification import significant

MISSING = "-"
RATES = {"TAR at FAR 0.01": "TAR at FAR 1 %", "TAR at FAR 0.001": "TAR at FAR 0.1 %"}
"""By their names in ``metrics.json``: titles for tables."""

INTERVALS = ("mAP 95 %", "Rank-1 95 %")
PAIRS = ("EER", *RATES.values(), "genuine / impostor pairs")
COLUMNS = (*INTERVALS, *PAIRS)


def error_rates(row: Mapping[str, Any]) -> dict[str, str]:
    """A text for each of :data:`COLUMNS`: percent with the 95 % interval in brackets, numbers of pairs.

    Small rates keep two significant digits. Over several random splits everything is of the first one, which is said.
    "-" stands for what was not measured or had too few pairs.
    """
    found = row.get("verification")
    found = found if isinstance(found, Mapping) else {}
    ranks = found.get("intervals")
    ranks = ranks if isinstance(ranks, Mapping) else {}
    of = f" (split {_first(row)})" if _first(row) else ""
    pairs = [found.get(f"{kind} pairs") for kind in ("genuine", "impostor")]
    texts = {
        "mAP 95 %": _interval(ranks.get("mAP")).strip() or MISSING,
        "Rank-1 95 %": _interval(ranks.get("Rank-1")).strip() or MISSING,
        "EER": _rate(found, "EER"),
        **{title: _rate(found, name) for name, title in RATES.items()},
        COLUMNS[-1]: " / ".join(f"{n:,}" for n in pairs) if all(type(n) is int for n in pairs) else MISSING,
    }
    return {name: text if text == MISSING else text + of for name, text in texts.items()}


def _first(row: Mapping[str, Any]) -> object:
    """Number of the random split that error rates are of; None where there is one split."""
    runs = row.get("runs")
    return runs[0].get("run") if isinstance(runs, list) and runs and isinstance(runs[0], Mapping) else None


def _rate(found: Mapping[str, Any], name: str) -> str:
    value = found.get(name)
    return f"{significant(value)}{_interval(found.get(f'{name} interval'))}" if isinstance(value, Real) else MISSING


def _interval(ends: object) -> str:
    if not (isinstance(ends, list) and len(ends) == 2 and all(isinstance(end, Real) for end in ends)):
        return ""
    if ends[0] == ends[1]:  # of a run before such figures had a bound over people
        return " (no spread in the sample)"
    return f" [{significant(ends[0])}, {significant(ends[1])}]"
