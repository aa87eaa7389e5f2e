"""Write one self-contained HTML page about a run, or about several runs side by side.

A run's page (``report.html`` in its folder) holds the results, what its configuration changes, the data, the pictures,
the environment and the seed. With several folders the page compares them: a table with mean and standard deviation,
and the paired bootstrap of the difference in mAP between the first run and each other one.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from configs import get_defaults, load_config
from processor.reports.comparison import paired_difference, same_queries, seeds_of_one, set_apart_by
from processor.reports.error_rates import INTERVALS, PAIRS, error_rates
from processor.reports.sentences import sentences_section
from processor.runs.folder import COUNTS, MEASURES, TRAINED, RunFolder, below_start, flatten, kind, read_run
from utils.console.arguments import make_parser
from utils.console.command_line import run_script
from utils.console.logger import LOGGER, setup_console
from utils.console.terminal import show
from utils.errors import ReIDError
from utils.files.checkpoint import write_text
from utils.files.paths import ShortPaths
from utils.plots.biometric import CHARTS
from utils.plots.html import escape, folded, page, picture, table

EXAMPLES = (
    "python -m processor.html_report output/hand/demo",
    "python -m processor.html_report output/seed1 output/seed2 output/seed3 --output comparison.html",
)

ERROR_RATES = "Error rates (%) with 95 % intervals"

PICTURES = {
    "curves": ("Training", "Losses, learning rate and accuracy by epoch; mAP and Rank-1 where the model was tested."),
    "cmc": ("CMC curve", "Share of the queries whose person is among the first k images."),
    "roc_det": ("ROC and DET curves", "True accept and false reject rate of pairs at each false accept rate."),
    "scores": (
        "Scores",
        "Cosine similarities of genuine and impostor pairs; dashed: the threshold of the equal error rate.",
    ),
    "ranking": (
        "Rankings",
        "Queries from best to worst; their nearest images framed green if right, dashed red if wrong.",
    ),
    "rankings_worst": ("Worst queries", "Queries of lowest average precision with their ten nearest images."),
    "rankings_median": ("Median queries", "Queries of median average precision with their ten nearest images."),
    "rankings_random": ("Random queries", "Queries drawn with the run's seed, with their ten nearest images."),
    "confused": ("Confused identities", "Mean similarity between the most similar identities."),
    "attention": ("Saliency", "Queries and, below them, the contribution of each place to the feature."),
    "embedding": ("Map of the features", "Each point is an image, coloured by identity; queries are stars."),
}
"""File names without suffix, in the order of the page: title and description."""


def run_page(run: RunFolder, defaults: Mapping[str, Any], recipe: Mapping[str, Any] | None = None) -> str:
    """The page about one run.

    Args:
        run: it.
        defaults: every key's default.
        recipe: every key's value in the run's recipe, if that is known.
    """
    result = run.result
    introduction = (
        f"<p><strong>mAP {result['mAP']:.1f} %, Rank-1 {result['Rank-1']:.1f} %</strong> ({escape(run.name)}) "
        f"on {escape(result['dataset'])} with {escape(result['model'])} ({escape(result['method'])}); "
        f"weights: {escape(result['weights'])}. "
        "Photographs of hands are biometric data: protect this page accordingly.</p>"
    )
    note = below_start(run.metrics["results"], run.name)
    introduction += f"<p><strong>Note:</strong> {escape(note)}.</p>" if note else ""
    sections = [
        ("Results", _results(run)),
        ("Biometric performance", _biometric_performance(run)),
        ("Pictures", _pictures(run)),
        ("Sentences", sentences_section(run)),
        ("Data", _data(run.metrics.get("data", {}))),
        ("Configuration", folded("Keys of the configuration", _differences(run.settings, defaults, recipe))),
        ("Environment", _environment(run)),
    ]
    kept = [(title, content) for title, content in sections if content]
    return page(f"Run {run.folder.resolve().name}", kept, introduction)


def _results(run: RunFolder) -> str:
    """Three tables of the evaluations, since one would be wider than a page."""
    ranks, pairs, how = [], [], []
    for name, row in run.metrics["results"].items():
        rates = error_rates(row)
        counts = (row["queries"], row["queries_without_match"], float(row["seconds"]))
        ranks.append([name, *(float(row[m]) for m in MEASURES), *(rates[c] for c in INTERVALS), *counts])
        pairs.append([name, *(rates[c] for c in PAIRS)])
        weights = f"trained; {row['weights']}" if kind(name) in TRAINED else row["weights"]
        how.append([name, weights, _protocol(row.get("protocol"))])
    columns = [*(f"{measure} (%)" for measure in MEASURES), *(f"{c} interval" for c in INTERVALS)]
    return (
        table("Retrieval", ["evaluation", *columns, "queries", "without match", "seconds"], ranks)
        + table(ERROR_RATES, ["evaluation", *PAIRS], pairs)
        + table("Weights and protocol", ["evaluation", "weights", "protocol"], how)
    )


def _biometric_performance(run: RunFolder) -> str:
    """A table for each part with its protocol, and the charts; nothing where the run measured none of it."""
    result = run.result
    verification = result.get("verification")
    parts = {"Error rates": verification, **(result.get("biometrics") or {})}
    shown = ""
    for title, part in parts.items():
        rows = part.get("table") if isinstance(part, dict) else None
        if isinstance(rows, list):
            cells = [[str(cell) for cell in row] for row in rows]
            shown += (
                table(title, ["measure", "value"], cells) + f"<p>Protocol: {escape(part.get('comparisons', ''))}.</p>"
            )
    folder = run.folder / f"biometric_performance{run.suffix}"
    charts = ((folder / f"{name}.png", chart) for name, chart in CHARTS.items())
    return shown and shown + "".join(
        picture(p, c.title, f"{c.y[0].upper()}{c.y[1:]} by {c.x}.") for p, c in charts if p.is_file()
    )


def _protocol(keys: object) -> str:
    return ", ".join(f"{key} {value}" for key, value in keys.items()) if isinstance(keys, dict) else ""


def _differences(settings: Mapping[str, Any], defaults: Mapping[str, Any], recipe: Mapping[str, Any] | None) -> str:
    columns = ["key", "this run", *(["recipe"] if recipe else []), "default"]
    rows = []
    for key, value in settings.items():
        others = [*([recipe.get(key, "")] if recipe else []), defaults.get(key, "")]
        if any(value != other for other in others):
            rows.append([key, *(str(v) for v in (value, *others))])
    same = f"<p>The other {len(settings) - len(rows)} keys have their default values.</p>"
    others = "the recipe or the defaults" if recipe else "the defaults (--recipe FILE compares with a recipe too)"
    return table(f"Keys that differ from {others}", columns, rows) + same


def _data(data: Mapping[str, Any]) -> str:
    if not data:
        return "<p>Not recorded.</p>"
    columns = ["split", *COUNTS, "images per identity (mean)"]
    rows = [
        [split, *(count[c] for c in COUNTS), count["images"] / max(count["identities"], 1)]
        for split, count in data["splits"].items()
    ]
    rule = {"market": "images of the query's person under the query's camera are ignored", "none": "nothing is ignored"}
    notes = "".join(f"<li>{escape(note)}</li>" for note in data["notes"])
    return (
        f"<p>{escape(data['name'])}; camera rule {escape(data['camera_rule'])}: "
        f"{rule.get(data['camera_rule'], '')}.</p>"
        + table("Images and identities", columns, rows)
        + (f"<p>Notes:</p><ul>{notes}</ul>" if notes else "")
    )


def _pictures(run: RunFolder) -> str:
    folder = run.folder / f"pictures{run.suffix}"
    places = {name: folder / f"{name}.png" for name in PICTURES}
    places["ranking"] = run.folder / f"ranking{run.suffix}.png"
    if not run.settings.get("TEST.PICTURES", True):  # files of an earlier evaluation
        places = {}
    places["curves"] = run.folder / "curves.png"
    shown = "".join(picture(path, *PICTURES[name]) for name, path in places.items() if path.is_file())
    if not shown:
        return "<p>None were drawn (TEST.PICTURES False).</p>"
    return f"<p>Pictures of an evaluation show the row <strong>{escape(run.name)}</strong>.</p>{shown}"


def _environment(run: RunFolder) -> str:
    facts = {
        "seed (SOLVER.SEED)": run.settings.get("SOLVER.SEED", ""),
        "seconds": f"{run.metrics.get('seconds', 0):.0f}",
        "epochs": len(run.metrics.get("history", [])),
        **run.metrics.get("environment", {}),
    }
    return table("Where and with what", ["what", "value"], [[k, str(v)] for k, v in facts.items()])


def comparison_page(runs: Sequence[RunFolder], defaults: Mapping[str, Any]) -> str:
    """The page that compares ``runs``; the first is the one that the others are measured against."""
    labels = run_labels(runs)
    columns = ["run", *(f"{m} (%)" for m in MEASURES)]
    rates = [error_rates(run.result) for run in runs]
    ranks = [
        [label, *(float(run.result[m]) for m in MEASURES), *(found[c] for c in INTERVALS)]
        for label, run, found in zip(labels, runs, rates, strict=True)
    ]
    pairs = [[label, *(found[c] for c in PAIRS)] for label, found in zip(labels, rates, strict=True)]
    keys = [key for key in runs[0].settings if len({repr(r.settings.get(key)) for r in runs}) > 1]
    keys = [key for key in keys if key != "OUTPUT_DIR"]
    differing = [[key, *(str(r.settings.get(key)) for r in runs)] for key in keys]
    changed = [key for key in runs[0].settings if any(r.settings.get(key) != defaults.get(key) for r in runs)]
    apart = list(dict.fromkeys(key for run in runs[1:] for key in set_apart_by(runs[0], run)))
    warning = ""
    if apart:
        said = (
            f"The runs were tested on other images or in other ways ({', '.join(apart)}): their numbers cannot be "
            "compared."
        )
        LOGGER.warning("%s", said)
        warning = f"<p><strong>{escape(said)}</strong></p>"
    sections = [
        (
            "Results",
            warning
            + table("Retrieval", [*columns, *(f"{c} interval" for c in INTERVALS)], ranks)
            + table(ERROR_RATES, ["run", *PAIRS], pairs)
            + _means(dict(zip(labels, runs, strict=True)), columns),
        ),
        ("Differences in mAP", _bootstrap(labels, runs)),
        (
            "Configuration",
            table("Keys in which the runs differ", ["key", *labels], differing)
            + f"<p>In at least one run, {len(changed)} keys differ from their defaults.</p>",
        ),
    ]
    return page(f"Comparison of {len(runs)} runs", sections)


def _means(runs: Mapping[str, RunFolder], columns: Sequence[str]) -> str:
    """Mean and sample standard deviation of the runs that differ only by seed, or by the weights tested."""
    rows = []
    for group in seeds_of_one(runs):
        if len(group) > 1:
            numbers = np.array([[run.result[measure] for measure in MEASURES] for run in group.values()])
            rows.append([f"mean of {', '.join(group)}", *numbers.mean(0).tolist()])
            rows.append([f"standard deviation of {', '.join(group)}", *numbers.std(0, ddof=1).tolist()])
    if not rows:
        return "<p>No two runs differ in their seed only, so there is no mean to give.</p>"
    return table("Over runs that differ in their seed only", columns, rows)


def run_labels(runs: Sequence[RunFolder]) -> list[str]:
    """The shortest ends of the folders' paths that distinguish the runs."""
    parts = [run.folder.resolve().parts for run in runs]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-length:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    raise ReIDError(f"the same run is named twice: {', '.join(str(run.folder) for run in runs)}.")


