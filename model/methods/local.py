"""A global feature with local ones beside it, each with a BNNeck and a classifier of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from model.backbones.base import Backbone, Outputs
from model.base import Progress, Terms
from model.layers.heads import make_classifier, make_neck
from model.methods.baseline import ImageReID


class LocalReID(ImageReID):
    """:class:`ImageReID` with ``local`` [B, P, D] among its outputs, for methods that find features of parts.

    Each term of the loss is w of the global feature's and 1 - w of the mean over the local ones.

    Args:
        backbone: pre-trained.
        num_classes: C.
        parts: P; 0 makes it :class:`ImageReID`.
        global_weight: w.
        divide: divide the local features by P in the test feature.
        other arguments: see :class:`ImageReID`.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        parts: int,
        global_weight: float = 0.5,
        divide: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(backbone, num_classes, **options)
        self.parts, self.global_weight, self.divide = parts, global_weight, divide
        for part in range(1, parts + 1):
            self.add_module(f"classifier_{part}", make_classifier(backbone.dims["feature"], num_classes))
            self.add_module(f"bottleneck_{part}", make_neck(backbone.dims["feature"]))

    def losses(self, outputs: Outputs, labels: Tensor, at: Progress) -> tuple[Terms, Terms]:
        whole, shown = super().losses(outputs, labels, at)
        if not self.parts:
            return whole, shown
        features = outputs["local"].unbind(1)
        scores = [self._head("classifier", k)(neck) for k, neck in enumerate(self._behind_necks(features), 1)]
        local = self.criterion(scores, features, labels)
        return weighted(whole, local, self.parts, self.global_weight), shown

    def embed(self, outputs: Outputs) -> Tensor:
        """[global, local] [B, (1 + P) D]."""
        whole = super().embed(outputs)
        if not self.parts:
            return whole
        local = [feature.float() for feature in outputs["local"].unbind(1)]
        if self.neck_feat == "after":
            local = self._behind_necks(local)
        factor = 1 / self.parts if self.divide else 1.0
        return torch.cat([whole, *(factor * feature for feature in local)], dim=1)

    def _behind_necks(self, features: list[Tensor] | tuple[Tensor, ...]) -> list[Tensor]:
        return [self._head("bottleneck", k)(feature) for k, feature in enumerate(features, 1)]

    def _head(self, kind: str, part: int) -> nn.Module:
        return self.get_submodule(f"{kind}_{part}")


def weighted(whole: Terms, local: Terms, parts: int, global_weight: float) -> Terms:
    """Terms of the global feature and sums over the local ones -> w of the former and 1 - w of the latter's mean."""
    return {name: global_weight * term + (1 - global_weight) * local[name] / parts for name, term in whole.items()}
