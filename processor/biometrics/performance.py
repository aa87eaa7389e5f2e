"""Files of the biometric performance of an evaluation: numbers, replicates, pictures, one table for a paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from processor.biometrics.setting import Section
from processor.runs.run import Run
from utils.files.checkpoint import write_atomically, write_text
from utils.plots.biometric import CHARTS, rate_chart
from utils.plots.curves import save_figure

FILE = "biometric_performance"


def performance_record(sections: Sequence[Section]) -> dict[str, Any]:
    """For ``metrics.json``: error rates with intervals under ``verification``, the others under ``biometrics``."""
    if not sections:
        return {}
    first, *others = (
        {"comparisons": section.protocol, **_plain(section.record), "table": [list(row) for row in section.table]}
        for section in sections
    )
    named = {section.title: part for section, part in zip(sections[1:], others, strict=True)}
    return {"verification": first} | ({"biometrics": named} if named else {})


def _plain(value: Any) -> Any:
    """``value`` with None for numbers that JSON has not."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_performance(run: Run, name: str, sections: Sequence[Section]) -> None:
    """Write ``biometric_performance.md``, its charts and ``replicates.npz`` into the run's folder."""
    if not sections:
        return
    folder, suffix = run.output_dir, run.suffix
    row = run.results[name]
    text = as_markdown(sections, row)
    write_text(folder / f"{FILE}{suffix}.md", run.shorten(text))
    replicates = {f"{s.title}: {measure}": values for s in sections for measure, values in s.replicates.items()}
    if replicates:
        path = folder / f"replicates{suffix}.npz"
        write_atomically(path, lambda file: np.savez_compressed(file, **replicates))
    write_charts(folder / f"{FILE}{suffix}", sections)


def as_markdown(sections: Sequence[Section], row: dict[str, Any]) -> str:
    """One table with the protocol of each part in words."""
    measured = ", ".join(f"{key} {value}" for key, value in row["protocol"].items())
    lines = [
        f"# Biometric performance: {row['dataset']}",
        "",
        f"Model {row['model']} ({row['method']}), weights: {row['weights']}; {row['device']}; {measured}.",
        "FMR and FNMR are rates of comparisons (ISO/IEC 19795-1); intervals are 95 % over people.",
        "",
        "| part | measure | value |",
        "|---|---|---|",
    ]
    lines += [f"| {s.title} | {_cell(measure)} | {_cell(value)} |" for s in sections for measure, value in s.table]
    lines += ["", *(f"- {s.title}: {s.protocol}." for s in sections), ""]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def write_charts(folder: Path, sections: Sequence[Section]) -> None:
    """A picture of each kind of curve: DET, open set, templates, fusion, Tippett, ECE."""
    curves: dict[str, list] = {}
    for section in sections:
        for chart, lines in section.curves.items():
            curves.setdefault(chart, []).extend(lines)
    for chart in CHARTS:
        path = folder / f"{chart}.png"
        if chart in curves:
            save_figure(rate_chart(chart, curves[chart]), path)
        else:
            path.unlink(missing_ok=True)  # charts of an earlier evaluation
