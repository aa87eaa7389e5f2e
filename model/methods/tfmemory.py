"""TF-CLIP's memory bank (Yu et al., AAAI 2024, arXiv 2312.09627): mean visual features take the place of texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from loss import identity_means
from model.backbones.base import Backbone, Outputs
from model.base import DataFacts, Progress, Terms, TrainingSet
from model.layers.heads import accuracy
from model.methods.baseline import ImageReID

if TYPE_CHECKING:
    from yacs.config import CfgNode


class TFMemory(ImageReID):
    """:class:`ImageReID` guided by the features of CLIP's own image encoder before its training.

    For each identity the mean of the projected features of its images takes the place of CLIP-ReID's text feature in
    :math:`L_{i2tce}`, and never changes. So there are no prompts, no text encoder and no stage 1. TF-CLIP's other parts
    are for videos and are left out.

    Args:
        weight, label_smoothing: of the cross-entropy with the memory bank.
        other arguments: see :class:`ImageReID`.

    Attributes:
        memory: [C, E]; zeros until training begins. Checkpoints keep it, since the trained encoder cannot recompute it.
    """

    backbones = ("clip",)
    identity_bound = (*ImageReID.identity_bound, "memory")

    @classmethod
    def own_losses(cls, cfg: CfgNode) -> tuple[str, ...]:
        return ("I2T_LOSS_WEIGHT",)

    @classmethod
    def options(cls, cfg: CfgNode, backbone: Backbone, facts: DataFacts, training: bool) -> dict[str, Any]:
        smoothing = 0.1 if cfg.MODEL.IF_LABELSMOOTH == "on" else 0.0
        return {"weight": cfg.MODEL.I2T_LOSS_WEIGHT, "label_smoothing": smoothing}

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        weight: float = 1.0,
        label_smoothing: float = 0.1,
        **options: Any,
    ) -> None:
        super().__init__(backbone, num_classes, **options)
        self.weight = weight
        self.label_smoothing = label_smoothing
        self.register_buffer("memory", torch.zeros(num_classes, backbone.dims["projected"]))

    def begin_epoch(self, data: TrainingSet, at: Progress) -> None:
        if at.epoch == 1:
            features, labels = data.features(lambda outputs: outputs["projected"], side=False)
            self.memory.copy_(identity_means(features, labels, self.num_classes))

    def losses(self, outputs: Outputs, labels: Tensor, at: Progress) -> tuple[Terms, Terms]:
        terms, shown = super().losses(outputs, labels, at)
        logits = outputs["projected"] @ self.memory.T
        if self.weight:
            terms["i2t"] = self.weight * F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        return terms, shown | {"memory accuracy": accuracy(logits, labels)}
