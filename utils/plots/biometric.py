"""Charts of biometric performance: error trade-offs, templates, likelihood ratios."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogFormatter

from utils.plots.curves import STYLES, new_figure


class Chart(NamedTuple):
    """Title and axes of a chart.

    Attributes:
        x, y: what the axes measure.
        x_log, y_log: whether they are logarithmic.
        percent: both are shares, shown in percent.
        ticks_at_points: x has a tick at each point.
        last_in_front: the last line is the chart's subject, drawn thick and black.
    """

    title: str
    x: str
    y: str
    x_log: bool = False
    y_log: bool = False
    percent: bool = False
    ticks_at_points: bool = False
    last_in_front: bool = False


class PercentFormatter(LogFormatter):
    """Shares as percent on a logarithmic axis; between the powers of ten where the axis is shorter than one."""

    def __call__(self, value: float, pos: int | None = None) -> str:
        return f"{100 * value:g}%" if super().__call__(value, pos) else ""


_FMR, _FNMR = "false match rate (FMR)", "false non-match rate (FNMR)"
_FPIR, _FNIR = "false positive identification rate (FPIR)", "false negative identification rate (FNIR)"

CHARTS = {
    "det": Chart("DET: error rates of comparisons", _FMR, _FNMR, True, True, True),
    "open_set": Chart("Open-set identification", _FPIR, _FNIR, True, True, True),
    "fusion": Chart("Fusion: DET of each modality and of all", _FMR, _FNMR, True, True, True, last_in_front=True),
    "templates": Chart("Errors by images in a template", "images in a template", "error (%)", ticks_at_points=True),
    "tippett": Chart("Tippett plot", "log10 of the likelihood ratio", "share of comparisons at or above it"),
    "ece": Chart("Empirical cross-entropy", "log10 of the prior odds", "empirical cross-entropy (bits)"),
}

Line = tuple[str, np.ndarray, np.ndarray]


def rate_chart(kind: str, lines: Sequence[Line]) -> Figure:
    """Named lines (name, x, y) on the axes of ``kind``, a name in :data:`CHARTS`; zeros have no place on a log axis."""
    chart = CHARTS[kind]
    figure, (axis,) = new_figure(6.4, 4.6)
    shown = False
    for number, (name, x, y) in enumerate(lines):
        x, y = (
            np.where(values > 0, values, np.nan) if log else values
            for values, log in ((x, chart.x_log), (y, chart.y_log))
        )
        marker = "o" if len(x) < 10 else None
        shown |= bool((np.isfinite(x) & np.isfinite(y)).any())
        axis.plot(x, y, STYLES[number % len(STYLES)], marker=marker, label=name)
    if chart.last_in_front:
        axis.lines[-1].set(color="black", linewidth=2.5, linestyle="-")
    axis.set(title=chart.title, xlabel=chart.x, ylabel=chart.y)
    for name, log in (("x", chart.x_log), ("y", chart.y_log)):
        if log and shown:  # without errors there is no point, and matplotlib has no logarithmic axis for none
            axis.set(**{f"{name}scale": "log"})
            getattr(axis, f"{name}axis").set_minor_formatter(PercentFormatter())
            axis.grid(alpha=0.12, which="minor", axis=name)
        if chart.percent:
            getattr(axis, f"{name}axis").set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    if chart.ticks_at_points:
        axis.set_xticks(np.unique(np.concatenate([x for _, x, _ in lines])))
    axis.legend(fontsize=8)
    return figure
