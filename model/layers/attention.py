"""Attention over the positions or the channels of a map, with a residual connection whose weight starts at 0.

All sums run over hundreds of positions without a scale, so they are computed in full precision.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from utils.compute.precision import full_precision

POSITIONS = ("value", "axial", "none")
"""Positional terms of :class:`SpatialAttention`."""


class ChannelAttention(nn.Module):
    r"""CAM (Fu et al., DANet, arXiv 1809.02983): channels attend to the channels they are least like.

    With :math:`X` [C, HW], :math:`y = x + \gamma\, \mathrm{softmax}(-X X^T)\, X`; :math:`\gamma` starts at 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))

    @full_precision
    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] -> map of the same shape."""
        rows = x.flatten(2)
        energy = rows @ rows.transpose(1, 2)
        attention = (energy.amax(dim=-1, keepdim=True) - energy).softmax(dim=-1)
        return x + self.gamma * (attention @ rows).view_as(x)


class PositionAttention(nn.Module):
    r"""PAM (Fu et al., DANet, arXiv 1809.02983): positions attend to positions.

    With queries and keys :math:`q, k` [C/8, HW] and values :math:`v` [C, HW] from 1x1 convolutions,
    :math:`y = x + \gamma\, v\, \mathrm{softmax}(q^T k)^T`; :math:`\gamma` starts at 0 and nothing is scaled.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query_conv = self.projection(channels, channels // 8)
        self.key_conv = self.projection(channels, channels // 8)
        self.value_conv = self.projection(channels, channels)
        self.gamma = nn.Parameter(torch.zeros(1))

    @staticmethod
    def projection(channels: int, out: int) -> nn.Module:
        """From a map to queries, keys or values."""
        return nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] -> map of the same shape."""
        return x + self.gamma * self.attend(self.query_conv(x), self.key_conv(x), self.value_conv(x))

    @full_precision
    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Queries and keys [B, d, H, W], values [B, C, H, W] -> [B, C, H, W]."""
        attention = (query.flatten(2).transpose(1, 2) @ key.flatten(2)).softmax(dim=-1)
        return (value.flatten(2) @ attention.transpose(1, 2)).view_as(value)


class SpatialAttention(PositionAttention):
    r"""SAM-RPE of MBA-Net (arXiv 2108.02234): :class:`PositionAttention` and two terms of learned positions.

    Projections have BatchNorm and ReLU. ``positions`` chooses the terms :math:`E_h` and :math:`E_w`, which pass a
    BatchNorm each:

    - ``value``, the released code: :math:`E_h = v\, (P_h q)`, where :math:`P_h[p]` is the row ``column - row`` of the
      table ``rel_rows`` for the value's position p; likewise :math:`E_w` with ``rel_columns``.
    - ``axial``, a variant in its comments: values of the query's own column, weighted by the product of the query with
      the row of the table for ``i - row`` (:math:`E_h`) or ``i - column`` (:math:`E_w`), i being the value's row.
    - ``none``: no terms.

    Args:
        channels: C.
        grid: rows and columns of the maps; the tables have 2 * max(grid) - 1 rows.
    """

    def __init__(self, channels: int, grid: tuple[int, int], positions: str = "value") -> None:
        super().__init__(channels)
        self.positions = positions
        if positions == "none":
            return
        rows = 2 * max(grid) - 1
        self.rel_rows = nn.Parameter(torch.randn(rows, channels // 8))
        self.rel_columns = nn.Parameter(torch.randn(rows, channels // 8))
        self.bnormr = nn.BatchNorm2d(channels)
        self.bnormc = nn.BatchNorm2d(channels)

    @staticmethod
    def projection(channels: int, out: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(channels, out, 1), nn.BatchNorm2d(out), nn.ReLU(inplace=True))

    @full_precision
    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        base = super().attend(query, key, value)
        if self.positions == "none":
            return base
        rows, columns = self._value_terms(query, value) if self.positions == "value" else self._axial(query, value)
        return base + self.bnormr(rows) + self.bnormc(columns)

    def _value_terms(self, query: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The terms of ``value``; (v P) q in this order costs HW/C of v (P q)."""
        row, column = _coordinates(query)
        index = (column[None, :] - row[:, None] + len(self.rel_rows) // 2).flatten()
        first, second = (
            (value.flatten(2) @ table[index] @ query.flatten(2)).view_as(value)
            for table in (self.rel_rows, self.rel_columns)
        )
        return first, second

    def _axial(self, query: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The terms of ``axial``; x and i are rows, y is a column."""
        row, column = _coordinates(query)
        middle = len(self.rel_rows) // 2
        by_row = self.rel_rows[row[None, :] - row[:, None] + middle]  # [x, i, d]
        by_column = self.rel_columns[row[None, :] - column[:, None] + middle]  # [y, i, d]
        first = torch.einsum("bdxy,xid->bxiy", query, by_row)
        second = torch.einsum("bdxy,yid->bxiy", query, by_column)
        return torch.einsum("bxiy,bciy->bcxy", first, value), torch.einsum("bxiy,bciy->bcxy", second, value)


def _coordinates(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column numbers of a map [.., H, W]."""
    height, width = maps.shape[-2:]
    return torch.arange(height, device=maps.device), torch.arange(width, device=maps.device)