def _bootstrap(labels: Sequence[str], runs: Sequence[RunFolder]) -> str:
    rows, apart, otherwise = [], [], []
    queries = [run.queries() for run in runs]
    for label, run, found in list(zip(labels, runs, queries, strict=True))[1:]:
        if queries[0] is None or found is None or not same_queries(queries[0], found):
            apart.append(label)
            continue
        if set_apart_by(runs[0], run):
            otherwise.append(label)
            continue
        found = paired_difference(runs[:1], [run])
        if found is None:
            apart.append(label)
            continue
        p = f"{found.p:.4f}" if found.p else "< 0.002"
        rows.append([f"{label} - {labels[0]}", *(100 * value for value in found[:3]), p])
    text = (
        "<p>Both runs have the same queries; over several random splits, a query counts with its mean. "
        "The bootstrap draws people with replacement, with all their query and gallery images, and the same people for "
        "both runs. The interval holds 95 % of the differences; p is twice the share beyond zero. "
        "The interval covers other people, not other training seeds: for these see the standard deviation, or "
        "processor.compare, which resamples seeds too.</p>"
    )
    columns = ["difference", "mAP (points)", "from", "to", "p"]
    reasons = {f"Not the queries of {labels[0]}": apart, f"Not tested as {labels[0]} was": otherwise}
    left = "".join(f"<p>{escape(why)}: {escape(', '.join(who))}.</p>" for why, who in reasons.items() if who)
    return (text + table("Paired bootstrap", columns, rows, digits=2) if rows else "") + left


