"""Identity loss: cross-entropy with label smoothing."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from utils.compute.precision import full_precision


class CrossEntropyLabelSmooth(nn.Module):
    r"""Cross-entropy against :math:`q_k = (1 - \varepsilon)\,[k = y] + \varepsilon / C`, mean over the batch.

    Reference: Szegedy et al., "Rethinking the Inception Architecture", CVPR 2016.

    Args:
        epsilon: share of the target spread evenly over all classes; 0 gives plain cross-entropy.

    Shape:
        logits [B, C], labels [B] -> scalar.
    """

    def __init__(self, epsilon: float = 0.1) -> None:
        super().__init__()
        self.epsilon = epsilon

    @full_precision
    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=self.epsilon)
