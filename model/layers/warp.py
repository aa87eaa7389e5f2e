"""Maps of a photograph's pixels, brought to the image as it was augmented."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def warped_labels(labels: Tensor, geometry: Tensor, erased: Tensor) -> Tensor:
    """Labels of a photograph's cells -> of the cells of its augmented image; what the photograph does not show is 0.

    Args:
        labels: not negative, [B, h, w] of any integers.
        geometry: from places in the augmented image to those in the photograph [B, 2, 3]: both are -1 at the left or
            upper edge and 1 at the right or lower one, as :func:`torch.nn.functional.affine_grid` has them.
        erased: rectangle whose labels become 0 [B, 4]: top, left, bottom and right in shares of height and width.
    """
    grid = F.affine_grid(geometry, [len(labels), 1, *labels.shape[1:]], align_corners=False)
    # float32 holds integers up to 2^24.
    moved = F.grid_sample(labels[:, None].to(geometry.dtype), grid, mode="nearest", align_corners=False)[:, 0]
    height, width = labels.shape[1:]
    row, column = ((torch.arange(n, device=labels.device) + 0.5) / n for n in (height, width))
    top, left, bottom, right = erased[..., None].unbind(1)
    rows, columns = (row >= top) & (row < bottom), (column >= left) & (column < right)
    return moved.masked_fill(rows[:, :, None] & columns[:, None], 0).to(labels.dtype)
