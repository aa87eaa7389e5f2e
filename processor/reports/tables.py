"""Results of a run: numbers as JSON, a table in the log, rankings as a picture."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from model.base import Method
from processor.biometrics.performance import performance_record, write_performance
from processor.reports.curves import write_curves
from processor.reports.distance_names import write_distance_names
from processor.reports.environment import environment
from processor.reports.error_rates import COLUMNS as ERROR_COLUMNS
from processor.reports.error_rates import MISSING, error_rates
from processor.reports.pictures import remove_pictures, write_pictures
from processor.runs.folder import back_up, below_start, kind, read_metrics
from processor.runs.run import Run, fingerprint
from processor.testing.biometrics import by_protocol, measure
from processor.testing.evaluation import Evaluation
from processor.testing.text_matching import text_results
from utils.console.logger import LOGGER
from utils.errors import ReIDError
from utils.files.checkpoint import model_file, save_json, write_atomically
from utils.files.paths import name_below

if TYPE_CHECKING:
    from torch.utils.data import DataLoader
    from yacs.config import CfgNode

    from datasets.bases import ReIDDataset
    from processor.biometrics.setting import Section
    from utils.biometric.verification import VerificationMetrics

COLUMNS = ("mAP", "Rank-1", "Rank-5", "Rank-10")
LOCAL_KEYS = {"POINTS": "0", "LOCAL": "none", "FUSE_LOCAL": "none", "FUSE_LOCAL_OTHER": False, "POINTS_MASK": False}
"""Keys of matched skin detail, each with its value that leaves it out."""

MEASURED_ON = ("weights", "model", "dataset", "root", "images", "camera_rule", "protocol")
"""What two rows must have in common for the newer to replace the older; ``images``: a fingerprint of all trials."""


def finish_run(
    cfg: CfgNode,
    run: Run,
    dataset: ReIDDataset,
    name: str,
    evaluation: Evaluation | None,
    model: Method,
    loader: DataLoader,
    targets: Mapping[str, Any] | None = None,
) -> None:
    """Write ``metrics.json``, ``queries.npz`` and the pictures, and end the log with the table of results.

    The first of several processes does it; the others have no evaluation.

    Args:
        cfg: the configuration.
        run: output folder, history, device, and the numbers of evaluations before.
        dataset: what was evaluated on.
        name: of the last evaluation, the run's result: ``trained``, or ``test``, which leaves what training wrote into
            the same folder as it is. In ``metrics.json`` a number may follow it, see :func:`merge_results`.
        evaluation: it.
        model, loader: what was evaluated and on which images, for pictures of where it looks.
        targets: see :func:`processor.targets.evaluate_targets`; kept in the row of the last evaluation.
    """
    if evaluation is None:
        return
    sections = note_result(cfg, run, dataset, name, evaluation, model, loader)
    if targets:
        run.results[name]["targets"] = dict(targets)
    root = Path(cfg.DATASETS.ROOT_DIR)
    if cfg.TEST.DIST_MAT:
        write_distance_names(run.output_dir / cfg.TEST.DIST_MAT, dataset, evaluation.distance_name, root)
    path = run.output_dir / "metrics.json"
    earlier = _read_earlier(path)
    facts = {"environment": environment(run.describe_device()), "data": describe(dataset)}
    best = ({"best": run.best} if run.best else {}) | ({"alignment": run.alignment} if run.alignment else {})
    trained = {"parameters_trained": sum(run.trained.values())}
    content = {"seconds": run.seconds, "history": run.history, **trained, **best, **facts}
    content = run.shorten.everywhere(content | (earlier if run.suffix else {}) | {"results": run.results})
    content["results"] = merge_results(earlier.get("results", {}), content["results"])
    save_json(content, path)
    rows = dict(zip(list(content["results"])[-len(run.results) :], run.results.values(), strict=True))
    save_queries(run.output_dir / f"queries{run.suffix}.npz", evaluation, dataset, root)
    if name != "test":
        write_curves(run)
    evaluation = by_protocol(cfg, dataset, evaluation)
    if evaluation.verification is not None:
        write_verification(run.output_dir / f"verification{run.suffix}.npz", evaluation.verification)
        write_performance(run, name, sections)
    folder = run.output_dir / f"pictures{run.suffix}"
    if cfg.TEST.PICTURES:
        LOGGER.info("drawing pictures; TEST.PICTURES False leaves them out")
        write_pictures(folder, evaluation, dataset, model, loader, cfg.SOLVER.SEED)
    else:
        remove_pictures(folder)
    for line in next_commands(cfg, run, name):
        LOGGER.info("next: %s", line)
    measured = run.results[name]["protocol"]
    LOGGER.info("measured with TEST.%s", ", ".join(f"{key} {value}" for key, value in measured.items()))
    label = f"weights: {run.results[name]['weights']}"
    closing = f"{run.seconds:.0f} s on {run.describe_device()}; {label}; results in {run.output_dir}"
    if targets:
        log_targets(dataset.name, targets)
    log_table(rows, closing)
    note = below_start(run.results, name)
    if note:
        LOGGER.warning("%s", note)


def merge_results(earlier: Mapping[str, dict], now: Mapping[str, dict]) -> dict[str, dict]:
    """Rows of all evaluations in one folder, those of ``now`` last.

    Rows keep their names: a row that measures the same as an earlier one
    (:data:`MEASURED_ON`) replaces it, another takes the first free of "test", "test 2", "test 3", ...
    """
    rows = dict(earlier)
    for first, row in now.items():
        names = itertools.chain([first], (f"{first} {number}" for number in itertools.count(2)))
        same = [
            name
            for name, old in earlier.items()
            if kind(name) == first and all(old.get(key) == row.get(key) for key in MEASURED_ON)
        ]
        name = same[-1] if same else next(name for name in names if name not in rows)
        rows.pop(name, None)
        rows[name] = row
    return rows


def write_verification(path: Path, found: VerificationMetrics) -> None:
    """Write the curves and score distributions of the first run, for plots.

    Arrays: ``far``, ``frr`` and ``threshold`` [P] of the ROC (far, 1 - frr) and DET (far, frr) curves; ``edges``
    [B + 1], ``genuine`` and ``impostor`` [B] of the two score histograms.
    """
    arrays = {**found.curve._asdict(), **found.histogram()._asdict()}
    write_atomically(path, lambda file: np.savez_compressed(file, **arrays))


def note_result(
    cfg: CfgNode,
    run: Run,
    dataset: ReIDDataset,
    name: str,
    evaluation: Evaluation | None,
    model: Method | None = None,
    loader: DataLoader | None = None,
) -> list[Section]:
    """Log verification and keep all numbers under ``name`` in ``run.results``, with what they were measured on.

    With ``model`` and ``loader`` the whole biometric performance is measured; its sections are returned.
    """
    if evaluation is None:  # in all processes but the first
        return []
    evaluation = by_protocol(cfg, dataset, evaluation)
    weights = cfg.TEST.WEIGHT if name == "test" else start_weights(cfg)
    file = Path(cfg.TEST.WEIGHT) if name == "test" else _checkpoint(cfg, run, name)
    sections = [] if model is None else measure(cfg, run, dataset, evaluation, model, loader, file)
    if evaluation.verification is not None:
        first = f", run {evaluation.runs[0]['run']}" if evaluation.runs else ""
        for line in evaluation.verification.lines(sections[0].intervals if sections else {}):
            LOGGER.info("verification (%s%s): %s", name, first, line)
    for section in sections[1:]:
        for measure_name, value in section.table:
            LOGGER.info("%s (%s): %s: %s", section.title.lower(), name, measure_name, value)
    run.results[name] = {
        **evaluation.record(),
        **performance_record(sections),
        **_what_and_where(cfg, dataset, weights),
        "camera_rule": dataset.camera_rule,
        "protocol": protocol(cfg, evaluation.neck_feat),
        "device": run.describe_device(),
    }
    return sections


def _checkpoint(cfg: CfgNode, run: Run, name: str) -> Path | None:
    """The file of the model that was evaluated, None where nothing was trained."""
    ending = _ending(cfg)
    return model_file(run.output_dir, cfg.MODEL.NAME, "best" if name == "best" else ending) if ending else None


def _ending(cfg: CfgNode) -> str:
    """The end of the last checkpoint's name; empty where none is written."""
    if not cfg.SOLVER.STAGES:
        return ""
    last = max(cfg.SOLVER.STAGES)
    return f"{'stage1_' if last == 1 else ''}{cfg.SOLVER[f'STAGE{last}'].MAX_EPOCHS}"


