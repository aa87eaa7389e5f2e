"""Pictures of one evaluation: rankings, error rates, confused identities, saliency, feature maps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from model.base import Batch, Method
from processor.testing.evaluation import Evaluation
from utils.console.interrupt import InterruptedRunError
from utils.console.logger import LOGGER
from utils.errors import ReIDError
from utils.files.text_files import printable
from utils.images import read_image
from utils.plots.curves import cmc_chart, embedding_chart, error_chart, save_figure, score_chart, similarity_chart
from utils.plots.projection import embed_in_plane
from utils.plots.sheets import Answer, Ranking, Seen, evenly, ranking_sheet, saliency_sheet, save_sheet
from utils.retrieval.identities import JUNK

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from datasets.bases import Record, ReIDDataset

RANKINGS = ("worst", "median", "random")
PICTURES = (
    "cmc",
    "roc_det",
    "scores",
    "confused",
    "attention",
    "embedding",
    *(f"rankings_{name}" for name in RANKINGS),
)
"""Files of :func:`write_pictures`, without suffix."""

SHOWN_QUERIES = 8
CONFUSED_IDENTITIES = 12
MAPPED_IDENTITIES = 20
MAPPED_IMAGES = 2000


def write_pictures(
    folder: Path,
    evaluation: Evaluation,
    dataset: ReIDDataset,
    model: Method,
    loader: DataLoader,
    seed: int,
) -> None:
    """Write every picture of ``evaluation``: ``ranking.png`` beside ``folder``, the others into it.

    A picture that cannot be drawn is named in the log, and the others are drawn.

    Args:
        folder: for the PNG files, ``pictures`` or ``pictures_test``.
        evaluation: features, rankings and average precisions.
        dataset: images, identities and camera rule.
        model: what was evaluated, for the maps of where it looks.
        loader: of the test images.
        seed: of the random queries.
    """
    draw = {
        "ranking": partial(write_ranking_picture, ranking_file(folder), evaluation, dataset),
        "cmc": partial(write_cmc, folder / "cmc.png", evaluation),
        "verification": partial(write_verification, folder, evaluation),
        "rankings": partial(write_ranking_sheets, folder, evaluation, dataset, seed),
        "confused": partial(write_confused, folder / "confused.png", evaluation, dataset.test_identities),
        "attention": partial(write_attention, folder / "attention.png", evaluation, dataset, model, loader),
        "embedding": partial(write_embedding, folder / "embedding.png", evaluation, dataset.test_identities),
    }
    for name, write in draw.items():
        try:
            write()
        except InterruptedRunError:
            raise
        except ReIDError as error:
            LOGGER.warning("picture %s left out: %s", name, error)
        except Exception as error:  # drawing libraries raise any exception, and the results are not written yet
            LOGGER.warning("picture %s left out: %s: %s", name, type(error).__name__, error)


def ranking_file(folder: Path) -> Path:
    """The picture that stands beside ``folder`` of the others, under the same suffix."""
    return folder.with_name(f"{folder.name.replace('pictures', 'ranking', 1)}.png")


def remove_pictures(folder: Path) -> None:
    """Remove the pictures of an earlier evaluation, which show people: the files of :func:`write_pictures`, no others.

    Raises:
        ReIDError: one cannot be removed.
    """
    files = [ranking_file(folder), *(folder / f"{name}.png" for name in PICTURES)]
    found = [file for file in files if file.is_file()]
    try:
        for file in found:
            file.unlink()
    except OSError as error:
        raise ReIDError(f"{error.filename}: cannot be removed ({error.strerror}). Remove it by hand.") from None
    if found:
        LOGGER.info("TEST.PICTURES False: removed %d pictures of an earlier evaluation", len(found))


def by_precision(evaluation: Evaluation) -> np.ndarray:
    """Queries [V] that have a match, best average precision first."""
    precision = evaluation.metrics.average_precision
    valid = np.flatnonzero(~np.isnan(precision))
    return valid[np.argsort(-precision[valid], kind="stable")]


def write_ranking_picture(path: Path, evaluation: Evaluation, dataset: ReIDDataset) -> None:
    """Write queries from the best to the worst average precision with their ten nearest gallery images.

    Args:
        path: of the PNG.
        evaluation: rankings and average precisions.
        dataset: images, identities and camera rule; gallery images that the rule ignores are not shown.
    """
    ordered = by_precision(evaluation)
    chosen = ordered[evenly(len(ordered), SHOWN_QUERIES)]
    title = f"{len(chosen)} of {len(ordered)} queries, from best to worst; ten nearest each"
    write_rankings(path, chosen, title, evaluation, dataset)


def write_rankings(path: Path, chosen: np.ndarray, title: str, evaluation: Evaluation, dataset: ReIDDataset) -> None:
    """Write the queries ``chosen``, in this order, with their ten nearest gallery images."""
    nearest = evaluation.find_nearest(chosen.tolist())
    title += f"; numbers: {evaluation.distance_name}"
    if nearest.recall < 1:
        title += f"; approximate search, recall {nearest.recall:.3f}"
    rankings = [
        Ranking(
            dataset.query[i].path,
            dataset.test_identities[dataset.query[i].pid],
            float(evaluation.metrics.average_precision[i]),
            _answers(dataset, dataset.query[i], zip(distances.tolist(), index.tolist(), strict=True)),
            int(evaluation.metrics.first_match[i]),
        )
        for i, distances, index in zip(chosen, nearest.distances, nearest.index, strict=True)
    ]
    save_sheet(ranking_sheet(rankings, title, reading=dataset.reading), path)


def _answers(dataset: ReIDDataset, query: Record, found: Iterable[tuple[float, int]]) -> list[Answer]:
    images = [(distance, dataset.gallery[index]) for distance, index in found if index >= 0]
    return [Answer(i.path, dataset.test_identities[i.pid], distance, i.pid == query.pid) for distance, i in images]


def write_ranking_sheets(folder: Path, evaluation: Evaluation, dataset: ReIDDataset, seed: int) -> None:
    """Write the rankings of the worst, the median and random queries."""
    ordered = by_precision(evaluation)
    start = max(0, (len(ordered) - SHOWN_QUERIES) // 2)
    drawn = np.random.default_rng(seed).permutation(len(ordered))[:SHOWN_QUERIES]
    choices = {
        "worst": ordered[::-1][:SHOWN_QUERIES],
        "median": ordered[start : start + SHOWN_QUERIES],
        "random": ordered[np.sort(drawn)],
    }
    for name, chosen in choices.items():
        order = "best first" if name == "random" else "by average precision"
        title = f"{len(chosen)} {name} queries of {len(ordered)}, {order}; ten nearest each"
        write_rankings(folder / f"rankings_{name}.png", chosen, title, evaluation, dataset)


def write_cmc(path: Path, evaluation: Evaluation) -> None:
    """Write the CMC curve up to the size of the gallery."""
    cmc = evaluation.metrics.cmc[: len(evaluation.gallery)]
    save_figure(cmc_chart(cmc, evaluation.metrics.mAP, evaluation.metrics.num_queries), path)


def write_verification(folder: Path, evaluation: Evaluation) -> None:
    """Write the ROC and DET curves and the histograms of the scores."""
    if evaluation.verification is None:
        return
    save_figure(error_chart(evaluation.verification), folder / "roc_det.png")
    save_figure(score_chart(evaluation.verification, evaluation.score_name), folder / "scores.png")


def write_confused(path: Path, evaluation: Evaluation, names: Sequence[str]) -> None:
    """Write the mean similarities between the identities that are most alike.

    Raises:
        ReIDError: there is one identity only.
    """
    similarity, identities = identity_similarity(evaluation)
    if len(identities) < 2:
        raise ReIDError("query and gallery have one identity in common; there is none to confuse it with.")
    chosen = most_confused(similarity, CONFUSED_IDENTITIES)
    shown = similarity[chosen][:, chosen].numpy()
    save_figure(similarity_chart(shown, [names[int(identities[i])] for i in chosen]), path)


def identity_similarity(evaluation: Evaluation) -> tuple[Tensor, Tensor]:
    """Mean cosine similarity [P, P] of the queries of one identity to gallery images of another, and the P pids.

    The mean over all pairs is the inner product of the means. Only identities with queries and gallery images count.
    """
    query, gallery = evaluation.query, evaluation.gallery
    identities = torch.as_tensor(np.intersect1d(query.pids.numpy(), gallery.pids.numpy()))
    identities = identities[identities != JUNK]
    means = []
    for part in (query, gallery):
        known = torch.isin(part.pids, identities)
        place = torch.searchsorted(identities, part.pids[known])
        unit = torch.nn.functional.normalize(part.features[known].double())
        total = unit.new_zeros(len(identities), unit.shape[1]).index_add_(0, place, unit)
        means.append(total / torch.bincount(place, minlength=len(identities))[:, None])
    return means[0] @ means[1].T, identities


def most_confused(similarity: Tensor, count: int) -> list[int]:
    """Up to ``count`` places of the most similar pairs of different identities, in order of their similarity."""
    alike = torch.maximum(similarity, similarity.T).triu(1)
    alike[torch.ones_like(alike).tril().bool()] = -torch.inf
    best = alike.flatten().topk(min(count * count, max(alike.numel() - 1, 1))).indices
    chosen: dict[int, None] = {}
    for pair in best.tolist():
        both = chosen | dict.fromkeys(divmod(pair, len(similarity)))
        if len(both) <= count:
            chosen = both
    return list(chosen)


def write_attention(
    path: Path, evaluation: Evaluation, dataset: ReIDDataset, model: Method, loader: DataLoader
) -> None:
    """Write the saliency of queries from the best to the worst."""
    ordered = by_precision(evaluation)
    chosen = ordered[evenly(len(ordered), SHOWN_QUERIES)].tolist()
    device = next(model.parameters()).device
    place = {record.path: number for number, record in enumerate(loader.dataset.records)}
    loaded = loader.collate_fn([loader.dataset[place[dataset.query[i].path]] for i in chosen])
    model.eval()
    maps = model.saliency(Batch.of(loaded, model.inputs, device)).cpu().numpy()
    seen = []
    for i, values in zip(chosen, maps, strict=True):
        record, precision = dataset.query[i], evaluation.metrics.average_precision[i]
        caption = f"{printable(dataset.test_identities[record.pid])}\nAP {100 * precision:.0f} %"
        seen.append(Seen(read_image(record.path, dataset.reading), values, caption))
    kind = model.image_encoder.saliency_kind
    count = f"{len(seen)} of {len(dataset.query)} queries, from best to worst"
    sheet = saliency_sheet(seen, f"Saliency: {kind}; {count}")
    save_sheet(sheet, path)


def write_embedding(path: Path, evaluation: Evaluation, names: Sequence[str]) -> None:
    """Write the plane in which the features of the identities with most images spread most."""
    query, gallery = evaluation.query, evaluation.gallery
    pids = torch.cat([query.pids, gallery.pids])
    is_query = torch.arange(len(pids)) < len(query)
    identities, counts = pids[pids != JUNK].unique(return_counts=True)
    kept = identities[counts.argsort(descending=True, stable=True)[:MAPPED_IDENTITIES]]
    shown = torch.isin(pids, kept).nonzero()[:, 0][:MAPPED_IMAGES]
    features = torch.cat(
        [query.features[shown[is_query[shown]]], gallery.features[shown[~is_query[shown]] - len(query)]]
    )
    points, method = embed_in_plane(torch.nn.functional.normalize(features))
    groups = [names[pid] for pid in pids[shown].tolist()]
    figure = embedding_chart(points, groups, is_query[shown].numpy(), method)
    if len(kept) < len(identities):
        figure.suptitle(
            f"{len(kept)} of {len(identities)} identities, those with most images ({len(shown)})", fontsize=9
        )
    save_figure(figure, path)
