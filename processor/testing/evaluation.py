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

from model.base import Batch, Method
from processor.biometrics.errors import verification_record
from processor.biometrics.setting import crossing_of, ranked_without_copies, verified
from processor.runs.run import Run
from processor.testing.local_matching import LocalMatching, wants_local
from utils.biometric.verification import VerificationMetrics
from utils.compute.device import Precision, choose_precision
from utils.compute.distributed import from_main, gather_on_main, is_main, on_main_process, share_from_main
from utils.console.interrupt import check_interrupt
from utils.console.logger import LOGGER
from utils.console.progress import counted
from utils.metrics import Features, RankingMetrics, distance_chunks, evaluate, evaluate_distances, save_distances
from utils.reranking import k_reciprocal
from utils.retrieval.identities import JUNK, IdentityPairs
from utils.retrieval.local_order import LocalScores
from utils.retrieval.search import SEARCHES, Nearest, smallest
from utils.retrieval.visible import VISIBLE

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from datasets.bases import QueryGallerySplit, Record, ReIDDataset
    from model.base import Method


MANY_IMAGES = 10
"""Gallery images of an identity, on average, from which the published k1 and k2 are taken."""

NOTED = 10
"""How much of a ranking is kept for pictures."""


DISTANCES = {
    "euclidean": "squared Euclidean distance",
    "cosine": "cosine distance (1 - cosine)",
    "visible": "distance of the parts that both images show (0 to 1)",
    "re-ranked": "re-ranked distance (Jaccard and original, 0 to 1)",
}
"""By ``TEST.METRIC``, or re-ranked, which has none of its own."""


@dataclass(frozen=True)
class Evaluation:
    """The outcome of one evaluation.

    Attributes:
        metrics: mAP and CMC.
        query, gallery: features as they were compared, for pictures.
        seconds: of extraction and ranking together.
        metric: ``euclidean``, ``cosine`` or ``visible``.
        search: how :meth:`find_nearest` searches, a name in :data:`utils.retrieval.search.SEARCHES`.
        nearest: the beginning of each ranking where a search cannot find it (re-ranking, ``visible``), else None.
        camera_rule: which gallery images count for a query, ``market`` or ``none``.
        neighbours: k1 and k2 of the re-ranking, None without it.
        local: scores of matched skin detail that the ranking and the error rates come from, None without them.
        verification: error rates of the same features at a threshold, None where they were not measured.
        neck_feat: whether the model gives features from ``before`` or ``after`` the BNNeck.
        runs: the numbers of each random split in turn where there are several; everything else is of the first.
        precisions: and each one's average precisions, of its own queries.
    """

    metrics: RankingMetrics
    query: Features
    gallery: Features
    seconds: float
    metric: str = "euclidean"
    search: str = "exact"
    nearest: Nearest | None = None
    camera_rule: str = "none"
    neighbours: tuple[int, int] | None = None
    local: LocalScores | None = None
    verification: VerificationMetrics | None = None
    neck_feat: str = ""
    runs: tuple[dict[str, float], ...] = ()
    precisions: tuple[np.ndarray, ...] = ()

    @property
    def score_name(self) -> str:
        """What the scores of :attr:`verification` are, in words."""
        return "cosine similarity" if self.local is None else self.local.name

    @property
    def distance_name(self) -> str:
        """What the rankings' numbers are, in words."""
        if self.local is not None:
            return self.local.name
        return DISTANCES["re-ranked" if self.neighbours is not None else self.metric]

    def find_nearest(self, queries: Sequence[int]) -> Nearest:
        """The first :data:`NOTED` gallery images of some queries in the order in which they were scored.

        Images that do not count for a query (camera rule, junk) are left out; where too few are left, the rest of the
        indices is -1.
        """
        chosen = torch.as_tensor(queries)
        if self.nearest is not None:
            return Nearest(self.nearest.distances[chosen], self.nearest.index[chosen], self.nearest.recall)
        query, gallery = self.query, self.gallery
        pairs = IdentityPairs(query.pids[chosen], gallery.pids, query.camids[chosen], gallery.camids, self.camera_rule)
        ignored = torch.zeros(len(chosen), len(gallery), dtype=torch.bool)
        ignored[pairs.ignored(0, len(chosen))] = True
        wanted = NOTED + int(ignored.sum(1).max())
        found = SEARCHES[self.search](query.features[chosen], gallery.features, wanted, metric=self.metric)
        if self.search != "exact":
            LOGGER.info("TEST.SEARCH %s: recall %.3f, in pictures only", self.search, found.recall)
        index = found.index.cpu()
        left_out = (index < 0) | ignored.gather(1, index.clamp(min=0))
        order = left_out.to(torch.uint8).sort(dim=1, stable=True)[1]
        index = index.masked_fill(left_out, -1).gather(1, order)[:, :NOTED]
        return Nearest(found.distances.cpu().gather(1, order)[:, :NOTED], index, found.recall)

    def summary(self) -> dict[str, float]:
        """The published numbers in percent, means over the runs."""
        return {name: self.means()[name] for name in ("mAP", "Rank-1", "Rank-5", "Rank-10")}

    def numbers(self) -> dict[str, float]:
        """What the first run gave, in percent."""
        ranks = {f"Rank-{k}": 100 * self.metrics.rank(k) for k in (1, 5, 10)}
        errors = {} if self.verification is None else {"EER": 100 * self.verification.eer}
        return {"mAP": 100 * self.metrics.mAP, **ranks, "mINP": 100 * self.metrics.mINP, **errors}

    def means(self) -> dict[str, float]:
        """:meth:`numbers`, averaged over the runs."""
        runs = self.runs or (self.numbers(),)
        return {name: float(np.mean([run[name] for run in runs])) for name in runs[0] if name != "run"}

    def deviations(self) -> dict[str, float]:
        """Sample standard deviation (n - 1 in the denominator) of :meth:`numbers` over the runs; empty for one run."""
        if len(self.runs) < 2:
            return {}
        return {name: float(np.std([run[name] for run in self.runs], ddof=1)) for name in self.means()}

    def record(self) -> dict[str, Any]:
        """Everything that ``metrics.json`` holds of this evaluation; curves and counts are of the first run."""
        several = {"std": self.deviations(), "runs": list(self.runs)} if self.runs else {}
        neighbours = {} if self.neighbours is None else dict(zip(("k1", "k2"), self.neighbours, strict=True))
        return {
            **self.means(),
            **several,
            **({} if self.verification is None else {"verification": verification_record(self.verification)}),
            "CMC": [round(100 * float(value), 4) for value in self.metrics.cmc],
            "queries": self.metrics.num_queries,
            "queries_without_match": self.metrics.num_skipped,
            **({"re-ranking": neighbours} if neighbours else {}),
            "seconds": self.seconds,
        }


