"""What convolutional networks have in common, whose feature is made of the mean of their last map."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.backbones.base import Backbone
from model.backbones.saliency import CONTRIBUTIONS, contributions, scaled


class ConvolutionalBackbone(Backbone):
    """A backbone with the outputs ``map`` [B, D, h, w] and ``feature``."""

    saliency_kind = CONTRIBUTIONS

    def initialise(self, mode: str = "fan_out") -> None:
        """Random weights for ReLU (He et al. 2015) in all convolutions, their biases 0; ``mode`` as torch names it."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def pooled(self, maps: Tensor) -> Tensor:
        """Maps [B, D, h, w] -> ``feature`` [B, F], here their mean."""
        return maps.mean((2, 3))

    def saliency(self, images: Tensor, side: Tensor | None = None) -> Tensor:
        """Contributions to the feature, see :func:`model.backbones.saliency.contributions`."""
        with torch.no_grad():
            maps = self(images)["map"]
        return scaled(contributions(maps, self.pooled))
