"""InfoNCE between two images of the same identity, or an image and its sentence: CLIP's own loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.compute.precision import full_precision


@full_precision
def info_nce(
    queries: Tensor, gallery: Tensor, log_scale: Tensor, smoothing: float = 0.0, groups: Tensor | None = None
) -> Tensor:
    r"""Mean of both directions' cross-entropy; row i of one side belongs to row i of the other.

    With cosines :math:`Z = e^s \hat q \hat g^T` it is
    :math:`\frac12 (CE(Z, (1..n)) + CE(Z^T, (1..n)))` (Radford et al., arXiv 2103.00020, figure 3).

    Args:
        queries, gallery: [n, D].
        log_scale: s, a scalar.
        smoothing: of the labels.
        groups: [n]; a row belongs to all rows of its group on the other side, in equal shares. None: to its own alone.
    """
    logits = log_scale.exp() * F.normalize(queries) @ F.normalize(gallery).t()
    own = torch.arange(len(logits), device=logits.device)
    if groups is not None:
        same = (groups[:, None] == groups).to(logits.dtype)
        own = same / same.sum(1, keepdim=True)
    return sum(F.cross_entropy(z, own, label_smoothing=smoothing) for z in (logits, logits.t())) / 2
