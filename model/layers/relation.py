"""Relation-aware global attention (Zhang et al., arXiv 1904.02998): a gate for each position, or for each channel.

Relations are sums without a scale, so they are computed in full precision.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from utils.compute.precision import full_precision


class RelationGate(nn.Module):
    r"""A factor in (0, 1) for each of N nodes, from its relations with all nodes and its own D features.

    With embeddings :math:`\theta, \phi` [D/f, N] of the nodes, :math:`G_{ij} = \theta_i \cdot \phi_j`; node p has the
    relation vector :math:`[G_{p1}, .., G_{pN}, G_{1p}, .., G_{Np}]`, which a layer of weights :math:`[W_1, W_2]` turns
    into N/n values. It is computed as :math:`(W_1 \phi^T)\, \theta + (W_2 \theta^T)\, \phi`, so neither G nor the
    relation vectors, 4096 x 8192 numbers at a map of 64x64, are ever in memory.

    Args:
        features: D.
        nodes: N; the weights have the number of nodes in their shapes.
        feature_ratio: f.
        node_ratio: n.
        down: ratio of the hidden layer of the gate.
    """

    def __init__(self, features: int, nodes: int, feature_ratio: int, node_ratio: int, down: int) -> None:
        super().__init__()
        inner, related = max(1, features // feature_ratio), max(1, nodes // node_ratio)
        hidden = max(1, (1 + related) // down)
        self.theta, self.phi = _embedding(features, inner), _embedding(features, inner)
        self.gx, self.gg = _embedding(features, inner), _embedding(2 * nodes, related)
        self.W = nn.Sequential(*_embedding(1 + related, hidden), nn.Conv2d(hidden, 1, 1, bias=False), nn.BatchNorm2d(1))

    @full_precision
    def forward(self, x: Tensor) -> Tensor:
        """Nodes [B, D, N] -> their factors [B, 1, N]."""
        nodes = x[..., None]
        theta, phi = (embed(nodes)[..., 0] for embed in (self.theta, self.phi))
        outgoing, incoming = self.gg[0].weight[:, :, 0, 0].chunk(2, dim=1)
        related = (outgoing @ phi.transpose(1, 2)) @ theta + (incoming @ theta.transpose(1, 2)) @ phi
        own = self.gx(nodes).mean(1, keepdim=True)
        gate = self.W(torch.cat([own, self.gg[1:](related[..., None])], dim=1))
        return gate.sigmoid()[..., 0]


class RelationAttention(nn.Module):
    """RGA: positions are weighted by their gate, then channels by theirs.

    Args:
        channels: C.
        positions: S, height times width of the maps.
        branch: ``both``, or one of ``spatial`` and ``channel``.
        ratios: of channels, of positions, and of the hidden layers.
    """

    def __init__(
        self, channels: int, positions: int, branch: str = "both", ratios: tuple[int, int, int] = (8, 8, 8)
    ) -> None:
        super().__init__()
        by_channel, by_position, down = ratios
        self.spatial = RelationGate(channels, positions, by_channel, by_position, down) if branch != "channel" else None
        self.channel = RelationGate(positions, channels, by_position, by_channel, down) if branch != "spatial" else None

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] -> map of the same shape."""
        rows = x.flatten(2)
        if self.spatial is not None:
            rows = rows * self.spatial(rows).to(rows.dtype)
        if self.channel is not None:
            rows = rows * self.channel(rows.transpose(1, 2)).transpose(1, 2).to(rows.dtype)
        return rows.view_as(x)


def _embedding(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU())
