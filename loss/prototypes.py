"""A prototype of each identity: means, the contrast of a batch with them, and their update by a batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.compute.precision import full_precision


def identity_means(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Mean of each identity's features [C, F], from features [N, F] and labels [N]; zeros for one without any."""
    total = features.new_zeros(num_classes, features.shape[1]).index_add(0, labels, features)
    return total / torch.bincount(labels, minlength=num_classes).clamp(min=1)[:, None]


@full_precision
def prototype_contrast(features: Tensor, prototypes: Tensor, labels: Tensor, temperature: float) -> Tensor:
    r"""Contrast each feature with the prototypes of all identities, its own being the positive.

    .. math:: L_{pcl} = -\frac{1}{B} \sum_i
              \log \frac{\exp(f_i \cdot m_{y_i} / \tau)}{\sum_c \exp(f_i \cdot m_c / \tau)}

    Args:
        features: [B, F], of length 1.
        prototypes: :math:`m` [C, F], of length 1; no gradient reaches them.
        labels: [B].
        temperature: :math:`\tau`.
    """
    return F.cross_entropy(features @ prototypes.detach().t() / temperature, labels)


@torch.no_grad()
def moved_prototypes(prototypes: Tensor, features: Tensor, labels: Tensor, momentum: float) -> Tensor:
    r"""The prototypes [C, F] after a batch; those of identities that are not in it stay.

    Each identity's moves to the image that is least like it, :math:`m \leftarrow \mu m + (1 - \mu) f`, and is brought
    back to length 1. Of images that are equally unlike it the first counts.

    Args:
        prototypes: [C, F], of length 1.
        features: [B, F], of length 1.
        labels: [B].
        momentum: :math:`\mu`, the share of the old prototype.
    """
    features = features.to(prototypes.dtype)
    identities, position = labels.unique(return_inverse=True)
    similarity = (features * prototypes[labels]).sum(dim=1)
    own = position == torch.arange(len(identities), device=labels.device)[:, None]
    hardest = similarity.masked_fill(~own, torch.inf).argmin(dim=1)
    moved = momentum * prototypes[identities] + (1 - momentum) * features[hardest]
    return prototypes.index_copy(0, identities, F.normalize(moved))