def protocol(cfg: CfgNode, neck_feat: str) -> dict[str, Any]:
    """The keys of ``TEST`` that the numbers depend on; ``neck_feat`` is that of the model, not of the key."""
    keys = ["AP", "METRIC", "FLIP", "NECK_FEAT", "FEAT_NORM", "RE_RANKING"]
    keys += ["PRECISION"] if cfg.TEST.PRECISION != "fp32" else []
    keys += ["FEATURE"] if cfg.TEST.FEATURE != "both" else []
    keys += ["RERANK_K1", "RERANK_K2", "RERANK_LAMBDA"] if cfg.TEST.RE_RANKING else []
    keys += [key for key, off in LOCAL_KEYS.items() if cfg.TEST[key] != off]
    return {key: cfg.TEST[key] for key in keys} | {"NECK_FEAT": neck_feat}


def _what_and_where(cfg: CfgNode, dataset: ReIDDataset, weights: str) -> dict[str, str]:
    """Which network was evaluated, and on which images."""
    tested = [part for trial in dataset.trials for part in (trial.query, trial.gallery)]
    return {
        "dataset": dataset.name,
        "root": cfg.DATASETS.ROOT_DIR,
        "images": fingerprint(*tested, windows=dataset.reading.windows),
        "model": cfg.MODEL.NAME,
        "method": cfg.MODEL.METHOD,
        "weights": weights,
    }