@torch.no_grad()
def extract_features(model: Method, loader: DataLoader, precision: Precision, *, flip: bool = False) -> Features | None:
    """Test features of all images of ``loader``'s data set [N, D + E] in float32, on the CPU.

    Several processes compute them together and the first one gets them; the others get None.

    Args:
        model: put into eval mode; of several processes' running statistics, those of the first count.
        loader: batches of images and labels, for each process its share.
        precision: of the forward pass, on the device of the model.
        flip: add the feature of the mirror image, as the hand papers do.
    """
    model.eval()
    share_from_main(model.buffers())
    batches = []
    for loaded in counted(loader, "test features"):
        check_interrupt("evaluation")
        with precision.autocast():
            feature = model.test_feature(Batch.of(loaded, model.inputs, precision.device), flip)
        # Copies: what worker processes hand over is shared memory, which keeps two files open as long as it lives.
        batches.append((feature.float().cpu(), loaded["labels"].clone(), loaded["cameras"].clone()))
    gathered = [batch for share in gather_on_main(batches) for batch in share]
    return Features(*map(torch.cat, zip(*gathered, strict=True))) if is_main() else None


def evaluate_model(
    cfg: CfgNode,
    model: Method,
    loader: DataLoader,
    dataset: ReIDDataset,
    run: Run,
) -> Evaluation | None:
    """Extract once; compare and rank each trial as ``cfg.TEST`` says.

    Of several processes all extract; the first one ranks while the others wait, and they get None.

    Args:
        cfg: ``TEST.*`` is read.
        model: on ``run.device``.
        loader: all images of the trials, each once; its dataset has their ``records``.
        dataset: query and gallery of each trial, camera rule.
        run: device and output folder.
    """
    start = time.perf_counter()
    images = _images(cfg, model, loader, run)
    local = LocalMatching(cfg, dataset, loader, model, run) if wants_local(cfg) else None
    outcome = on_main_process(lambda: _evaluate(cfg, images, loader.dataset.records, dataset, local, run))
    return outcome and replace(outcome, seconds=time.perf_counter() - start, neck_feat=getattr(model, "neck_feat", ""))


