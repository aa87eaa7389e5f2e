"""What a run leaves for its reader: numbers as JSON, a table in the log, rankings as a picture."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from processor.curves import write_curves
from processor.evaluation import Evaluation
from processor.pictures import write_pictures, write_ranking_picture
from processor.run import Run
from processor.text_matching import text_results
from utils.checkpoint import model_file, save_json, write_atomically
from utils.environment import environment
from utils.errors import ReIDError
from utils.logger import LOGGER
from utils.text_files import read_text

if TYPE_CHECKING:
    from torch.utils.data import DataLoader
    from yacs.config import CfgNode

    from datasets.bases import ReIDDataset
    from model.baseline import ImageReID
    from utils.verification import VerificationMetrics

COLUMNS = ("mAP", "Rank-1", "Rank-5", "Rank-10")


def finish_run(
    cfg: CfgNode,
    run: Run,
    dataset: ReIDDataset,
    name: str,
    evaluation: Evaluation | None,
    model: ImageReID,
    loader: DataLoader,
) -> None:
    """Write ``metrics.json``, ``queries.npz`` and the pictures, and end the log with the table of results.

    The first of several processes does it; the others have no evaluation.

    Args:
        cfg: the configuration.
        run: output folder, history, device, and the numbers of evaluations before.
        dataset: what was evaluated on.
        name: of the last evaluation, the run's result: ``trained``, or ``test``, which leaves what training wrote into
            the same folder as it is.
        evaluation: it.
        model, loader: what was evaluated and on which images, for pictures of where it looks.
    """
    if evaluation is None:
        return
    note_result(cfg, run, dataset, name, evaluation)
    path = run.output_dir / "metrics.json"
    earlier = _read_json(path) if name == "test" or run.seconds_before else {}
    facts = {"environment": environment(run.describe_device()), "data": describe(dataset)}
    best = {"best": run.best} if run.best else {}
    trained = {"parameters_trained": sum(run.trained.values())}
    content = {"seconds": run.seconds, "history": run.history, **trained, **best, **facts}
    content = run.shorten.everywhere(content | (earlier if name == "test" else {}) | {"results": run.results})
    content["results"] = merge_results(earlier.get("results", {}), content["results"])
    save_json(content, path)
    save_queries(run.output_dir / f"queries{run.suffix}.npz", evaluation, dataset, Path(cfg.DATASETS.ROOT_DIR))
    if name != "test":
        write_curves(run)
    if evaluation.verification is not None:
        write_verification(run.output_dir / f"verification{run.suffix}.npz", evaluation.verification)
    if cfg.TEST.PICTURES:
        LOGGER.info("drawing pictures; TEST.PICTURES False leaves them out")
        write_ranking_picture(run.output_dir / f"ranking{run.suffix}.png", evaluation, dataset, cfg.INPUT.EXIF)
        folder = run.output_dir / f"pictures{run.suffix}"
        write_pictures(folder, evaluation, dataset, model, loader, cfg.INPUT.EXIF, cfg.SOLVER.SEED)
    for line in next_commands(cfg, run, name):
        LOGGER.info("next: %s", line)
    LOGGER.info("measured with TEST.%s", ", ".join(f"{key} {value}" for key, value in protocol(cfg).items()))
    label = f"weights: {run.results[name]['weights']}"
    closing = f"{run.seconds:.0f} s on {run.describe_device()}; {label}; results in {run.output_dir}"
    log_table(run.results, closing)


def merge_results(earlier: Mapping[str, dict], now: Mapping[str, dict]) -> dict[str, dict]:
    """Rows of the evaluations in one folder; the last test gives way to a new one under a number, "test 1", unless both
    measure the same: equal weights, model, data and keys of ``TEST``.
    """
    rows = dict(earlier)
    last = rows.pop("test", None) if "test" in now else None
    if last and any(last.get(key) != now["test"][key] for key in ("weights", "model", "dataset", "protocol")):
        rows[f"test {1 + sum(name.startswith('test ') for name in rows)}"] = last
    return {**rows, **now}


def write_verification(path: Path, found: VerificationMetrics) -> None:
    """Write the curves and score distributions of the first run, for plots.

    Arrays: ``far``, ``frr`` and ``threshold`` [P] of the ROC (far, 1 - frr) and DET (far, frr) curves; ``edges``
    [B + 1], ``genuine`` and ``impostor`` [B] of the two score histograms.
    """
    curve, scores = found.curve._asdict(), found.scores.coarse()
    arrays = {**curve, "edges": scores.edges, "genuine": scores.genuine, "impostor": scores.impostor}
    write_atomically(path, lambda file: np.savez_compressed(file, **arrays))


def note_result(cfg: CfgNode, run: Run, dataset: ReIDDataset, name: str, evaluation: Evaluation | None) -> None:
    """Log verification and keep all numbers under ``name`` in ``run.results``, with what they were measured on."""
    if evaluation is None:  # in all processes but the first
        return
    if evaluation.verification is not None:
        first = f", run {evaluation.runs[0]['run']}" if evaluation.runs else ""
        for line in evaluation.verification.lines():
            LOGGER.info("verification (%s%s): %s", name, first, line)
    run.results[name] = {
        **evaluation.record(),
        "dataset": dataset.name,
        "camera_rule": dataset.camera_rule,
        "protocol": protocol(cfg),
        "model": cfg.MODEL.NAME,
        "method": cfg.MODEL.METHOD,
        "weights": cfg.TEST.WEIGHT if name == "test" else start_weights(cfg),
        "device": run.describe_device(),
    }


def protocol(cfg: CfgNode) -> dict[str, Any]:
    """The keys of ``TEST`` that the numbers depend on."""
    keys = ["AP", "METRIC", "FLIP", "NECK_FEAT", "FEAT_NORM", "RE_RANKING"]
    keys += ["RERANK_K1", "RERANK_K2", "RERANK_LAMBDA"] if cfg.TEST.RE_RANKING else []
    return {key: cfg.TEST[key] for key in keys}


def note_text_results(
    cfg: CfgNode,
    run: Run,
    dataset: ReIDDataset,
    evaluation: Evaluation | None,
    model: ImageReID,
    sentence: Callable[[Mapping[str, str]], str],
    templates: Mapping[str, str],
) -> None:
    """Match sentences with the first trial's images, where there are a text encoder and attributes; else say so."""
    if evaluation is None:  # in all processes but the first
        return
    if not getattr(model, "matches_text", False) or not dataset.attributes:
        missing = "the data set tells no attributes" if not dataset.attributes else "there is no text encoder"
        LOGGER.info("note: images are not matched with sentences: %s", missing)
        return
    given = (dataset.trials[0], dataset.attributes, model.encode_sentences, sentence, templates)
    for name, row in text_results(evaluation, *given).items():
        facts = {"dataset": dataset.name, "model": cfg.MODEL.NAME, "method": cfg.MODEL.METHOD}
        run.results[name] = {**row, **facts, "weights": start_weights(cfg), "seconds": evaluation.seconds}
        for attribute, share in row.get("accuracy", {}).items():
            largest = row["largest value"][attribute]
            LOGGER.info("sentences tell %s: %.1f %% right (its largest value: %.1f %%)", attribute, share, largest)