def note_text_results(
    cfg: CfgNode,
    run: Run,
    dataset: ReIDDataset,
    evaluation: Evaluation | None,
    model: Method,
    sentence: Callable[[Mapping[str, str]], str],
    templates: Mapping[str, str],
) -> None:
    """Match sentences with the first trial's images, where there are a text encoder and attributes; else say so."""
    if evaluation is None:  # in all processes but the first
        return
    described = {path: known for path, known in dataset.attributes.items() if known.keys() & templates.keys()}
    if not getattr(model, "matches_text", False) or not described:
        missing = "the data set has no attributes" if not described else "there is no text encoder"
        LOGGER.info("note: images are not matched with sentences: %s", missing)
        return
    given = (dataset.trials[0], described, model.encode_sentences, sentence, templates)
    for name, row in text_results(evaluation, *given).items():
        _note_text(cfg, run, dataset, name, row | {"seconds": evaluation.seconds}, cfg.TEST.FLIP)


def note_sentences(cfg: CfgNode, run: Run, dataset: ReIDDataset, when: str, found: Mapping[str, dict]) -> None:
    """Log and keep :func:`processor.testing.text_matching.sentence_results`; ``when`` joins the rows' names."""
    for name, row in found.items():
        LOGGER.info("%s, %s: recall@1 %.1f %%, recall@5 %.1f %%", when, name, row["Rank-1"], row["Rank-5"])
        _note_text(cfg, run, dataset, f"{name} ({when})", row | {"seconds": 0.0}, flip=False)


def _note_text(cfg: CfgNode, run: Run, dataset: ReIDDataset, name: str, row: dict[str, Any], flip: bool) -> None:
    """Keep one row of numbers between sentences and images, and log the accuracy of each attribute."""
    facts = _what_and_where(cfg, dataset, start_weights(cfg)) | {"camera_rule": "none"}
    run.results[name] = {**row, **facts, "protocol": {"AP": "standard", "METRIC": "cosine", "FLIP": flip}}
    for attribute, share in row.get("accuracy", {}).items():
        largest = row["largest value"][attribute]
        LOGGER.info("%s from sentences: %.1f %% right (its largest value: %.1f %%)", attribute, share, largest)


def next_commands(cfg: CfgNode, run: Run, name: str) -> list[str]:
    """The next commands for the run."""
    config = shlex.quote(str(run.output_dir / f"config{run.suffix}.yml"))
    if name == "test":
        given = f"--config_file {config} TEST.WEIGHT {shlex.quote(cfg.TEST.WEIGHT)}"
        return [f"python -m processor.search {given} --gallery FOLDER --queries IMAGE"]
    file = _checkpoint(cfg, run, name)
    if file is None:
        return []
    weight = shlex.quote(str(file))
    return [f"python test_clipreid.py --config_file {config} TEST.WEIGHT {weight}"]


def save_queries(path: Path, evaluation: Evaluation, dataset: ReIDDataset, root: Path) -> None:
    """Write each query's file below ``root``, identity and average precision (NaN without a match): runs are compared
    by them.

    Where there are several random splits, a query's average precision is the mean over the splits in which it is a
    query, and ``average_precision_run<i>`` is that of each split, NaN where it is none.
    """
    place = {record: i for i, record in enumerate(dict.fromkeys(r for trial in dataset.trials for r in trial.query))}
    precisions = np.full((len(dataset.trials), len(place)), np.nan)
    found = evaluation.precisions or (evaluation.metrics.average_precision,)
    for row, trial, precision in zip(precisions, dataset.trials, found, strict=True):
        row[[place[record] for record in trial.query]] = precision
    columns = {
        "path": np.array([name_below(record.path, root) for record in place]),
        "identity": np.array([dataset.test_identities[record.pid] for record in place]),
        "average_precision": _mean_of_known(precisions),
    }
    if len(dataset.trials) > 1:
        runs = zip(dataset.trials, precisions, strict=True)
        columns |= {f"average_precision_run{trial.run}": precision for trial, precision in runs}
    write_atomically(path, lambda file: np.savez_compressed(file, **columns))


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """Mean [N] of the rows of ``values`` [R, N] without the NaN; NaN where there is nothing else."""
    known = ~np.isnan(values)
    total, count = np.where(known, values, 0).sum(0), known.sum(0)
    return np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)


