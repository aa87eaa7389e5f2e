"""CBDB-Net (Tan et al., arXiv 2008.04010): each image without each of its strips in turn."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Tensor, nn

from loss import TripletLoss
from model.backbones.base import Backbone, Outputs
from model.backbones.resnet import ResNet
from model.base import Batch, DataFacts, Progress, Terms
from model.layers.heads import accuracy
from model.methods.id_triplet import IDTripletMethod
from model.methods.renaming import by_prefixes
from model.methods.requirements import loss_options
from utils.errors import ReIDError

if TYPE_CHECKING:
    from yacs.config import CfgNode


class CBDBNet(IDTripletMethod):
    """ResNet whose map of layer3 is repeated, each time without one horizontal strip, behind which all is shared.

    A test reads the complete map.

    Args:
        backbone: with last stride 1.
        identities: C.
        strips: m, into which the map is cut.
        whole: drop whole strips, as in the paper; False leaves each strip's last quarter, as the released code.
        reduced: channels of the feature.
        elastic: weights of the elastic loss on the distances of the triplet loss.
        extra_weight: of a second soft-margin triplet loss, which the released code has.
        losses: see :class:`IDTripletMethod`; the weights are of the sums over the strips.
    """

    identity_bound: ClassVar[tuple[str, ...]] = ("classifier.",)

    def __init__(
        self,
        backbone: ResNet,
        identities: int,
        *,
        strips: int = 6,
        whole: bool = False,
        reduced: int = 512,
        elastic: bool = False,
        extra_weight: float = 1e-5,
        **losses: float | None,
    ) -> None:
        super().__init__(backbone, **losses)
        self.strips, self.whole, self.extra_weight = strips, whole, extra_weight
        width = backbone.dims["map"]
        convolution, norm = nn.Conv2d(width, reduced, 1), nn.BatchNorm2d(reduced)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_in")
        nn.init.zeros_(convolution.bias)
        nn.init.normal_(norm.weight, 1, 0.02)
        self.reduction = nn.Sequential(convolution, norm, nn.ReLU())
        self.classifier = nn.Linear(reduced, identities)
        nn.init.kaiming_normal_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)
        if elastic:
            self.triplet = ElasticTripletLoss(self.triplet.margin)
        self.soft_triplet = TripletLoss(None)

    @classmethod
    def check(cls, cfg: CfgNode) -> None:
        super().check(cfg)
        rows, strips = -(-cfg.INPUT.SIZE_TRAIN[0] // 16), cfg.MODEL.CBDB_NET.STRIPS
        if not 2 <= strips <= rows:
            raise ReIDError(
                f"MODEL.CBDB_NET.STRIPS = {strips} with INPUT.SIZE_TRAIN = {cfg.INPUT.SIZE_TRAIN}: the map has {rows} "
                f"rows, so it can lose one of 2 to {rows} strips."
            )

    @classmethod
    def build(cls, cfg: CfgNode, backbone: Backbone, facts: DataFacts, training: bool) -> Self:
        own = cfg.MODEL.CBDB_NET
        return cls(
            backbone,
            facts.identities,
            strips=own.STRIPS,
            whole=own.DROP == "whole",
            reduced=own.REDUCED,
            elastic=own.ELASTIC,
            extra_weight=own.EXTRA_WEIGHT,
            **loss_options(cfg),
        )

    def forward(self, batch: Batch, at: Progress | None = None) -> Outputs:
        """``complete`` [B, D] and in training ``dropped`` [B, D, m]; the complete map passes layer4 first."""
        encoder = self.image_encoder
        x = encoder.third(batch.images)
        outputs = {"complete": encoder.layer4(x).mean((2, 3))}
        if at is not None:
            kept = rows_kept(x.shape[2], self.strips, self.whole).to(x)[..., None]
            outputs["dropped"] = torch.stack([encoder.layer4(x * rows).mean((2, 3)) for rows in kept], dim=2)
        return outputs

    def reduce(self, pooled: Tensor) -> Tensor:
        """Pooled vectors [B, D] -> features [B, R]."""
        return self.reduction(pooled[..., None, None]).flatten(1)

    def losses(self, outputs: Outputs, labels: Tensor, at: Progress) -> tuple[Terms, Terms]:
        """``id``, ``triplet`` and ``extra``: sums over the strips.

        The reduction sees the complete map first: it has no loss and only moves the running statistics.
        """
        with torch.no_grad():
            self.reduce(outputs["complete"])
        features = [self.reduce(pooled) for pooled in outputs["dropped"].unbind(2)]
        scores = [self.classifier(feature) for feature in features]
        terms = {
            "id": self.id_weight * torch.stack([self.cross_entropy(score, labels) for score in scores]).sum(),
            "triplet": self.triplet_weight * torch.stack([self.triplet(f, labels) for f in features]).sum(),
        }
        if self.extra_weight:
            extra = torch.stack([self.soft_triplet(feature, labels) for feature in features]).sum()
            terms["extra"] = self.extra_weight * extra
        return terms, {"accuracy": accuracy(torch.stack(scores).sum(0), labels)}

    def embed(self, outputs: Outputs) -> Tensor:
        return self.reduce(outputs["complete"])

    @classmethod
    def rename(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Names of the released code; its unused layers are dropped."""
        return by_prefixes(state, _NAMES, _UNUSED)


_NAMES = {
    "backbone0.0.": "image_encoder.conv1.",
    "backbone0.1.": "image_encoder.bn1.",
    "backbone1.1.": "image_encoder.layer1.",
    "backbone2.0.": "image_encoder.layer2.",
    "backbone3.0.": "image_encoder.layer3.",
    "res_part.": "image_encoder.layer4.",
    "global_reduction.": "reduction.",
    "global_softmax.": "classifier.",
}
_UNUSED = ("res_part2.", "res_part3.", "global_softmax1.", "CNN_LOW.", "global_reduction1.", "layer_norm.")


def rows_kept(height: int, strips: int, whole: bool) -> Tensor:
    """Rows [m, h] that stay when each strip is dropped: 1 or 0.

    Strip i has the rows from round(h (i - 1) / m) to round(h i / m); without ``whole`` the last quarter of them,
    rounded down, stays.
    """
    kept = torch.ones(strips, height)
    edges = [round(height * i / strips) for i in range(strips + 1)]
    for strip, (top, bottom) in enumerate(pairwise(edges)):
        kept[strip, top : bottom if whole else bottom - (bottom - top) // 4] = 0
    return kept


class ElasticTripletLoss(TripletLoss):
    r"""Triplet loss whose hardest distances are weighted by the batch's extremes.

    :math:`d_{ap}` is multiplied by :math:`\frac{\max d_{ap}}{\max d_{ap} + 1}` and :math:`d_{an}` by
    :math:`\frac{\min d_{an}}{\min d_{an} + 1}`, with gradients through both factors. This is the form in the released
    code; the paper's own formula could not be read.
    """

    def hardest_distances(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        dist_ap, dist_an = super().hardest_distances(features, labels)
        # 1 - 1/(d + 1) stays finite where a batch has no negatives.
        return (1 - 1 / (dist_ap.max() + 1)) * dist_ap, (1 - 1 / (dist_an.min() + 1)) * dist_an