def next_commands(cfg: CfgNode, run: Run, name: str) -> list[str]:
    """What to do with the run, as command lines."""
    config = shlex.quote(str(run.output_dir / f"config{run.suffix}.yml"))
    if name == "test":
        given = f"--config_file {config} TEST.WEIGHT {shlex.quote(cfg.TEST.WEIGHT)}"
        return [f"python -m processor.search {given} --gallery FOLDER --queries IMAGE"]
    if not cfg.SOLVER.STAGES:  # nothing was trained, so there is no checkpoint
        return []
    ending = f"{cfg.SOLVER.STAGE2.MAX_EPOCHS}" if 2 in cfg.SOLVER.STAGES else f"stage1_{cfg.SOLVER.STAGE1.MAX_EPOCHS}"
    ending = "best" if name == "best" else ending
    weight = shlex.quote(str(model_file(run.output_dir, cfg.MODEL.NAME, ending)))
    return [f"python test_clipreid.py --config_file {config} TEST.WEIGHT {weight}"]


def save_queries(path: Path, evaluation: Evaluation, dataset: ReIDDataset, root: Path) -> None:
    """Write each query's file below ``root``, identity and average precision (NaN without a match): runs are compared
    by them.
    """
    files = (Path(record.path) for record in dataset.query)
    columns = {
        "path": np.array(
            [file.relative_to(root).as_posix() if file.is_relative_to(root) else file.name for file in files]
        ),
        "identity": np.array([dataset.test_identities[record.pid] for record in dataset.query]),
        "average_precision": evaluation.metrics.average_precision,
    }
    write_atomically(path, lambda file: np.savez_compressed(file, **columns))


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
    """What training started from, in words: the label every number needs."""
    if cfg.MODEL.PRETRAIN_CHOICE == "random":
        return "random start"
    published = cfg.MODEL.NAME if cfg.MODEL.NAME.startswith("timm/") else f"CLIP {cfg.MODEL.NAME}"
    return f"start from {cfg.MODEL.PRETRAIN_PATH or published}"


def _read_json(path: Path) -> dict:
    """What is there already; nothing if it cannot be read."""
    try:
        content = json.loads(read_text(path))
    except (ReIDError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) and isinstance(content.get("results", {}), dict) else {}


def log_table(rows: dict[str, dict], closing: str) -> None:
    """The last lines of a run: one row for each evaluation, then where the rest lies.

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
    if counts:
        lines.append(f"mean ± sample standard deviation over {max(counts)} random splits of query and gallery")
    for line in [*lines, closing]:
        LOGGER.info("%s", line)
