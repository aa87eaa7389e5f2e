"""Fit of the identities' sentences to their images: diagnostics of every stage that has such sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from loss import identity_means
from model.base import Method
from processor.runs.run import Run
from processor.training.train_set import PlainImages
from utils.compute.precision import computing_in
from utils.console.logger import LOGGER

SPANS = (5.0, 40.0)
"""Spans of the logits between which a softmax neither ignores the sentences nor sees one of them alone; CLIP's own
logits span 12 to 15."""

KEPT = 0.5
"""Share of the alignment; a warning is logged if the first epoch of stage 2 leaves less."""

MEASURED = ("sentence_accuracy", "sentence_cosine", "logit_span", "length_product")
"""Names of what :func:`measure` finds, in the history and in ``metrics.json``."""

IMAGES_AT_ONCE = 4096
"""Images that are compared with the sentences together."""


@torch.no_grad()
def measure(method: Method, images: Tensor, labels: Tensor, run: Run) -> dict[str, float]:
    """Compare the images with the sentences of a method that has them.

    Args:
        method: put into eval mode.
        images: projected features [N, E] of the clean training images.
        labels: [N].
        run: its number format is that of the text encoder.

    Returns:
        ``sentence_accuracy``: share of the images whose nearest sentence, by the cosine, is that of their own identity.
        ``sentence_cosine``: of an identity's sentence and the mean of its images, mean over the identities.
        ``logit_span``: largest minus smallest logit of an image, mean over the images.
        ``length_product``: mean length of an image's feature times mean length of a sentence's.
    """
    method.eval()
    with computing_in(run.precision.autocast):
        sentences = method.sentences()
    images, sentences = images.float(), sentences.float()
    right = span = 0.0
    for rows, own in zip(images.split(IMAGES_AT_ONCE), labels.split(IMAGES_AT_ONCE), strict=True):
        nearest = (F.normalize(rows) @ F.normalize(sentences).T).argmax(1)
        logits = method.sentence_logits(rows, sentences)
        right += float((nearest == own).sum())
        span += float((logits.amax(1) - logits.amin(1)).sum())
    known = labels.unique()
    centroids = identity_means(images, labels, len(sentences))[known]
    return {
        "sentence_accuracy": right / len(labels),
        "sentence_cosine": float(F.cosine_similarity(centroids, sentences[known]).mean()),
        "logit_span": span / len(labels),
        "length_product": float(images.norm(dim=1).mean() * sentences.norm(dim=1).mean()),
    }


class StageAlignment:
    """The diagnostics of one stage, for the history of its epochs.

    What is found before the first epoch is kept in ``run.alignment`` and so survives an interruption.

    Args:
        method: in training.
        run: its history gets the numbers.
        stage: number of the stage.
        images: all training images; without a loader nothing is measured.
        cached: their projected features [N, E] and labels [N] where these do not change; None: computed when needed.
    """

    def __init__(
        self, method: Method, run: Run, stage: int, images: PlainImages, cached: tuple[Tensor, Tensor] | None = None
    ) -> None:
        self.method, self.run, self.stage = method, run, stage
        self.images, self.cached = images, cached
        self.on = method.has_sentences and stage in (1, 2) and images.loader is not None

    def begin(self) -> None:
        """Measure the start of the stage, unless it is resumed."""
        if not self.on or (self.run.position.epoch and self.run.position.stage == self.stage):
            return
        last = self.run.history[-1] if self.run.history else {}
        # The end of stage 1 is the start of stage 2: neither images nor sentences change between them.
        before = {name: last[name] for name in MEASURED if name in last} if self.stage == 2 else {}
        self.run.alignment[str(self.stage)] = found = before or self._measure()
        if not before:
            LOGGER.info("before stage %d: %s", self.stage, in_words(found))

    def after(self, epoch: int, epochs: int) -> dict[str, float]:
        """Measure, log and warn behind ``epoch`` of ``epochs``; what joins the history."""
        if not self.on:
            return {}
        found = self._measure()
        LOGGER.info("stage %d epoch %d/%d: %s", self.stage, epoch, epochs, in_words(found))
        if self.stage == 1:
            _warn_of_span(found, self.run.history, epoch == epochs)
        elif epoch == 1:
            found |= _what_is_left(self.run.alignment.get(str(self.stage), {}), found)
        return found

    def _measure(self) -> dict[str, float]:
        features, labels = self.cached or self.images.features(lambda outputs: outputs["projected"])
        return measure(self.method, features, labels, self.run)


def in_words(found: Mapping[str, float]) -> str:
    """Numbers of :func:`measure` for a reader."""
    return (
        f"nearest sentence is that of the image's identity for {100 * found['sentence_accuracy']:.1f} % of the clean "
        "training images, "
        f"cosine of sentence and centroid {found['sentence_cosine']:.3f}, logits span {found['logit_span']:.1f}"
    )


def _warn_of_span(found: Mapping[str, float], history: Sequence[Mapping], last: bool) -> None:
    """Too wide a span is a warning when it is first seen, too narrow a span at the end: every start is narrow."""
    low, high = SPANS
    span, product = found["logit_span"], found["length_product"]
    seen = any(entry["stage"] == 1 and entry.get("logit_span", 0) > high for entry in history)
    if span > high and not seen:
        LOGGER.warning(
            "the logits of stage 1 span %.1f, more than %.0f: the softmax is nearly one-hot, and the text loss "
            "dominates stage 2. The lengths of image and text features multiply to %.1f; that product has to be the "
            "logit scale of their pre-training. Scale image and text projection of the start weights.",
            *(span, high, product),
        )
    elif span < low and last:
        LOGGER.warning(
            "the logits of stage 1 span %.2f, less than %.0f: the sentences hardly separate the identities, so "
            "stage 2 gains little from them. Raise SOLVER.STAGE1.BASE_LR or MAX_EPOCHS, or start from pre-trained "
            "weights.",
            *(span, low),
        )


def _what_is_left(before: Mapping[str, float], found: Mapping[str, float]) -> dict[str, float]:
    """Share of the accuracy that the first epoch of stage 2 leaves, where there was any."""
    if not before.get("sentence_accuracy"):
        return {}
    left = found["sentence_accuracy"] / before["sentence_accuracy"]
    level = LOGGER.info if left >= KEPT else LOGGER.warning
    level(
        "alignment of images and sentences left after the first epoch of stage 2: %.0f %% (%.1f %% of the images, "
        "%.1f %% before)%s",
        *(100 * left, 100 * found["sentence_accuracy"], 100 * before["sentence_accuracy"]),
        "" if left >= KEPT else ". A lower SOLVER.STAGE2.BASE_LR or frozen layers keep more of it",
    )
    return {"alignment_left": left}