def describe(dataset: ReIDDataset) -> dict[str, Any]:
    """The data set in numbers."""
    splits = {"train": dataset.train, "query": dataset.query, "gallery": dataset.gallery}
    return {
        "name": dataset.name,
        "camera_rule": dataset.camera_rule,
        "splits": {
            split: {
                "images": len(records),
                "identities": len({r.pid for r in records}),
                "cameras": len({r.camid for r in records}),
                "views": len({r.viewid for r in records}),
            }
            for split, records in splits.items()
        },
        "notes": dataset.notes,
    }


def start_weights(cfg: CfgNode) -> str:
    """The weights that training started from, in words."""
    if cfg.MODEL.PRETRAIN_CHOICE == "random":
        return "random start"
    if cfg.MODEL.PRETRAIN_CHOICE == "hands":
        return "start from the small CLIP that was trained on drawn hands"
    published = cfg.MODEL.NAME if cfg.MODEL.NAME.startswith("timm/") else f"CLIP {cfg.MODEL.NAME}"
    return f"start from {cfg.MODEL.PRETRAIN_PATH or published}"


def _read_earlier(path: Path) -> dict[str, Any]:
    """What runs before left in ``metrics.json``, nothing if there is none; a file that no run wrote is backed up."""
    if not path.exists():
        return {}
    try:
        return read_metrics(path)
    except (ReIDError, ValueError) as error:
        LOGGER.warning("%s was not written by a run (%s) and is kept as %s", path, error, back_up(path).name)
        return {}


def log_table(rows: dict[str, dict], closing: str) -> None:
    """The last lines of a run: one row for each evaluation, then where the rest lies.

    Error rates with their intervals stand in a second block.
    Over several runs a cell is the mean and, after ``±``, the sample standard deviation.
    """
    width = max(len(name) for name in rows)
    counts = {len(row["runs"]) for row in rows.values() if "runs" in row}
    cell = 14 if counts else 9
    lines = [" " * width + "".join(f"{column:>{cell}}" for column in COLUMNS)]
    for name, row in rows.items():
        std = row.get("std", {})
        cells = (f"{row[c]:.1f} ± {std[c]:.1f}" if c in std else f"{row[c]:.1f}" for c in COLUMNS)
        lines.append(f"{name:<{width}}" + "".join(f"{text:>{cell}}" for text in cells))
    rates = {name: error_rates(row) for name, row in rows.items() if isinstance(row.get("verification"), dict)}
    shown = [column for column in ERROR_COLUMNS if any(found[column] != MISSING for found in rates.values())]
    cells = {column: max(len(column), *(len(found[column]) for found in rates.values())) for column in shown}
    if shown:
        lines.append(" " * width + "".join(f"  {column:>{cells[column]}}" for column in shown))
    for name, found in rates.items():
        lines.append(f"{name:<{width}}" + "".join(f"  {found[column]:>{cells[column]}}" for column in shown))
    if counts:
        lines.append(f"mean ± sample standard deviation over {max(counts)} random splits of query and gallery")
    for line in [*lines, closing]:
        LOGGER.info("%s", line)


def log_targets(source: str, found: Mapping[str, Any]) -> None:
    """The table of :func:`processor.targets.evaluate_targets`, a row for each target.

    Args:
        source: name of the data set of the configuration, on which the model was trained.
        found: numbers of each target and their mean.
    """
    columns = list(found["mean"])
    names = [f"{source} -> {name}" for name in found["sets"]]
    width = max(map(len, [*names, "mean"]))
    LOGGER.info("%s%s", " " * width, "".join(f"{column:>9}" for column in columns))
    for name, row in zip([*names, "mean"], [*found["sets"].values(), found["mean"]], strict=True):
        LOGGER.info("%-*s%s", width, name, "".join(f"{row[column]:>9.1f}" for column in columns))
