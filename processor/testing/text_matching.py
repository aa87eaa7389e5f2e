"""Zero-shot matching of images with sentences of their attributes (CLIP, arXiv 2103.00020, section 3.1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from processor.testing.evaluation import Evaluation
from utils.metrics import Features, RankingMetrics, evaluate

if TYPE_CHECKING:
    from datasets.bases import QueryGallerySplit, Record

Encode = Callable[[Sequence[str]], Tensor]
"""From N sentences to their features [N, E], of length 1."""

Attributes = Mapping[str, Mapping[str, str]]
"""From an image's path to its attributes."""


def text_results(
    evaluation: Evaluation,
    trial: QueryGallerySplit[Record],
    attributes: Attributes,
    encode: Encode,
    sentence: Callable[[Mapping[str, str]], str],
    templates: Mapping[str, str],
) -> dict[str, dict[str, Any]]:
    """Retrieval by sentences, and attributes recognised by sentences, in percent.

    Args:
        evaluation: features of ``trial`` as they were compared; their last E columns are in the space of the text.
        trial: query and gallery; images without attributes take no part.
        attributes: of the images.
        encode: CLIP's text encoder.
        sentence: from all attributes of an image to a sentence.
        templates: by attribute, the sentence with ``{}`` for its value.

    Returns:
        ``text: attributes``, mAP and ranks where each distinct sentence of the queries retrieves the gallery images
        that it describes; ``text: identity``, where each person's sentences retrieve the person's images; the first
        holds, as ``accuracy`` and ``largest value``, how often an image's nearest sentence of an attribute is right,
        and the share of the attribute's most frequent value.
    """
    queries, query = _known(trial.query, attributes)
    offered, gallery = _known(trial.gallery, attributes)
    if not queries or not offered:
        return {}
    said = [sentence(attributes[record.path]) for record in offered]
    number = {text: i for i, text in enumerate(dict.fromkeys(said))}
    pairs = list(dict.fromkeys((record.pid, sentence(attributes[record.path])) for record in queries))
    texts = list(dict.fromkeys(text for _, text in pairs))
    features = encode(texts).float().cpu()
    width = features.shape[1]
    gallery_features = _projected(evaluation.gallery.features[gallery], width)
    images = torch.cat([_projected(evaluation.query.features[query], width), gallery_features])
    known = [attributes[record.path] for record in (*queries, *offered)]
    described = [number.get(text, len(number) + i) for i, text in enumerate(texts)]
    place = {text: i for i, text in enumerate(texts)}
    found = {
        "text: attributes": _rank(features, described, gallery_features, [number[text] for text in said]),
        "text: identity": _rank(
            features[[place[text] for _, text in pairs]],
            [pid for pid, _ in pairs],
            gallery_features,
            [record.pid for record in offered],
        ),
    }
    accuracy = attribute_accuracy(images, known, encode, templates)
    rows = {name: _numbers(metrics) for name, metrics in found.items() if metrics is not None}
    return {name: {**row, **accuracy} if name == "text: attributes" else row for name, row in rows.items()}


def sentence_results(
    images: Tensor,
    said: Sequence[str],
    attributes: Sequence[Mapping[str, str]],
    encode: Encode,
    templates: Mapping[str, str],
) -> dict[str, dict[str, Any]]:
    """Retrieval between images and sentences about them, in percent.

    Args:
        images: features [N, E] of length 1.
        said: about each image.
        attributes: of each image.
        encode, templates: see :func:`text_results`.

    Returns:
        ``image to sentence`` and ``sentence to image``: mAP and ranks, where Rank-k is recall@k, and an image matches
        every image's sentence that says the same; the first holds ``accuracy`` and ``largest value`` too.
    """
    number = {text: i for i, text in enumerate(dict.fromkeys(said))}
    texts, own = encode(list(number)).float().cpu(), [number[text] for text in said]
    rows = {
        "image to sentence": _rank(images, own, texts, list(number.values())),
        "sentence to image": _rank(texts, list(number.values()), images, own),
    }
    found = {name: _numbers(metrics) for name, metrics in rows.items() if metrics is not None}
    return {
        **found,
        "image to sentence": found["image to sentence"] | attribute_accuracy(images, attributes, encode, templates),
    }


def attribute_accuracy(
    images: Tensor, attributes: Sequence[Mapping[str, str]], encode: Encode, templates: Mapping[str, str]
) -> dict[str, dict[str, float]]:
    """How often the nearest of an attribute's sentences is the right one; attributes with one value are left out.

    Args:
        images: features [N, E] of length 1.
        attributes: of each image.
        encode, templates: see :func:`text_results`.
    """
    accuracy, largest = {}, {}
    for name, template in templates.items():
        rows = [i for i, known in enumerate(attributes) if name in known]
        values = sorted({attributes[i][name] for i in rows})
        if len(values) < 2:
            continue
        right = torch.tensor([values.index(attributes[i][name]) for i in rows])
        texts = encode([template.format(value) for value in values]).float().cpu()
        guessed = (images[rows] @ texts.T).argmax(1)
        accuracy[name] = 100 * float((guessed == right).float().mean())
        largest[name] = 100 * float(right.bincount().max() / len(right))
    return {"accuracy": accuracy, "largest value": largest}


def _known(records: Sequence[Record], attributes: Attributes) -> tuple[list[Record], list[int]]:
    rows = [i for i, record in enumerate(records) if record.path in attributes]
    return [records[i] for i in rows], rows


def _projected(features: Tensor, width: int) -> Tensor:
    return F.normalize(features[:, -width:].float())


def _rank(texts: Tensor, wanted: Sequence[int], images: Tensor, offered: Sequence[int]) -> RankingMetrics | None:
    if not set(wanted) & set(offered):
        return None
    query = Features(texts, torch.tensor(wanted), torch.zeros(len(wanted), dtype=torch.long))
    gallery = Features(images, torch.tensor(offered), torch.zeros(len(offered), dtype=torch.long))
    return evaluate(query, gallery, metric="cosine", camera_rule="none", average_precision="standard")


def _numbers(metrics: RankingMetrics) -> dict[str, Any]:
    ranks = {f"Rank-{k}": 100 * metrics.rank(k) for k in (1, 5, 10)}
    counts = {"queries": metrics.num_queries, "queries_without_match": metrics.num_skipped}
    return {"mAP": 100 * metrics.mAP, **ranks, "mINP": 100 * metrics.mINP, **counts}
