"""What a run leaves for its reader: numbers as JSON, a table in the log, rankings as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from processor.evaluation import Evaluation
from processor.run import Run
from utils.checkpoint import save_json, write_atomically
from utils.logger import LOGGER
from utils.visualize import Answer, Ranking, ranking_sheet

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from datasets.bases import ReIDDataset

SHOWN_QUERIES = 8
SHOWN_ANSWERS = 10


def finish_run(cfg: CfgNode, run: Run, dataset: ReIDDataset, evaluations: dict[str, Evaluation]) -> None:
    """Write ``metrics.json`` and the pictures, and end the log with the table of results.

    Args:
        cfg: the configuration.
        run: output folder, history, device.
        dataset: what was evaluated on.
        evaluations: by name, in the order of the table; the last one is the run's result.
    """
    *_, result = evaluations.values()
    weights = cfg.TEST.WEIGHT if "test" in evaluations else start_weights(cfg)
    facts = {
        "dataset": dataset.name,
        "camera_rule": dataset.camera_rule,
        "model": cfg.MODEL.NAME,
        "method": cfg.MODEL.METHOD,
        "weights": weights,
        "device": run.describe_device(),
        "seconds": run.seconds,
    }
    write_metrics(run.output_dir / "metrics.json", evaluations, facts, run.history)
    if cfg.TEST.PICTURES:
        write_ranking_picture(
            run.output_dir / "ranking.png",
            result,
            [record.path for record in dataset.query],
            [record.path for record in dataset.gallery],
            dataset.test_identities,
            dataset.camera_rule,
        )
    closing = f"{run.seconds:.0f} s on {run.describe_device()}; weights: {weights}; results in {run.output_dir}"
    log_table(evaluations, closing)


def start_weights(cfg: CfgNode) -> str:
    """What training started from, in words: the label every number needs."""
    if cfg.MODEL.PRETRAIN_CHOICE == "random":
        return "random start"
    return f"start from {cfg.MODEL.PRETRAIN_PATH or 'CLIP ' + cfg.MODEL.NAME}"


def write_metrics(path: Path, evaluations: dict[str, Evaluation], facts: dict[str, Any], history: list[dict]) -> None:
    """Write ``metrics.json``: the numbers of each evaluation, what they were measured with, and every epoch."""
    results = {
        name: {
            **evaluation.summary(),
            "mINP": 100 * evaluation.metrics.mINP,
            "CMC": [round(100 * float(value), 4) for value in evaluation.metrics.cmc],
            "queries": evaluation.metrics.num_queries,
            "queries_without_match": evaluation.metrics.num_skipped,
            "seconds": evaluation.seconds,
        }
        for name, evaluation in evaluations.items()
    }
    save_json({**facts, "results": results, "history": history}, path)


def log_table(evaluations: dict[str, Evaluation], closing: str) -> None:
    """The last lines of a run: one row for each evaluation, then where the rest lies."""
    rows = {name: evaluation.summary() for name, evaluation in evaluations.items()}
    columns = list(next(iter(rows.values())))
    width = max(len(name) for name in rows)
    lines = [" " * width + "".join(f"{column:>9}" for column in columns)]
    lines += [f"{name:<{width}}" + "".join(f"{row[c]:9.1f}" for c in columns) for name, row in rows.items()]
    for line in [*lines, closing]:
        LOGGER.info("%s", line)


def write_ranking_picture(
    path: Path,
    evaluation: Evaluation,
    query_paths: Sequence[str],
    gallery_paths: Sequence[str],
    identities: Sequence[str],
    camera_rule: str,
) -> None:
    """Write queries from the best to the worst average precision with their ten nearest gallery images.

    Args:
        path: of the PNG.
        evaluation: features and average precisions.
        query_paths, gallery_paths: the image files in the features' order.
        identities: names of the test identities by pid.
        camera_rule: as in the evaluation; ignored gallery images are not shown.
    """
    precision = evaluation.metrics.average_precision
    valid = np.flatnonzero(~np.isnan(precision))
    ordered = valid[np.argsort(-precision[valid], kind="stable")]
    chosen = ordered[np.unique(np.linspace(0, len(ordered) - 1, SHOWN_QUERIES).round().astype(int))]
    rankings = [
        Ranking(
            query_paths[i],
            identities[int(evaluation.query.pids[i])],
            float(precision[i]),
            _answers(evaluation, int(i), gallery_paths, identities, camera_rule),
        )
        for i in chosen
    ]
    sheet = ranking_sheet(rankings, f"{len(rankings)} of {len(valid)} queries, from best to worst; ten nearest each")
    write_atomically(path, lambda file: sheet.save(file, format="PNG"))


def _answers(
    evaluation: Evaluation, query: int, gallery_paths: Sequence[str], identities: Sequence[str], camera_rule: str
) -> list[Answer]:
    pid, camid = evaluation.query.pids[query], evaluation.query.camids[query]
    gallery = evaluation.gallery
    distances = torch.cdist(evaluation.query.features[query : query + 1], gallery.features).squeeze(0)
    if camera_rule == "market":
        distances[(gallery.pids == pid) & (gallery.camids == camid)] = torch.inf
    shown = distances.argsort(stable=True)[:SHOWN_ANSWERS].tolist()
    return [
        Answer(gallery_paths[i], identities[int(gallery.pids[i])], float(distances[i]), bool(gallery.pids[i] == pid))
        for i in shown
        if torch.isfinite(distances[i])
    ]