def _evaluate(
    cfg: CfgNode,
    images: Features,
    records: Sequence[Record],
    dataset: ReIDDataset,
    local: LocalMatching | None,
    run: Run,
) -> Evaluation:
    """Compare and rank each trial; ``images`` are the features of ``records``."""
    place = {record: i for i, record in enumerate(records)}
    first, runs, precisions, trials = None, [], [], dataset.trials
    for trial in trials:
        query, gallery = (_rows(images, [place[record] for record in part]) for part in (trial.query, trial.gallery))
        suffix = f"_run{trial.run}" if len(trials) > 1 else ""
        crossing = crossing_of(trial, query, gallery, dataset.camera_rule)
        ranked = ranked_without_copies(crossing)
        outcome = _rank(cfg, *ranked, run, suffix) if local is None else _rank_locally(cfg, trial, *ranked, local)
        outcome = replace(outcome, query=query, gallery=gallery)
        if outcome.local is not None:
            crossing = replace(crossing, scores=outcome.local.scores)
        if cfg.TEST.VERIFICATION:
            outcome = replace(outcome, verification=verified(cfg.TEST, crossing.blocks, crossing, outcome.local))
        runs.append({"run": trial.run, **outcome.numbers()})
        precisions.append(outcome.metrics.average_precision)
        first = first or outcome
    return replace(first, runs=tuple(runs), precisions=tuple(precisions)) if len(trials) > 1 else first


def validate_model(
    cfg: CfgNode, model: Method, loader: DataLoader, trial: QueryGallerySplit[Record], run: Run
) -> RankingMetrics:
    """Rank held-out images, without camera rule and re-ranking; all processes get the result.

    The arguments are those of :func:`evaluate_model`.
    """
    images = _images(cfg, model, loader, run)

    def rank() -> RankingMetrics:
        place = {record: i for i, record in enumerate(loader.dataset.records)}
        query, gallery = (_rows(images, [place[record] for record in part]) for part in (trial.query, trial.gallery))
        return evaluate(query, gallery, metric=cfg.TEST.METRIC, camera_rule="none", average_precision=cfg.TEST.AP)

    return from_main(rank)


def _images(cfg: CfgNode, model: Method, loader: DataLoader, run: Run) -> Features | None:
    """Features of all images of ``loader`` as they are compared; None in all processes but the first."""
    images = extract_features(model, loader, choose_precision(cfg.TEST.PRECISION, run.device), flip=cfg.TEST.FLIP)
    if images is None:
        return None
    return replace(images, features=F.normalize(images.features)) if cfg.TEST.FEAT_NORM == "yes" else images


def _rank(cfg: CfgNode, query: Features, gallery: Features, camera_rule: str, run: Run, suffix: str) -> Evaluation:
    """Compare and rank one trial, and write its distances where ``TEST.DIST_MAT`` names a file."""
    rules = {"camera_rule": camera_rule, "average_precision": cfg.TEST.AP}
    labels = query.pids, gallery.pids, query.camids, gallery.camids
    path = run.output_dir / cfg.TEST.DIST_MAT if cfg.TEST.DIST_MAT else None
    path = path and path.with_stem(f"{path.stem}{suffix}")
    found, neighbours, shape = None, None, (len(query), len(gallery))
    if cfg.TEST.RE_RANKING or cfg.TEST.METRIC == VISIBLE:
        nearest: list[Nearest] = []
        distances, neighbours = _distances(cfg, query, gallery)
        distances = _noting_nearest(distances, IdentityPairs(*labels, camera_rule), nearest)
        if path:
            distances = np.load(save_distances(path, distances, shape), mmap_mode="r")
        metrics = evaluate_distances(distances, *labels, **rules)
        found = Nearest(torch.cat([n.distances for n in nearest]), torch.cat([n.index for n in nearest]), 1.0)
    else:
        metrics = evaluate(query, gallery, metric=cfg.TEST.METRIC, **rules)
        if path:
            save_distances(path, _distances(cfg, query, gallery)[0], shape)
    known = {"metric": cfg.TEST.METRIC, "search": cfg.TEST.SEARCH, "camera_rule": camera_rule}
    return Evaluation(metrics, query, gallery, 0.0, nearest=found, neighbours=neighbours, **known)


