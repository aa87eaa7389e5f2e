"""Pooling of maps in horizontal stripes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def stripe_means(maps: Tensor, stripes: int, adaptive: bool = False) -> Tensor:
    """Means over horizontal stripes of the full width: maps [B, D, h, w] -> [B, D, stripes], top stripe first.

    Where h does not divide, windows of h - (stripes - 1) floor(h / stripes) rows overlap (PCB's code), or with
    ``adaptive`` those of adaptive pooling.
    """
    if adaptive:
        return F.adaptive_avg_pool2d(maps, (stripes, 1)).squeeze(3)
    height, width = maps.shape[2:]
    step = height // stripes
    return F.avg_pool2d(maps, (height - (stripes - 1) * step, width), (step, width)).squeeze(3)


def stripe_maxima(maps: Tensor, stripes: int) -> Tensor:
    """Maxima over horizontal stripes of equal height: maps [B, D, h, w] -> [B, D, stripes], top stripe first."""
    return maps.unflatten(2, (stripes, -1)).amax(dim=(3, 4))
