"""Charts of training and evaluation, drawn with matplotlib's Agg canvas through objects: no display, no global state.

Every function takes the numbers and returns a figure; :func:`save_figure` writes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from utils.biometric.verification import VerificationMetrics, percent
from utils.files.checkpoint import write_atomically
from utils.files.text_files import printable
from utils.words import number_of

LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Colours of lines that colour-blind readers tell apart (Okabe and Ito); line styles distinguish them in print."""

GENUINE, IMPOSTOR, MARK = LINES[0], LINES[1], "#333333"

STYLES = ("-", "--", "-.", ":")
NOT_LOSSES = frozenset(
    {"stage", "epoch", "accuracy", "lr", "images_per_second", "seconds", "length_product", "alignment_left"}
)
SENTENCES = {
    "sentence_accuracy": ("images nearest to their sentence", "% of the clean training images", 100),
    "sentence_cosine": ("sentence and centroid", "cosine, mean over identities", 1),
    "logit_span": ("span of the logits", "largest - smallest, mean", 1),
}
"""Titles, units and factors of the diagnostics of sentences, by their names in the history."""
VALIDATION = ("validation mAP", "validation Rank-1")
TESTED = ("mAP", "Rank-1", "Rank-5", "Rank-10", *VALIDATION)


class Panel(NamedTuple):
    """One chart of :func:`training_curves`: named lines of (epochs, values) and what the vertical axis measures."""

    title: str
    unit: str
    lines: dict[str, tuple[list[float], list[float]]]


def new_figure(width: float, height: float, columns: int = 1, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """An empty figure of ``width`` x ``height`` inches and its axes, row by row."""
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)  # a title does not touch the chart above it
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.set_prop_cycle(color=LINES)
    return figure, axes


def save_figure(figure: Figure, path: Path) -> None:
    """Write ``figure`` as PNG.

    Raises:
        ReIDError: ``path`` cannot be written.
    """
    write_atomically(path, figure.canvas.print_png)  # savefig lays the same picture out twice


def curve_panels(
    history: Sequence[Mapping], results: Mapping[str, Mapping], alignment: Mapping[str, Mapping] | None = None
) -> list[Panel]:
    """What :func:`training_curves` draws: losses, learning rate and accuracy of each stage, then the test results.

    Args:
        history: one entry an epoch, as in ``metrics.json``.
        results: evaluations by name; ``untrained`` stands at epoch 0, ``trained`` at the last epoch.
        alignment: by stage, the diagnostics of sentences before its first epoch, which stand at epoch 0.
    """
    panels = []
    for stage in sorted({entry["stage"] for entry in history}):
        entries = [entry for entry in history if entry["stage"] == stage]
        numbers = {name for entry in entries for name, value in entry.items() if isinstance(value, int | float)}
        rates = sorted(name for name in numbers if name == "lr" or name.startswith("lr of "))
        shares = sorted(name for name in numbers if name == "accuracy" or name.endswith(" accuracy"))
        losses = numbers - NOT_LOSSES - {*TESTED, *SENTENCES, *rates, *shares}
        terms = sorted(losses, key=lambda name: (name != "loss", name))
        panels.append(Panel(f"stage {stage}: losses", "mean over the epoch", _lines(entries, terms)))
        panels.append(Panel(f"stage {stage}: learning rate", "learning rate", _lines(entries, rates)))
        if shares:
            lines = _lines(entries, shares, 100)
            panels.append(Panel(f"stage {stage}: training accuracy", "% of the images", lines))
        measured = [{**(alignment or {}).get(str(stage), {}), "epoch": 0}, *entries]
        for name, (title, unit, factor) in SENTENCES.items():
            if name in numbers and (name != "logit_span" or stage == 1):
                panels.append(Panel(f"stage {stage}: {title}", unit, _lines(measured, [name], factor)))
    tested = [entry for entry in history if "mAP" in entry]
    if "untrained" in results:
        tested = [{"epoch": 0, **results["untrained"]}, *tested]
    if "trained" in results and history:
        tested = [*tested, {"epoch": history[-1]["epoch"], **results["trained"]}]
    if tested:
        panels.append(Panel("test: query against gallery", "%", _lines(tested, ["mAP", "Rank-1"])))
    validated = [entry for entry in history if VALIDATION[0] in entry]
    if validated:
        panels.append(Panel("validation: held-out images", "%", _lines(validated, VALIDATION)))
    return panels


def _lines(entries: Sequence[Mapping], names: Sequence[str], factor: float = 1) -> dict[str, tuple[list, list]]:
    """Epochs and values of each name, where it has one."""
    return {
        name: ([e["epoch"] for e in entries if name in e], [factor * e[name] for e in entries if name in e])
        for name in names
    }


