"""Position embeddings for another grid of patches than that of their pre-training."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_positions(table: Tensor, grid: tuple[int, int], source: tuple[int, int] | None = None) -> Tensor:
    """TrainingProgress embeddings [1 + h w, D] for another ``grid`` of patches: bilinear, half-pixel centres.

    Row 0 belongs to the class token (or the mean) and is copied. Without ``source`` the old grid is taken to be
    square, or as near to twice as high as wide as the count allows (the person images of CLIP-ReID).
    """
    source = source or guess_grid(len(table) - 1)
    if source == grid:
        return table
    old = table[1:].float().reshape(1, *source, -1).permute(0, 3, 1, 2)
    new = F.interpolate(old, size=grid, mode="bilinear", align_corners=False)
    return torch.cat([table[:1].float(), new.permute(0, 2, 3, 1).flatten(1, 2)[0]])


def guess_grid(count: int) -> tuple[int, int]:
    """Rows and columns of ``count`` patches: square if that is possible, else about twice as high as wide."""
    side = math.isqrt(count)
    if side * side == count:
        return side, side
    columns = [c for c in range(1, count + 1) if count % c == 0]
    best = min(columns, key=lambda c: round(abs(math.log(count / c / c / 2)), 9))  # of equals the higher one
    return count // best, best
