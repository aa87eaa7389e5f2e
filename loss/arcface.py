"""Margin heads: make the cosine of the true class harder before cross-entropy.

Each head turns the cosine scores of the model's classifier into logits; the classifier itself needs no
labels. In all of them B is the batch and C the number of classes: cosine [B, C] in [-1, 1], labels [B] ->
logits [B, C].
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.compute.precision import full_precision

MIN_SINE_SQUARED = 1e-6
"""Below this the sine is constant: a feature exactly on its class weight would get an infinite gradient."""


class MarginHead(nn.Module):
    """Base class of the heads: a scale s of the logits and a margin m of the true class."""

    def __init__(self, scale: float, margin: float) -> None:
        super().__init__()
        self.scale = scale
        self.margin = margin


class ArcFace(MarginHead):
    r"""Angular margin: :math:`s \cos(\theta + m)` for the true class, :math:`s \cos\theta` for the others.

    Reference: Deng et al., arXiv 1801.07698, Eq. 3. Past :math:`\theta = \pi - m`, where the cosine would
    rise again, the true class gets :math:`s (\cos\theta - m \sin(\pi - m))`.

    Args:
        scale: s.
        margin: m in radians.
        easy_margin: apply the margin only where the cosine is positive.
        ls: share of the label that is spread evenly over all classes; it mixes margin and plain logits.
    """

    def __init__(self, scale: float = 30.0, margin: float = 0.5, easy_margin: bool = False, ls: float = 0.0) -> None:
        super().__init__(scale, margin)
        self.easy_margin = easy_margin
        self.ls = ls

    @full_precision
    def forward(self, cosine: Tensor, labels: Tensor) -> Tensor:
        num_classes = cosine.shape[1]
        label = F.one_hot(labels, num_classes).to(cosine) * (1 - self.ls) + self.ls / num_classes
        return self.scale * (label * self._with_margin(cosine) + (1 - label) * cosine)

    def _with_margin(self, cosine: Tensor) -> Tensor:
        sine = (1 - cosine.square()).clamp(min=MIN_SINE_SQUARED).sqrt()
        shifted = cosine * math.cos(self.margin) - sine * math.sin(self.margin)
        if self.easy_margin:
            return torch.where(cosine > 0, shifted, cosine)
        beyond = cosine - self.margin * math.sin(math.pi - self.margin)
        return torch.where(cosine > math.cos(math.pi - self.margin), shifted, beyond)


class CosFace(MarginHead):
    r"""Cosine margin: :math:`s (\cos\theta - m)` for the true class, :math:`s \cos\theta` for the others.

    References: Wang et al., CosFace, arXiv 1801.09414; AM-Softmax (arXiv 1801.05599) is the same head.

    Args:
        scale: s.
        margin: m, a difference of cosines.
    """

    def __init__(self, scale: float = 30.0, margin: float = 0.3) -> None:
        super().__init__(scale, margin)

    @full_precision
    def forward(self, cosine: Tensor, labels: Tensor) -> Tensor:
        return self.scale * (cosine - self.margin * F.one_hot(labels, cosine.shape[1]).to(cosine))


AMSoftmax = CosFace
"""The same formula under its other name."""


class CircleLoss(MarginHead):
    r"""Self-paced logits: the farther a cosine is from its optimum, the more it weighs.

    :math:`s\,[1 + m - \cos\theta]_+ (\cos\theta - 1 + m)` for the true class and
    :math:`s\,[\cos\theta + m]_+ (\cos\theta - m)` for the others; the weights in brackets get no gradient.
    Reference: Sun et al., arXiv 2002.10857, in the form with class labels.

    Args:
        scale: s, the paper's :math:`\gamma`.
        margin: m; cosines of 1 - m (true class) and m (others) are the aim, so a smaller m is stricter.
    """

    def __init__(self, scale: float = 256.0, margin: float = 0.25) -> None:
        super().__init__(scale, margin)

    @full_precision
    def forward(self, cosine: Tensor, labels: Tensor) -> Tensor:
        fixed = cosine.detach()
        positive = F.relu(1 + self.margin - fixed) * (cosine - 1 + self.margin)
        negative = F.relu(fixed + self.margin) * (cosine - self.margin)
        return self.scale * torch.where(F.one_hot(labels, cosine.shape[1]).bool(), positive, negative)


MARGIN_HEADS: dict[str, type[MarginHead]] = {
    "arcface": ArcFace,
    "cosface": CosFace,
    "amsoftmax": AMSoftmax,
    "circle": CircleLoss,
}
"""From the name in MODEL.ID_LOSS_TYPE to the head."""
