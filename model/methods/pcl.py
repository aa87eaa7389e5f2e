"""PCL-CLIP (Li and Gong, arXiv 2310.17218): images are contrasted with a prototype of each identity, without text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from loss import identity_means, moved_prototypes, prototype_contrast
from model.backbones.base import Backbone, Outputs
from model.base import DataFacts, Progress, Rate, Terms, TrainingSet
from model.layers.heads import accuracy
from model.methods.baseline import ImageReID
from utils.errors import ReIDError

if TYPE_CHECKING:
    from yacs.config import CfgNode


class PCL(ImageReID):
    """:class:`ImageReID` with prototypical contrastive learning.

    The feature is what a test reads behind the necks, image and projected feature side by side; the ID loss is that of
    one classifier over both, whose scores are the sum of the two classifiers'.

    Args:
        weight: of the contrast.
        momentum: share of an old prototype that is kept when a batch moves it.
        temperature: of the contrast.
        rebuild: compute the prototypes from all images before each epoch, as the published code does, and not only
            before the first.
        freeze_patches: keep the ViT's patch convolution as pre-trained (Chen et al., arXiv 2104.02057).
        other arguments: see :class:`ImageReID`.

    Attributes:
        memory: the memory bank, prototypes of length 1 [C, D + E]; zeros until training begins.
    """

    backbones = ("clip",)
    identity_bound = (*ImageReID.identity_bound, "memory")

    @classmethod
    def own_losses(cls, cfg: CfgNode) -> tuple[str, ...]:
        return ("MEMORY_LOSS_WEIGHT",)

    @classmethod
    def check(cls, cfg: CfgNode) -> None:
        super().check(cfg)
        if cfg.MODEL.ID_LOSS_TYPE != "softmax":
            raise ReIDError(
                f"MODEL.ID_LOSS_TYPE = {cfg.MODEL.ID_LOSS_TYPE} with MODEL.METHOD pcl, which adds up the scores of two "
                "classifiers: sums of cosines are no cosines. Set it to softmax."
            )
        if cfg.MODEL.FREEZE_PATCHES and not cfg.MODEL.NAME.startswith("ViT"):
            raise ReIDError(
                f"MODEL.FREEZE_PATCHES with MODEL.NAME = {cfg.MODEL.NAME}: only ViTs have patches. Set it to False."
            )

    @classmethod
    def options(cls, cfg: CfgNode, backbone: Backbone, facts: DataFacts, training: bool) -> dict[str, Any]:
        return {
            "weight": cfg.MODEL.MEMORY_LOSS_WEIGHT,
            "momentum": cfg.MODEL.MEMORY_MOMENTUM,
            "temperature": cfg.MODEL.MEMORY_TEMPERATURE,
            "rebuild": cfg.MODEL.MEMORY_REBUILD,
            "freeze_patches": cfg.MODEL.FREEZE_PATCHES,
        }

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        weight: float = 1.0,
        momentum: float = 0.2,
        temperature: float = 0.05,
        rebuild: bool = True,
        freeze_patches: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(backbone, num_classes, **options)
        self.weight = weight
        self.momentum = momentum
        self.temperature = temperature
        self.rebuild = rebuild
        self.freeze_patches = freeze_patches
        self.register_buffer("memory", torch.zeros(num_classes, sum(backbone.dims[name] for name in self.tested)))

    def begin_epoch(self, data: TrainingSet, at: Progress) -> None:
        """The prototypes: mean of each identity's features of length 1, brought to length 1 itself."""
        if self.rebuild or at.epoch == 1:
            means = identity_means(*data.features(lambda outputs: self._joined(self.necks(outputs))), self.num_classes)
            self.memory.copy_(F.normalize(means))

    def rate(self, name: str, stage: int, solver: CfgNode) -> Rate | None:
        frozen = self.freeze_patches and name.startswith("image_encoder.conv1.")
        return None if frozen else super().rate(name, stage, solver)

    def losses(self, outputs: Outputs, labels: Tensor, at: Progress) -> tuple[Terms, Terms]:
        necks = self.necks(outputs)
        scores = self.classifier(necks[0]) + self.classifier_proj(necks[1])
        terms = self.criterion([scores], [outputs[name] for name in self.compared], labels)
        joined = self._joined(necks)
        # The batch is compared with the memory bank before its update; a copy, since the gradient needs it again.
        contrast = prototype_contrast(joined, self.memory.clone(), labels, self.temperature)
        self.memory.copy_(moved_prototypes(self.memory, joined, labels, self.momentum))
        return terms | {"pcl": self.weight * contrast}, {"accuracy": accuracy(scores, labels)}

    @staticmethod
    def _joined(necks: list[Tensor]) -> Tensor:
        return F.normalize(torch.cat(necks, dim=1))
