"""What a run leaves for its reader: numbers as JSON, a table in the log, rankings as a picture."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from processor.evaluation import Evaluation
from processor.run import Run
from utils.checkpoint import save_json, write_atomically
from utils.logger import LOGGER
from utils.visualize import Answer, Ranking, ranking_sheet

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from datasets.bases import Record, ReIDDataset
    from utils.verification import VerificationMetrics

COLUMNS = ("mAP", "Rank-1", "Rank-5", "Rank-10")
SHOWN_QUERIES = 8
SHOWN_ANSWERS = 10


def finish_run(cfg: CfgNode, run: Run, dataset: ReIDDataset, name: str, evaluation: Evaluation) -> None:
    """Write ``metrics.json``, the curves and the pictures, and end the log with the table of results.

    Args:
        cfg: the configuration.
        run: output folder, history, device, and the numbers of evaluations before.
        dataset: what was evaluated on.
        name: of the last evaluation, the run's result: ``trained``, or ``test``, which leaves what training wrote into
            the same folder as it is.
        evaluation: it.
    """
    note_result(cfg, run, dataset, name, evaluation)
    path = run.output_dir / "metrics.json"
    earlier = _read_json(path) if name == "test" else {}
    best = {"best": run.best} if run.best else {}
    content = {"seconds": run.seconds, "history": run.history, **best, **earlier}
    save_json({**content, "results": {**earlier.get("results", {}), **run.results}}, path)
    if evaluation.verification is not None:
        write_verification(run.output_dir / f"verification{run.suffix}.npz", evaluation.verification)
    if cfg.TEST.PICTURES:
        write_ranking_picture(run.output_dir / f"ranking{run.suffix}.png", evaluation, dataset, cfg.INPUT.EXIF)
    label = f"weights: {run.results[name]['weights']}"
    closing = f"{run.seconds:.0f} s on {run.describe_device()}; {label}; results in {run.output_dir}"
    log_table(run.results, closing)


def write_verification(path: Path, found: VerificationMetrics) -> None:
    """Write the curves and score distributions of the first run, for plots.

    Arrays: ``far``, ``frr`` and ``threshold`` [P] of the ROC (far, 1 - frr) and DET (far, frr) curves; ``edges``
    [B + 1], ``genuine`` and ``impostor`` [B] of the two score histograms.
    """
    curve, scores = found.curve._asdict(), found.scores.coarse()
    arrays = {**curve, "edges": scores.edges, "genuine": scores.genuine, "impostor": scores.impostor}
    write_atomically(path, lambda file: np.savez_compressed(file, **arrays))


def note_result(cfg: CfgNode, run: Run, dataset: ReIDDataset, name: str, evaluation: Evaluation) -> None:
    """Log verification and keep all numbers under ``name`` in ``run.results``, with what they were measured on."""
    if evaluation.verification is not None:
        first = f", run {evaluation.runs[0]['run']}" if evaluation.runs else ""
        for line in evaluation.verification.lines():
            LOGGER.info("verification (%s%s): %s", name, first, line)
    run.results[name] = {
        **evaluation.record(),
        "dataset": dataset.name,
        "camera_rule": dataset.camera_rule,
        "model": cfg.MODEL.NAME,
        "method": cfg.MODEL.METHOD,
        "weights": cfg.TEST.WEIGHT if name == "test" else start_weights(cfg),
        "device": run.describe_device(),
    }


def start_weights(cfg: CfgNode) -> str:
    """What training started from, in words: the label every number needs."""
    if cfg.MODEL.PRETRAIN_CHOICE == "random":
        return "random start"
    return f"start from {cfg.MODEL.PRETRAIN_PATH or 'CLIP ' + cfg.MODEL.NAME}"


def _read_json(path: Path) -> dict:
    """What is there already; nothing if it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


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


def write_ranking_picture(path: Path, evaluation: Evaluation, dataset: ReIDDataset, exif: bool) -> None:
    """Write queries from the best to the worst average precision with their ten nearest gallery images.

    Args:
        path: of the PNG.
        evaluation: rankings and average precisions.
        dataset: images, identities and camera rule; gallery images that the rule ignores are not shown.
        exif: turn photos upright.
    """
    precision = evaluation.metrics.average_precision
    valid = np.flatnonzero(~np.isnan(precision))
    ordered = valid[np.argsort(-precision[valid], kind="stable")]
    chosen = ordered[np.unique(np.linspace(0, len(ordered) - 1, SHOWN_QUERIES).round().astype(int))]
    nearest = evaluation.find_nearest(chosen.tolist())
    rankings = [
        Ranking(
            dataset.query[i].path,
            dataset.test_identities[dataset.query[i].pid],
            float(precision[i]),
            _answers(dataset, dataset.query[i], zip(distances.tolist(), index.tolist(), strict=True)),
        )
        for i, distances, index in zip(chosen, nearest.distances, nearest.index, strict=True)
    ]
    title = f"{len(rankings)} of {len(valid)} queries, from best to worst; ten nearest each"
    sheet = ranking_sheet(rankings, title, exif=exif)
    write_atomically(path, lambda file: sheet.save(file, format="PNG"))


def _answers(dataset: ReIDDataset, query: Record, found: Iterable[tuple[float, int]]) -> list[Answer]:
    answers = []
    for distance, index in found:
        image = dataset.gallery[index]
        ignored = dataset.camera_rule == "market" and (image.pid, image.camid) == (query.pid, query.camid)
        if not ignored:
            answers.append(Answer(image.path, dataset.test_identities[image.pid], distance, image.pid == query.pid))
    return answers[:SHOWN_ANSWERS]