def training_curves(
    history: Sequence[Mapping], results: Mapping[str, Mapping], alignment: Mapping[str, Mapping] | None = None
) -> Figure:
    """Losses, learning rates, accuracy, mAP and Rank-1 by epoch; arguments as for :func:`curve_panels`."""
    panels = curve_panels(history, results, alignment)
    columns = min(3, max(1, len(panels)))
    rows = -(-len(panels) // columns) or 1
    figure, axes = new_figure(4.2 * columns, 3.2 * rows, columns, rows)
    for axis, panel in zip(axes, panels, strict=False):
        for number, (name, (epochs, values)) in enumerate(panel.lines.items()):
            marker = "o" if len(epochs) < 30 else None
            axis.plot(epochs, values, STYLES[number % len(STYLES)], marker=marker, markersize=3, label=name)
        axis.set(title=panel.title, xlabel="epoch", ylabel=panel.unit)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7, min_n_ticks=1))
        if panel.unit.startswith("%"):
            axis.set_ylim(0, 102)
        if "lr" in panel.lines:
            axis.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
        if len(panel.lines) > 1:
            axis.legend(fontsize=8)
    for axis in axes[len(panels) :]:
        axis.remove()
    return figure


def cmc_chart(cmc: np.ndarray, mean_ap: float, queries: int) -> Figure:
    """Cumulative match characteristic of ``queries``, ``cmc`` [K] in [0, 1], with the ranks that are quoted marked."""
    figure, (axis,) = new_figure(6.4, 4.2)
    ranks = np.arange(1, len(cmc) + 1)
    axis.plot(ranks, cmc, color=GENUINE, marker="." if len(cmc) <= 50 else None, clip_on=False)
    for rank, marker in ((1, "o"), (5, "s"), (10, "^")):
        if rank <= len(cmc):
            label = f"Rank-{rank}: {cmc[rank - 1]:.1%}"
            axis.plot([rank], [cmc[rank - 1]], marker, color=MARK, label=label, clip_on=False, zorder=3)
    low = max(0.0, float(cmc[0]) - 0.35 * max(1 - float(cmc[0]), 0.2))
    title = f"Cumulative match characteristic, {number_of(queries, 'query', 'queries')} (mAP {mean_ap:.1%})"
    axis.set(xlim=(0.5, len(cmc) + 0.5), ylim=(low, 1), title=title)
    axis.set(xlabel="rank k", ylabel="queries with a right image among the k nearest")
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axis.legend(loc="lower right")
    return figure


def error_chart(metrics: VerificationMetrics) -> Figure:
    """ROC and DET curves side by side, with the equal error rate marked, which is a point of them.

    A logarithmic axis has no 0: the DET curve ends where no genuine pair is refused, and a note gives the place.
    """
    eer, place = metrics.eer, np.searchsorted(metrics.curve.far, metrics.eer)
    least = 0.5 / max(metrics.num_impostor, 1)
    far = np.insert(metrics.curve.far, place, eer).clip(min=least)
    frr = np.insert(metrics.curve.frr, place, eer)
    figure, (roc, det) = new_figure(10, 4.2, columns=2)
    roc.plot(far, 1 - frr, color=GENUINE)
    roc.plot([max(eer, least)], [1 - eer], "o", color=MARK, label=_eer(metrics))
    roc.set(xscale="log", title="ROC", ylabel="true accept rate (genuine pairs accepted)", ylim=(None, 1.02))
    least_rejected = 0.5 / max(metrics.num_genuine, 1)
    some = frr > 0
    det.plot(far[some], frr[some], color=IMPOSTOR)
    if not some.all():
        none = f"no genuine pair refused from FAR {_percent(float(f'{far[~some][0]:.2g}'), None)} on"
        det.plot([], [], " ", label=none)
    if eer:
        det.plot([eer], [eer], "o", color=MARK, label=_eer(metrics))
    else:
        det.plot([], [], " ", label=_eer(metrics))
    diagonal = [max(least, least_rejected), 1]
    det.plot(diagonal, diagonal, ":", color=MARK, linewidth=1, label="both errors equal")
    det.set(xscale="log", yscale="log", title="DET", ylabel="false reject rate (genuine pairs refused)")
    det.set_ylim(least_rejected, 1.3)
    roc.yaxis.set_major_formatter(PercentFormatter(1))
    for axis in (roc, det):
        axis.set(xlabel="false accept rate (impostor pairs accepted)", xlim=(least, 1.3))
        axis.xaxis.set_major_formatter(FuncFormatter(_percent))
        axis.legend(loc="lower right" if axis is roc else "lower left")
    det.yaxis.set_major_formatter(FuncFormatter(_percent))
    figure.suptitle(f"Verification: {metrics.num_genuine:,} genuine and {metrics.num_impostor:,} impostor pairs")
    return figure


