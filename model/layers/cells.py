"""Cells of searched networks (DARTS, arXiv 1806.09055) and Auto-ReID's part-aware module (arXiv 1903.09776)."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Edge = tuple[str, int]
"""An operation of :data:`OPERATIONS` and the node that it reads; 0 and 1 are the outputs of the two cells before."""


class Genotype(NamedTuple):
    """Two edges for each of the nodes 2 to 5, in normal cells and in those that halve the resolution."""

    normal: tuple[tuple[Edge, Edge], ...]
    reduction: tuple[tuple[Edge, Edge], ...]


class Cell(nn.Module):
    """Each node is the sum of two operations on earlier nodes; the output is the concatenation of nodes 2 to 5.

    Args:
        nodes: edges of the nodes from 2 on.
        inputs: channels of the outputs of the cell before the last and of the last one.
        channels: C of a node; the output has C for each node.
        reduction: operations on nodes 0 and 1 have stride 2.
        behind_reduction: whether the last cell halved the resolution, so that the one before has twice its size.
    """

    def __init__(
        self,
        nodes: tuple[tuple[Edge, Edge], ...],
        inputs: tuple[int, int],
        channels: int,
        *,
        reduction: bool = False,
        behind_reduction: bool = False,
    ) -> None:
        super().__init__()
        older, last = inputs
        first = FactorisedReduction if behind_reduction else _projection
        self.preprocess0, self.preprocess1 = first(older, channels), _projection(last, channels)
        self.nodes = nodes
        self.edges = nn.ModuleDict(
            {
                f"{node}<-{source}": OPERATIONS[operation](channels, 2 if reduction and source < 2 else 1)
                for node, edges in enumerate(nodes, 2)
                for operation, source in edges
            }
        )

    def forward(self, older: Tensor, last: Tensor) -> Tensor:
        """Maps of the cell before the last and of the last one -> map of this one."""
        states = [self.preprocess0(older), self.preprocess1(last)]
        for node, edges in enumerate(self.nodes, 2):
            first, second = (self.edges[f"{node}<-{source}"](states[source]) for _, source in edges)
            states.append(first + second)
        return torch.cat(states[2:], dim=1)


class FactorisedReduction(nn.Module):
    """Half the resolution: ReLU, two 1x1 convolutions of stride 2, one on the map moved by a pixel, BatchNorm."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        halves = (out // 2, out - out // 2)
        self.convs = nn.ModuleList(nn.Conv2d(channels, half, 1, stride=2, bias=False) for half in halves)
        self.bn = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        x = x.relu()
        moved = F.pad(x, (0, 1, 0, 1))[:, :, 1:, 1:]
        return self.bn(torch.cat([conv(part) for conv, part in zip(self.convs, (x, moved), strict=True)], dim=1))


class PartAware(nn.Module):
    """Auto-ReID's operation: the means of four horizontal parts read one another; the input is mixed with the result.

    Each part's mean has a ReLU, convolution and BatchNorm of its own, which in training normalises by the batch alone.
    Part i is then replaced by the mean of all, weighted by the softmax over j of K_i . Q_j.

    Args:
        channels, out: of input and output.
        stride: 1 or 2.
    """

    PARTS = 4

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        hidden = channels // 3
        self.parts = nn.ModuleList(
            nn.Sequential(nn.ReLU(), nn.Conv2d(channels, hidden, 1), nn.BatchNorm2d(hidden)) for _ in range(self.PARTS)
        )
        self.key, self.query = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        joined = channels + hidden
        if stride == 1:
            self.last = nn.Sequential(nn.Conv2d(joined, out, 1, bias=False), nn.BatchNorm2d(out))
        else:
            self.last = FactorisedReduction(joined, out)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        cuts = [*(i * height // self.PARTS for i in range(self.PARTS)), height]
        sizes = [after - before for before, after in pairwise(cuts)]
        means = (rows.mean((2, 3), keepdim=True) for rows in x.split(sizes, dim=2))
        parts = torch.cat([part(mean) for part, mean in zip(self.parts, means, strict=True)], dim=3)[:, :, 0]
        rows = parts.transpose(1, 2)  # [B, parts, hidden]
        attention = (self.key(rows) @ self.query(rows).transpose(1, 2)).softmax(dim=2)
        mixed = (attention @ rows).transpose(1, 2)
        spread = [mixed[:, :, i, None, None].expand(-1, -1, size, width) for i, size in enumerate(sizes)]
        return self.last(torch.cat([x, torch.cat(spread, dim=2)], dim=1))


def _projection(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.ReLU(), nn.Conv2d(channels, out, 1, bias=False), nn.BatchNorm2d(out))


def _separable(channels: int, stride: int, dilation: int = 1) -> nn.Sequential:
    """ReLU, depthwise 3x3 convolution, 1x1 convolution, BatchNorm."""
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, stride, dilation, dilation, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
    )


OPERATIONS = {
    "sep_conv_3x3": lambda c, stride: nn.Sequential(_separable(c, stride), _separable(c, 1)),
    "dil_conv_3x3": lambda c, stride: _separable(c, stride, dilation=2),
    "max_pool_3x3": lambda c, stride: nn.MaxPool2d(3, stride, padding=1),
    "avg_pool_3x3": lambda c, stride: nn.AvgPool2d(3, stride, padding=1, count_include_pad=False),
    "skip_connect": lambda c, stride: nn.Identity() if stride == 1 else FactorisedReduction(c, c),
    "part_aware": lambda c, stride: PartAware(c, c, stride),
}
"""By name, from channels and stride. Pools have no BatchNorm, as in the library of Auto-ReID's authors."""
