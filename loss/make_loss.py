"""The losses of the two training stages, put together from their terms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from loss.arcface import MARGIN_HEADS, MarginHead
from loss.center_loss import CenterLoss, weighted_center
from loss.softmax_loss import CrossEntropyLabelSmooth
from loss.supcontrast import SupConLoss
from loss.triplet_loss import TripletLoss
from utils.errors import require_choice


def contrast_terms(contrast: SupConLoss, images: Tensor, texts: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """``i2t`` and ``t2i`` between images and texts [B, E] that share their labels [B]."""
    return {"i2t": contrast(images, texts, labels, labels), "t2i": contrast(texts, images, labels, labels)}


class Criterion(nn.Module):
    r"""The losses that most methods share, :math:`w_{id} L_{id} + w_{tri} L_{tri} + w_{cen} L_{cen}`.

    :math:`L_{id}` is the sum over the scores, :math:`L_{tri}` the sum over the features, not their means. A
    term of weight 0 is left out.

    Args:
        id_weight, triplet_weight, center_weight: factor of each term.
        label_smoothing: of the ID cross-entropy; 0 for none.
        margin: of the triplet loss; None for its soft margin.
        id_type: ``"softmax"`` takes the scores as logits; a name in :data:`~loss.arcface.MARGIN_HEADS` takes
            them as cosines and applies that head.
        cosine_scale, cosine_margin: of that head.
        center: center loss on the final feature, the second or only one; None for none. Its centers get the gradient
            of the unweighted loss.
        triplet_norm: the triplet loss compares features of length 1.

    Shape:
        scores: tensors [B, C]; features: block 11, final, projected, [B, D] each, or the only one; labels [B].
        Returns the weighted terms ``id``, ``triplet``, ``center``, as far as they are on.

    Raises:
        ReIDError: ``id_type`` is unknown.
    """

    def __init__(
        self,
        *,
        id_weight: float = 1.0,
        triplet_weight: float = 1.0,
        label_smoothing: float = 0.1,
        margin: float | None = 0.3,
        id_type: str = "softmax",
        cosine_scale: float = 30.0,
        cosine_margin: float = 0.5,
        center: CenterLoss | None = None,
        center_weight: float = 5e-4,
        triplet_norm: bool = False,
    ) -> None:
        super().__init__()
        self.id_weight = id_weight
        self.triplet_weight = triplet_weight
        self.center_weight = center_weight
        self.margin_head = _margin_head(id_type, cosine_scale, cosine_margin)
        self.cross_entropy = CrossEntropyLabelSmooth(label_smoothing)
        self.triplet = TripletLoss(margin, normalize_feature=triplet_norm)
        self.center = center

    def forward(self, scores: Sequence[Tensor], features: Sequence[Tensor], labels: Tensor) -> dict[str, Tensor]:
        terms = {}
        if self.id_weight:
            terms["id"] = self.id_weight * _sum(self._identity(score, labels) for score in scores)
        if self.triplet_weight:
            terms["triplet"] = self.triplet_weight * _sum(self.triplet(f, labels) for f in features)
        if self.center_weight and self.center is not None:
            terms["center"] = weighted_center(self.center, self.center_weight, features[:2][-1], labels)
        return terms

    def _identity(self, score: Tensor, labels: Tensor) -> Tensor:
        logits = score if self.margin_head is None else self.margin_head(score, labels)
        return self.cross_entropy(logits, labels)


def make_loss(cfg: CfgNode, num_classes: int, feat_dim: int) -> Criterion:
    """ID, triplet and center loss as configured.

    DATALOADER.SAMPLER chooses the terms: ``softmax`` has no triplet loss, since a shuffled batch may hold no
    pairs; ``triplet`` has no ID loss. The center loss is on if MODEL.METRIC_LOSS_TYPE names it or
    MODEL.IF_WITH_CENTER is yes, under any sampler.

    Args:
        cfg: the whole configuration.
        num_classes: C, training identities.
        feat_dim: D, width of the final feature, on which the center loss acts.
    """
    model, stage, sampler = cfg.MODEL, cfg.SOLVER.STAGE2, cfg.DATALOADER.SAMPLER
    with_id = sampler != "triplet"
    with_triplet = sampler != "softmax" and "triplet" in model.METRIC_LOSS_TYPE
    center_on = "center" in model.METRIC_LOSS_TYPE or model.IF_WITH_CENTER == "yes"
    # Without a weight its optimizer would never see a gradient.
    with_center = center_on and stage.CENTER_LOSS_WEIGHT > 0
    return Criterion(
        id_weight=model.ID_LOSS_WEIGHT if with_id else 0.0,
        triplet_weight=model.TRIPLET_LOSS_WEIGHT if with_triplet else 0.0,
        label_smoothing=0.1 if model.IF_LABELSMOOTH == "on" else 0.0,
        margin=None if model.NO_MARGIN else cfg.SOLVER.MARGIN,
        id_type=model.ID_LOSS_TYPE,
        cosine_scale=stage.COSINE_SCALE,
        cosine_margin=stage.COSINE_MARGIN,
        center=CenterLoss(num_classes, feat_dim) if with_center else None,
        center_weight=stage.CENTER_LOSS_WEIGHT,
        triplet_norm=model.TRIPLET_NORM,
    )


def _margin_head(id_type: str, scale: float, margin: float) -> MarginHead | None:
    if id_type == "softmax":
        return None
    require_choice("MODEL.ID_LOSS_TYPE", id_type, ("softmax", *MARGIN_HEADS))
    return MARGIN_HEADS[id_type](scale, margin)


def _sum(losses: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(losses)).sum()
