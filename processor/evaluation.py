"""From a model and test images to features, and from features to the published numbers."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from processor.run import Run
from utils.interrupt import check_interrupt
from utils.metrics import Features, RankingMetrics, distance_chunks, evaluate, evaluate_distances, save_distances
from utils.progress import counted
from utils.reranking import k_reciprocal
from utils.search import Nearest, top_k

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from model.baseline import ImageReID


NOTED = 100
"""How much of a ranking is kept for pictures; more than is shown, since the camera rule takes images out."""


@dataclass(frozen=True)
class Evaluation:
    """The outcome of one evaluation.

    Attributes:
        metrics: mAP and CMC.
        query, gallery: features as they were compared, for pictures.
        seconds: of extraction and ranking together.
        metric: ``euclidean`` or ``cosine``.
        nearest: the beginning of each ranking if it came from more than the features (re-ranking), else None.
    """

    metrics: RankingMetrics
    query: Features
    gallery: Features
    seconds: float
    metric: str = "euclidean"
    nearest: Nearest | None = None

    def find_nearest(self, queries: Sequence[int]) -> Nearest:
        """Distances and gallery indices [q, k] of the nearest images of some queries, as the evaluation ranked them."""
        chosen = torch.as_tensor(queries)
        if self.nearest is not None:
            return Nearest(self.nearest.distances[chosen], self.nearest.index[chosen], 1.0)
        return top_k(self.query.features[chosen], self.gallery.features, NOTED, metric=self.metric)

    def summary(self) -> dict[str, float]:
        """The published numbers in percent."""
        ranks = {f"Rank-{k}": 100 * self.metrics.rank(k) for k in (1, 5, 10)}
        return {"mAP": 100 * self.metrics.mAP, **ranks}

    def record(self) -> dict[str, Any]:
        """Everything that ``metrics.json`` tells about this evaluation."""
        return {
            **self.summary(),
            "mINP": 100 * self.metrics.mINP,
            "CMC": [round(100 * float(value), 4) for value in self.metrics.cmc],
            "queries": self.metrics.num_queries,
            "queries_without_match": self.metrics.num_skipped,
            "seconds": self.seconds,
        }


@torch.no_grad()
def extract_features(model: ImageReID, loader: DataLoader, device: torch.device, *, flip: bool = False) -> Features:
    """Test features of all images of ``loader`` [N, D + E] in float32, on the CPU.

    Args:
        model: put into eval mode.
        loader: batches of images and labels.
        device: where the model is.
        flip: add the feature of the mirror image, as the hand papers do.
    """
    model.eval()
    features, pids, camids = [], [], []
    for images, batch_pids, batch_camids, viewids, _ in counted(loader, "test features"):
        check_interrupt("evaluation")
        images, labels = images.to(device), (batch_camids.to(device), viewids.to(device))
        feature = model.embed(images, *labels)
        if flip:
            feature = feature + model.embed(images.flip(-1), *labels)
        features.append(feature.cpu())
        pids.append(batch_pids)
        camids.append(batch_camids)
    return Features(torch.cat(features), torch.cat(pids), torch.cat(camids))


def evaluate_model(
    cfg: CfgNode, model: ImageReID, loader: DataLoader, num_query: int, camera_rule: str, run: Run
) -> Evaluation:
    """Extract, compare and rank as ``cfg.TEST`` asks.

    Args:
        cfg: ``TEST.*`` is read.
        model: on ``run.device``.
        loader: the query images, then the gallery images.
        num_query: how many are query images.
        camera_rule: ``market`` or ``none``.
        run: device and output folder.
    """
    start = time.perf_counter()
    query, gallery = _split(extract_features(model, loader, run.device, flip=cfg.TEST.FLIP), num_query)
    if cfg.TEST.FEAT_NORM == "yes":
        query, gallery = (replace(part, features=F.normalize(part.features)) for part in (query, gallery))
    rules = {"camera_rule": camera_rule, "average_precision": cfg.TEST.AP}
    if cfg.TEST.RE_RANKING or cfg.TEST.DIST_MAT:
        nearest: list[Nearest] = []
        distances = _noting_nearest(_distances(cfg, query, gallery), nearest)
        if cfg.TEST.DIST_MAT:
            path = save_distances(run.output_dir / cfg.TEST.DIST_MAT, distances, (len(query), len(gallery)))
            distances = np.load(path, mmap_mode="r")
        metrics = evaluate_distances(distances, query.pids, gallery.pids, query.camids, gallery.camids, **rules)
        found = Nearest(torch.cat([n.distances for n in nearest]), torch.cat([n.index for n in nearest]), 1.0)
    else:
        metrics = evaluate(query, gallery, metric=cfg.TEST.METRIC, **rules)
        found = None
    return Evaluation(metrics, query, gallery, time.perf_counter() - start, cfg.TEST.METRIC, found)


def _distances(cfg: CfgNode, query: Features, gallery: Features) -> Iterator[Tensor]:
    """Blocks [q, G] of distances, re-ranked if the configuration asks for it."""
    if not cfg.TEST.RE_RANKING:
        return distance_chunks(query.features, gallery.features, metric=cfg.TEST.METRIC)
    k1, k2, share = cfg.TEST.RERANK_K1, cfg.TEST.RERANK_K2, cfg.TEST.RERANK_LAMBDA
    return k_reciprocal(query.features, gallery.features, k1, k2, share)


def _noting_nearest(blocks: Iterable[Tensor], noted: list[Nearest]) -> Iterator[Tensor]:
    """Pass ``blocks`` on and add the beginning of each row's ranking to ``noted``."""
    for block in blocks:
        best = block.topk(min(NOTED, block.shape[1]), dim=1, largest=False)
        noted.append(Nearest(best.values.cpu(), best.indices.cpu(), 1.0))
        yield block


def _split(features: Features, num_query: int) -> tuple[Features, Features]:
    parts = (features.features, features.pids, features.camids)
    return Features(*(p[:num_query] for p in parts)), Features(*(p[num_query:] for p in parts))
