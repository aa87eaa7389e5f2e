"""Supervised contrastive loss between images and texts: stage 1 of CLIP-ReID."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from utils.compute.precision import full_precision
from utils.errors import ReIDError


class SupConLoss(nn.Module):
    r"""Pull every anchor towards all candidates that share its label.

    With anchors :math:`a_i`, candidates :math:`c_j` and :math:`P(i)` the candidates labelled like anchor i:

    .. math:: L = -\frac{1}{N} \sum_i \frac{1}{|P(i)|} \sum_{p \in P(i)}
              \log \frac{\exp(a_i \cdot c_p / \tau)}{\sum_j \exp(a_i \cdot c_j / \tau)}

    This is :math:`L_{i2t}` of CLIP-ReID (arXiv 2211.13977) with images as anchors and :math:`L_{t2i}` with
    texts; it follows Khosla et al. (arXiv 2004.11362). Features are taken as they come, not normalised. An
    anchor without any positive is left out of the mean.

    Args:
        temperature: :math:`\tau`; 1 in CLIP-ReID.
        reduction: over an anchor's positives: ``mean``, or ``sum`` without the factor :math:`1 / |P(i)|`.

    Shape:
        anchors [N, E], candidates [M, E], anchor_labels [N], candidate_labels [M] -> scalar, float32 or
        float64.

    Raises:
        ReIDError: no anchor has a positive. The mean over no anchors does not exist; 0 would pass for a
        perfect fit.
    """

    def __init__(self, temperature: float = 1.0, reduction: str = "mean") -> None:
        super().__init__()
        self.temperature = temperature
        self.reduction = reduction

    @full_precision
    def forward(self, anchors: Tensor, candidates: Tensor, anchor_labels: Tensor, candidate_labels: Tensor) -> Tensor:
        log_prob = torch.log_softmax(anchors @ candidates.t() / self.temperature, dim=1)
        positive = anchor_labels[:, None] == candidate_labels
        count = positive.sum(dim=1)
        anchors_used = count.count_nonzero()
        if anchors_used == 0:
            raise ReIDError(
                f"SupConLoss: none of the {len(anchor_labels)} anchors shares its label with any of the "
                f"{len(candidate_labels)} candidates; the candidates must hold each anchor's own identity."
            )
        per_anchor = log_prob.masked_fill(~positive, 0).sum(dim=1)
        if self.reduction == "mean":
            per_anchor = per_anchor / count.clamp(min=1)
        return -per_anchor.sum() / anchors_used


SupContrast = SupConLoss
"""The name in the published code."""
