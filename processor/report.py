"""What a run leaves for its reader: numbers as JSON, a table in the log, rankings as a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

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

COLUMNS = ("mAP", "Rank-1", "Rank-5", "Rank-10")
SHOWN_QUERIES = 8
SHOWN_ANSWERS = 10


def finish_run(cfg: CfgNode, run: Run, dataset: ReIDDataset, name: str, evaluation: Evaluation) -> None:
    """Write ``metrics.json`` and the pictures, and end the log with the table of results.

    Args:
        cfg: the configuration.
        run: output folder, history, device, and the numbers of evaluations before.
        dataset: what was evaluated on.
        name: of the last evaluation, the run's result: ``trained``, or ``test``, which leaves what training wrote into
            the same folder as it is.
        evaluation: it.
    """
    weights = cfg.TEST.WEIGHT if name == "test" else start_weights(cfg)
    run.results[name] = {
        **evaluation.record(),
        "dataset": dataset.name,
        "camera_rule": dataset.camera_rule,
        "model": cfg.MODEL.NAME,
        "method": cfg.MODEL.METHOD,
        "weights": weights,
        "device": run.describe_device(),
    }
    path = run.output_dir / "metrics.json"
    earlier = _read_json(path) if name == "test" else {}
    content = {"seconds": run.seconds, "history": run.history, **earlier}
    save_json({**content, "results": {**earlier.get("results", {}), **run.results}}, path)
    if cfg.TEST.PICTURES:
        write_ranking_picture(
            run.output_dir / ("ranking_test.png" if name == "test" else "ranking.png"),
            evaluation,
            [record.path for record in dataset.query],
            [record.path for record in dataset.gallery],
            dataset.test_identities,
            dataset.camera_rule,
        )
    closing = f"{run.seconds:.0f} s on {run.describe_device()}; weights: {weights}; results in {run.output_dir}"
    log_table(run.results, closing)


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
    """The last lines of a run: one row for each evaluation, then where the rest lies."""
    width = max(len(name) for name in rows)
    lines = [" " * width + "".join(f"{column:>9}" for column in COLUMNS)]
    lines += [f"{name:<{width}}" + "".join(f"{row[c]:9.1f}" for c in COLUMNS) for name, row in rows.items()]
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
