"""Triplet loss with hard example mining inside the batch (Hermans et al., arXiv 1703.07737)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.compute.precision import full_precision


def euclidean_dist(x: Tensor, y: Tensor) -> Tensor:
    """Distances between rows of x [N, D] and y [M, D]: [N, M], at least 1e-6 to keep gradients finite."""
    squares = x.square().sum(dim=1)[:, None] + y.square().sum(dim=1)
    return (squares - 2 * x @ y.t()).clamp(min=1e-12).sqrt()


def cosine_dist(x: Tensor, y: Tensor) -> Tensor:
    """(1 - cosine) / 2 between rows of x [N, D] and y [M, D]: [N, M], in [0, 1]."""
    return (1 - F.normalize(x) @ F.normalize(y).t()) / 2


class HardExamples(NamedTuple):
    """Distance and row in the batch of each anchor's hardest positive and negative, all [N]."""

    dist_ap: Tensor
    dist_an: Tensor
    p_inds: Tensor
    n_inds: Tensor


def hard_example_mining(dist: Tensor, labels: Tensor) -> HardExamples:
    """The farthest item with the anchor's label and the nearest item with another one.

    The anchor itself counts as a positive, so the positive of an identity's only image is the image itself, at a
    distance of about 0. Without any other identity in the batch ``dist_an`` is infinite. Identities may have different
    numbers of images.

    Args:
        dist: distances of all pairs, [N, N].
        labels: [N].
    """
    same = labels[:, None] == labels
    dist_ap, p_inds = dist.masked_fill(~same, -torch.inf).max(dim=1)
    dist_an, n_inds = dist.masked_fill(same, torch.inf).min(dim=1)
    return HardExamples(dist_ap, dist_an, p_inds, n_inds)


class TripletLoss(nn.Module):
    r"""Mean over anchors of :math:`\max(0, d_{ap} - d_{an} + m)`, or :math:`\log(1 + e^{d_{ap} - d_{an}})`.

    A batch with a single identity has no negatives: it gives 0, with gradient 0.

    Args:
        margin: m in units of the distance; None for the soft margin, the second formula.
        hard_factor: h in [0, 1); :math:`d_{ap}` is multiplied by 1 + h and :math:`d_{an}` by 1 - h.
        normalize_feature: divide the features by their L2 norm first.

    Shape:
        features [N, D], labels [N] -> scalar.
    """

    def __init__(self, margin: float | None = None, hard_factor: float = 0.0, normalize_feature: bool = False) -> None:
        super().__init__()
        self.margin = margin
        self.hard_factor = hard_factor
        self.normalize_feature = normalize_feature

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        dist_ap, dist_an = self.hardest_distances(features, labels)
        difference = dist_ap - dist_an
        # Without a negative the difference is -inf, which both formulas turn into 0.
        return (F.softplus(difference) if self.margin is None else F.relu(difference + self.margin)).mean()

    @full_precision
    def hardest_distances(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """:math:`d_{ap}` and :math:`d_{an}` of every anchor after the hard factor, [N] each."""
        if self.normalize_feature:
            features = F.normalize(features)
        hardest = hard_example_mining(euclidean_dist(features, features), labels)
        return hardest.dist_ap * (1 + self.hard_factor), hardest.dist_an * (1 - self.hard_factor)
