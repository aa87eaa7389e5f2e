"""PCL-CLIP (Li and Gong, arXiv 2310.17218): images are contrasted with a centroid for each identity, without text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from loss import centroid_contrast, identity_means, moved_centroids
from model.clip.model import ImageFeatures
from model.methods.baseline import Collect, Guidance, ImageReID
from utils.errors import ReIDError

if TYPE_CHECKING:
    from yacs.config import CfgNode


class PCL(ImageReID):
    """:class:`ImageReID` with prototypical contrastive learning.

    The feature is what a test reads behind the necks, image and projected feature side by side; the ID loss is that of
    one classifier over both, whose scores are the sum of the two classifiers'.

    Args:
        weight: of the contrast.
        momentum: share of an old centroid that stays when a batch moves it.
        temperature: of the contrast.
        rebuild: compute the centroids anew before each epoch, as the published code does, and not only before the
            first.
        other arguments: see :class:`ImageReID`.

    Attributes:
        memory: centroids of length 1 [C, D + E]; zeros until training begins. A buffer that is saved, so that a run
            that goes on finds it.
    """

    @classmethod
    def own_losses(cls, cfg: CfgNode) -> tuple[str, ...]:
        return ("MEMORY_LOSS_WEIGHT",)

    @classmethod
    def check(cls, cfg: CfgNode) -> None:
        if cfg.MODEL.ID_LOSS_TYPE != "softmax":
            raise ReIDError(
                f"MODEL.ID_LOSS_TYPE = {cfg.MODEL.ID_LOSS_TYPE} with MODEL.METHOD pcl, which adds up the scores of two "
                "classifiers: sums of cosines are no cosines. Set it to softmax."
            )

    @classmethod
    def options(cls, cfg: CfgNode) -> dict[str, Any]:
        return {
            "weight": cfg.MODEL.MEMORY_LOSS_WEIGHT,
            "momentum": cfg.MODEL.MEMORY_MOMENTUM,
            "temperature": cfg.MODEL.MEMORY_TEMPERATURE,
            "rebuild": cfg.MODEL.MEMORY_REBUILD,
        }

    def __init__(
        self,
        *args: Any,
        weight: float = 1.0,
        momentum: float = 0.2,
        temperature: float = 0.05,
        rebuild: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self.weight = weight
        self.momentum = momentum
        self.temperature = temperature
        self.rebuild = rebuild
        width = self.classifier.in_features + self.classifier_proj.in_features
        self.register_buffer("memory", torch.zeros(self.num_classes, width))

    def prepare(self, collect: Collect, chunk: int) -> None:
        """Fill the memory if it is empty: a run that goes on finds its own."""
        if not self.rebuild and not self.memory.any():
            self._fill(collect)

    def begin_epoch(self, collect: Collect) -> None:
        if self.rebuild:
            self._fill(collect)

    def heads(self, features: ImageFeatures, texts: Tensor | None, labels: Tensor) -> tuple[list[Tensor], Guidance]:
        necks = self._necks(features)
        scores = self.classifier(necks[0]) + self.classifier_proj(necks[1])
        joined = F.normalize(torch.cat(necks, dim=1))
        # The batch is compared with the memory as it was before; a copy, since the gradient needs it again.
        contrast = centroid_contrast(joined, self.memory.clone(), labels, self.temperature)
        self.memory.copy_(moved_centroids(self.memory, joined, labels, self.momentum))
        return [scores], Guidance(terms={"pcl": self.weight * contrast})

    def _necks(self, features: ImageFeatures) -> tuple[Tensor, Tensor]:
        return self.bottleneck(features.feature), self.bottleneck_proj(features.projected)

    def _fill(self, collect: Collect) -> None:
        """Mean of each identity's features of length 1, brought to length 1 itself."""

        def encode(images: Tensor, camids: Tensor, viewids: Tensor) -> Tensor:
            features = ImageFeatures(*(part.float() for part in self.encode_image(images, camids, viewids)))
            return F.normalize(torch.cat(self._necks(features), dim=1))

        self.memory.copy_(F.normalize(identity_means(*collect(encode), self.num_classes)))
