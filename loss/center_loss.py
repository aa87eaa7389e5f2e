"""Center loss: every identity has a learned center to which its features are drawn."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from utils.compute.precision import full_precision


def weighted_center(center: CenterLoss, weight: float, features: Tensor, labels: Tensor) -> Tensor:
    """The loss, weighted in value and for the features; the centers get the gradient of the unweighted loss.

    So the centers follow at their own rate, whatever the weight (Wen et al., ECCV 2016, algorithm 1).
    """
    weighted = weight * center(features, labels)
    following = center(features.detach(), labels)
    return weighted + (1 - weight) * (following - following.detach())


class CenterLoss(nn.Module):
    r"""Mean over the batch of :math:`\lVert x_i - c_{y_i} \rVert^2`, clamped to [1e-12, 1e12].

    Reference: Wen et al., "A Discriminative Feature Learning Approach for Deep Face Recognition", ECCV 2016,
    Eq. 2, without its factor 1/2, as the re-identification baselines use it.

    Args:
        num_classes: C.
        feat_dim: D.

    Shape:
        features [B, D], labels [B] -> scalar. The parameter ``centers`` is [C, D], drawn from a standard
        normal.
    """

    def __init__(self, num_classes: int, feat_dim: int) -> None:
        super().__init__()
        self.centers = nn.Parameter(torch.randn(num_classes, feat_dim))

    @full_precision
    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        return (features - self.centers[labels]).square().sum(dim=1).clamp(1e-12, 1e12).mean()