def _distances(cfg: CfgNode, query: Features, gallery: Features) -> tuple[Iterator[Tensor], tuple[int, int] | None]:
    """Distances in blocks of queries; with re-ranking those of the re-ranked lists, and k1 and k2."""
    if not cfg.TEST.RE_RANKING:
        return distance_chunks(query.features, gallery.features, metric=cfg.TEST.METRIC), None
    k1, k2 = reranking_sizes(cfg, gallery)
    return k_reciprocal(query.features, gallery.features, k1, k2, cfg.TEST.RERANK_LAMBDA), (k1, k2)


def _rank_locally(
    cfg: CfgNode,
    trial: QueryGallerySplit[Record],
    query: Features,
    gallery: Features,
    camera_rule: str,
    local: LocalMatching,
) -> Evaluation:
    """Rank one trial by matched skin detail; with re-ranking, the nearest are those of the re-ranked lists."""
    labels = query.pids, gallery.pids, query.camids, gallery.camids
    pairs = IdentityPairs(*labels, camera_rule)
    distances, neighbours = _distances(cfg, query, gallery)
    found = local.order(trial.query, trial.gallery, (query, gallery), distances, pairs)
    metrics = evaluate_distances(found.places(), *labels, camera_rule=camera_rule, average_precision=cfg.TEST.AP)
    known = {"metric": cfg.TEST.METRIC, "search": cfg.TEST.SEARCH, "camera_rule": camera_rule}
    nearest = found.nearest(pairs, NOTED)
    return Evaluation(metrics, query, gallery, 0.0, nearest=nearest, neighbours=neighbours, local=found, **known)


def reranking_sizes(cfg: CfgNode, gallery: Features) -> tuple[int, int]:
    """k1 and k2 of ``TEST.RERANK_K1`` and ``TEST.RERANK_K2``.

    ``auto`` is 50 and 15, as published, where an identity of the gallery has at least ten images on average, as in the
    published sets. With n images, fewer, it is n + 1 and half of that: the neighbours of an image are then of its own
    identity. A warning says where values that were set are far from that.
    """
    identities = gallery.pids[gallery.pids != JUNK]
    images = len(identities) / max(1, len(identities.unique()))
    if cfg.TEST.RERANK_K1 == "auto":
        k1 = 50 if images >= MANY_IMAGES else round(images) + 1
        k1, k2 = (k1, 15) if images >= MANY_IMAGES else (k1, max(1, round(k1 / 2)))
        LOGGER.info("re-ranking with k1 %d, k2 %d: the gallery has %.1f images of an identity", k1, k2, images)
        return k1, k2
    k1, k2 = int(cfg.TEST.RERANK_K1), int(cfg.TEST.RERANK_K2)
    if k1 > 4 * images:
        LOGGER.warning(
            "TEST.RERANK_K1 = %d, but an identity of the gallery has only %.1f images: re-ranking takes other people "
            "for neighbours and may lower mAP. TEST.RERANK_K1 auto TEST.RERANK_K2 auto chooses by these images.",
            k1,
            images,
        )
    return k1, k2


def _noting_nearest(blocks: Iterable[Tensor], pairs: IdentityPairs, noted: list[Nearest]) -> Iterator[Tensor]:
    """Pass ``blocks`` on and add the beginning of each row's ranking, as it is scored, to ``noted``."""
    start = 0
    for block in blocks:
        ignored = tuple(index.to(block.device) for index in pairs.ignored(start, start + len(block)))
        kept = block[ignored]
        block[ignored] = torch.inf
        value, index = smallest(block, min(NOTED, block.shape[1]))
        block[ignored] = kept
        noted.append(Nearest(value.cpu(), index.masked_fill(value == torch.inf, -1).cpu(), 1.0))
        start += len(block)
        yield block


def _rows(features: Features, rows: Sequence[int]) -> Features:
    """Some of the rows; as a view, without copying features, where they follow one another."""
    consecutive = list(rows) == list(range(rows[0], rows[0] + len(rows)))
    chosen = slice(rows[0], rows[0] + len(rows)) if consecutive else torch.tensor(rows)
    return Features(*(part[chosen] for part in (features.features, features.pids, features.camids)))
