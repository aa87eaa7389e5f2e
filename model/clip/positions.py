"""Position embeddings for another grid of patches than that of their training.

A table of 1 + h w rows does not show its grid: 128 rows behind the first are 16 x 8 or 8 x 16 patches. Checkpoints of
this project record it, CLIP's own pre-training is square, and for other files the configuration has to say it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.errors import ReIDError

Grid = tuple[int, int]
"""Rows and columns of patches, or of a ResNet's last map."""
KEY = "MODEL.POSITION_GRID"
UNKNOWN = (0, 0)
"""Value of :data:`KEY` where the configuration does not say the grid."""


def resize_positions(table: Tensor, grid: Grid, source: Grid | None = None) -> Tensor:
    """Position embeddings [1 + h w, D] of the grid ``source`` for another ``grid``: bilinear, half-pixel centres.

    Row 0 belongs to the class token (or the mean) and is copied. Without ``source`` the table is square.
    """
    source = source or pretraining_grid(len(table) - 1)
    if source == grid:
        return table
    old = table[1:].float().reshape(1, *source, -1).permute(0, 3, 1, 2)
    new = F.interpolate(old, size=grid, mode="bilinear", align_corners=False)
    return torch.cat([table[:1].float(), new.permute(0, 2, 3, 1).flatten(1, 2)[0]])


def pretraining_grid(count: int) -> Grid:
    """The grid of ``count`` patches in CLIP's own weights, which are for square images.

    Raises:
        ReIDError: ``count`` is no square number.
    """
    side = math.isqrt(count)
    if side * side != count:
        raise ReIDError(f"the position embeddings are of {count} patches; CLIP's own weights are for square images.")
    return side, side


class KnownGrid(NamedTuple):
    """What is known of the grid that a checkpoint of re-identification was trained with.

    Attributes:
        recorded: by the checkpoint itself, if it is one of this project.
        stated: by ``MODEL.POSITION_GRID``, for files without a record.
    """

    recorded: Grid | None = None
    stated: Grid | None = None

    @classmethod
    def of(cls, record: Mapping[str, Any], stated: Sequence[int] = UNKNOWN) -> KnownGrid:
        """From the record of a file (:class:`model.clip.weights.StateDict`) and the configuration."""
        found = record.get("grid")
        pair = isinstance(found, list) and len(found) == 2 and all(isinstance(number, int) for number in found)
        return cls((found[0], found[1]) if pair else None, (stated[0], stated[1]) if any(stated) else None)

    def source(self, count: int, target: Grid) -> Grid:
        """The grid of ``count`` patches.

        A file without a record whose count is that of the configured images is taken to be trained with these, unless
        they are wider than high: published checkpoints are for high or square images.

        Args:
            count: rows of the table but the first.
            target: grid of the configured images.

        Raises:
            ReIDError: the grid is unknown, or ``MODEL.POSITION_GRID`` is one of another number of patches.
        """
        if self.recorded and math.prod(self.recorded) == count:
            return self.recorded
        if self.stated and math.prod(self.stated) == count:
            return self.stated
        if not self.stated and count == math.prod(target) and target[0] >= target[1]:
            return target
        raise ReIDError(_question(count, self.stated))


def _question(count: int, stated: Grid | None) -> str:
    possible = [(count // columns, columns) for columns in range(1, count + 1) if count % columns == 0]
    likely = sorted((grid for grid in possible if max(grid) <= 4 * min(grid)), key=lambda grid: max(grid) / min(grid))
    choices = ", ".join(f"[{rows}, {columns}]" for rows, columns in (likely or possible)[:6])
    if stated:
        return f"{KEY} = {list(stated)}: the file's position embeddings are of {count} patches: {choices}."
    return (
        f"the file's position embeddings are of {count} patches, and it does not record their rows and columns. Set "
        f"{KEY} to those of its training, one of {choices}: image size divided by the patches' step, such as [16, 8] "
        "for 256 x 128 pixels."
    )


def resized_table(table: Tensor, grid: Grid, source: Grid | None = None) -> tuple[Tensor, str]:
    """:func:`resize_positions` of [1 + h w, D] or [1, 1 + h w, D], and what was done in words, empty for nothing."""
    rows = table.flatten(0, -2)
    source = source or pretraining_grid(len(rows) - 1)
    new = resize_positions(rows, grid, source).reshape(*table.shape[:-2], -1, table.shape[-1])
    patches = f"{source[0]} x {source[1]} patches -> {grid[0]} x {grid[1]}"
    return new, f"{list(table.shape)} -> {list(new.shape)}, {patches}" if source != grid else ""
