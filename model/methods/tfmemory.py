"""TF-CLIP's memory (Yu et al., AAAI 2024, arXiv 2312.09627): mean visual features stand for the identities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from loss import identity_means
from model.clip.model import ImageFeatures
from model.methods.baseline import Collect, Guidance, ImageReID

if TYPE_CHECKING:
    from yacs.config import CfgNode


class TFMemory(ImageReID):
    """:class:`ImageReID` guided by what CLIP's own image encoder saw before it was trained.

    For each identity the mean of the projected features of its images takes the place of CLIP-ReID's text feature in
    :math:`L_{i2tce}`, and stays as it is. So there are no prompts, no text encoder and no stage 1. What TF-CLIP has
    besides is for videos and not here.

    Attributes:
        memory: [C, E]; zeros until training begins. A buffer that is saved: once the encoder has changed, nobody can
            compute it again.
    """

    @classmethod
    def own_losses(cls, cfg: CfgNode) -> tuple[str, ...]:
        return ("I2T_LOSS_WEIGHT",)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.register_buffer("memory", torch.zeros(self.num_classes, self.classifier_proj.in_features))

    def prepare(self, collect: Collect, chunk: int) -> None:
        """Fill the memory if it is empty: a run that goes on finds its own."""
        if not self.memory.any():
            self.memory.copy_(identity_means(*collect(), self.num_classes))

    def guide(self, features: ImageFeatures, texts: Tensor | None, labels: Tensor) -> Guidance:
        return Guidance(features.projected @ self.memory.T)