def write_report(folder: Path, test: bool = False, recipe: str | Path | None = None) -> Path:
    """Write the page about the run in ``folder`` into it and return its path.

    Args:
        folder: of a finished run.
        test: the run tested in the folder of a training.
        recipe: the YAML file that the run was started with.

    Raises:
        ReIDError: there is no finished run, or ``recipe`` cannot be read.
    """
    run = read_run(folder, test)
    path = folder / f"report{run.suffix}.html"
    content = run_page(run, _defaults(), None if recipe is None else _recipe(recipe))
    write_text(path, content)
    return path


def _defaults() -> dict[str, Any]:
    return flatten(get_defaults())


def _recipe(file: str | Path) -> dict[str, Any]:
    values = flatten(load_config(file)[0])
    return ShortPaths(value for value in values.values() if isinstance(value, str)).everywhere(values)


def report(folders: Sequence[Path], output: Path | None, recipe: Path | None, test: bool) -> None:
    """Write the page of one run, or the comparison of several."""
    setup_console()
    if len(folders) == 1 and output is None:
        path = write_report(folders[0], test, recipe)
    else:
        path = output or Path("comparison.html")
        runs = [read_run(folder, test) for folder in folders]
        values = None if recipe is None else _recipe(recipe)
        content = comparison_page(runs, _defaults()) if len(runs) > 1 else run_page(runs[0], _defaults(), values)
        write_text(path, content)
    show(str(path))


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = make_parser("python -m processor.html_report", __doc__, EXAMPLES)
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        type=Path,
        help="OUTPUT_DIR of a finished run; the others are compared with the first",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        help="the page; by default report.html in the folder of one run, comparison.html here for several",
    )
    parser.add_argument(
        "--recipe",
        metavar="FILE",
        type=Path,
        help="YAML file that the run was started with: changed keys are shown",
    )
    parser.add_argument("--test", action="store_true", help="in folders with a training and a test, take the test")
    arguments = parser.parse_args(argv)
    return run_script(partial(report, arguments.runs, arguments.output, arguments.recipe, arguments.test))


if __name__ == "__main__":
    sys.exit(main())