def _eer(metrics: VerificationMetrics) -> str:
    """The rate, or where no error was seen, one error among the genuine pairs as its bound."""
    if metrics.eer:
        return f"EER {percent(metrics.eer)}"
    return f"EER below {percent(1 / metrics.num_genuine)} (1 of {metrics.num_genuine:,} genuine pairs)"


def _percent(value: float, _: object) -> str:
    """``PercentFormatter`` rounds the small rates of a logarithmic axis to 0 %."""
    return f"{100 * value:g}%"


def score_chart(metrics: VerificationMetrics, score: str) -> Figure:
    """Histograms of the genuine and impostor scores, each of area 1, with the threshold of the EER."""
    scores = metrics.histogram(80)
    figure, (axis,) = new_figure(6.4, 4)
    kinds = (("genuine", scores.genuine, GENUINE, None), ("impostor", scores.impostor, IMPOSTOR, "///"))
    for name, counts, colour, hatch in kinds:
        density = counts / counts.sum() / np.diff(scores.edges)
        style = {"facecolor": colour, "edgecolor": colour, "hatch": hatch, "alpha": 0.45}
        axis.stairs(density, scores.edges, fill=True, label=f"{name}, {counts.sum():,} pairs", **style)
    label = f"{_eer(metrics)} at {metrics.threshold_text}" if metrics.eer else _eer(metrics)
    axis.axvline(metrics.eer_threshold, color=MARK, linestyle="--", label=label)
    axis.set(title="Scores of genuine and impostor pairs", xlabel=score, ylabel="density")
    axis.ticklabel_format(axis="x", useOffset=False)
    axis.locator_params(axis="x", nbins=6)
    axis.legend()
    return figure


def _label(name: str) -> str:
    """``name``, its middle left out if it is long, as matplotlib shows it: no formula, its first character no order."""
    text = printable(name if len(name) <= 20 else f"{name[:9]}…{name[-10:]}").replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def similarity_chart(similarity: np.ndarray, names: Sequence[str]) -> Figure:
    """Mean cosine similarity [n, n] of the queries of one identity (rows) to gallery images of another (columns)."""
    highest = float(np.nanmax(similarity))
    spread = max(highest - float(np.nanmin(similarity)), 1e-7)
    digits = int(np.clip(np.ceil(1.5 - np.log10(spread)), 2, 8))  # enough to distinguish the cells
    side = max(4.5, (0.42 + 0.05 * max(0, digits - 3)) * len(names) + 2)
    figure, (axis,) = new_figure(side + 1, side)
    axis.grid(False)
    image = axis.imshow(similarity, cmap="viridis", interpolation="nearest", vmin=highest - spread, vmax=highest)
    shown = [_label(name) for name in names]
    axis.set_xticks(range(len(names)), shown, rotation=90, fontsize=8)
    axis.set_yticks(range(len(names)), shown, fontsize=8)
    axis.set(
        title=f"The {len(names)} most confused identities",
        xlabel="identity in the gallery",
        ylabel="identity of the query",
    )
    figure.colorbar(image, ax=axis, label="mean cosine similarity", shrink=0.8, format=f"%.{digits}f")
    middle = highest - spread / 2
    if len(names) <= 20:
        for (row, column), value in np.ndenumerate(similarity):
            colour = "white" if value < middle else "black"
            axis.text(column, row, f"{value:z.{digits}f}", ha="center", va="center", fontsize=6.5, color=colour)
    return figure


def embedding_chart(points: np.ndarray, groups: Sequence[str], is_query: np.ndarray, method: str) -> Figure:
    """Points [N, 2] coloured by identity; queries are stars.

    Args:
        points: places.
        groups: [N] identity of each point.
        is_query: [N] booleans.
        method: how the places were found, for the title and the axes.
    """
    names = sorted(set(groups))
    figure, (axis,) = new_figure(8.4, 6)
    palette = colormaps["tab20"].colors
    groups = np.asarray(groups)
    for number, name in enumerate(names):
        for query, (marker, size) in {False: ("osD^"[number % 4], 22), True: ("*", 70)}.items():
            here = (groups == name) & (is_query == query)
            style = {"color": palette[number % len(palette)], "marker": marker, "s": size, "linewidths": 0.3}
            label = _label(name) if not query else None
            axis.scatter(*points[here].T, label=label, alpha=0.85, edgecolors=MARK, **style)
    axis.set(title=f"Features by {method}, coloured by identity (stars: queries)")
    axis.set(xlabel="first axis (no unit)", ylabel="second axis (no unit)")
    figure.legend(loc="outside right center", title="identity", fontsize=7, ncols=1 + (len(names) > 24))
    return figure
