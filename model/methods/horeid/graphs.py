"""Graph convolution with learned directions (ADGC) and graph matching of HOReID, as its code has them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.methods.horeid.skeletons import Edge
from utils.compute.precision import full_precision

EDGE_SCALE = 15.0
"""On differences between two nodes' distances to the global one."""

DIRECTION_SCALE = 20.0
"""On the score that chooses a direction."""

VOTING = 200.0
SINKHORN_STEPS = 20
SINKHORN_EPSILON = 1e-10
SLOPE = 0.2


class DirectedGraph(nn.Module):
    r"""One layer of ADGC: :math:`\mathrm{relu}(W_1 A X) + W_2 X` over n nodes, the last of which is the global one.

    Messages of local nodes i, j have the weights :math:`2 s` and :math:`2 (1 - s)`, where s is a learned function of
    the difference of their distances to the global node; the global node sends to all and receives from none.

    Args:
        channels: of the nodes, before and after.
        nodes: n.
        edges: pairs of local nodes.
    """

    def __init__(self, channels: int, nodes: int, edges: Sequence[Edge]) -> None:
        super().__init__()
        self.fc_direct = nn.Linear(channels, 1, bias=False)
        self.bn_direct = nn.BatchNorm1d(channels)
        self.fc_merged_feature = nn.Linear(channels, channels, bias=False)
        self.fc_original_feature = nn.Linear(channels, channels, bias=False)
        first, second = torch.tensor(edges).T
        mask = torch.zeros(nodes, nodes)
        mask[first, second] = mask[second, first] = 1
        mask[:, -1] = 1
        self.register_buffer("first", first, persistent=False)
        self.register_buffer("second", second, persistent=False)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Nodes [B, n, D] -> nodes [B, n, D]."""
        return F.relu(self.fc_merged_feature(self.adjacency(x) @ x)) + self.fc_original_feature(x)

    def adjacency(self, x: Tensor) -> Tensor:
        """Rows that sum to 1, [B, n, n]."""
        away = (x - x[:, -1:]).abs()
        difference = EDGE_SCALE * (away[:, self.first] - away[:, self.second])
        difference = self.bn_direct(difference.flatten(0, 1)).view_as(difference)
        share = (DIRECTION_SCALE * self.fc_direct(difference)).sigmoid()[..., 0]
        weights = self.mask.to(x).repeat(len(x), 1, 1)
        weights[:, self.first, self.second] = 2 * share
        weights[:, self.second, self.first] = 2 * (1 - share)
        return weights / weights.sum(2, keepdim=True)


class NodeLayer(nn.Module):
    """leaky(a(x)) + leaky(u(x)) of each node by itself; the published code has no adjacency here."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.a_fc = nn.Linear(channels, out)
        self.u_fc = nn.Linear(channels, out)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.a_fc(x), SLOPE) + F.leaky_relu(self.u_fc(x), SLOPE)


class Affinity(nn.Module):
    r""":math:`X \tfrac{1}{2}(A + A^T)\, Y^T` between the nodes of two images."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        bound = channels**-0.5
        self.A = nn.Parameter(torch.eye(channels) + torch.empty(channels, channels).uniform_(-bound, bound))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x @ ((self.A + self.A.T) / 2) @ y.transpose(1, 2)


class Matching(nn.Module):
    """Aligns the nodes of two images (CGEA), in two rounds.

    Args:
        channels: of the nodes; inside there are half as many.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 2
        self.layers = nn.ModuleList((NodeLayer(channels, inner), NodeLayer(inner, inner)))
        self.affinities = nn.ModuleList(Affinity(inner) for _ in range(2))
        self.cross = nn.Linear(2 * inner, inner)

    @full_precision
    def forward(self, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Nodes P, Q [B, n, D] -> P + S Q, Q + S^T P and the assignment S [B, n, n] of P's nodes to Q's."""
        x, y = self.layers[0](p), self.layers[0](q)
        s = assignment(self.affinities[0](x, y))
        x, y = (
            self.cross(torch.cat([x, s @ y], 2)),
            self.cross(torch.cat([y, s.transpose(1, 2) @ x], 2)),
        )
        x, y = self.layers[1](x), self.layers[1](y)
        s = assignment(self.affinities[1](x, y))
        return p + s @ q, q + s.transpose(1, 2) @ p, s


class Verifier(nn.Module):
    """Probability that two aligned images show one identity, from the products of their nodes."""

    scale = 10.0

    def __init__(self, channels: int, nodes: int) -> None:
        super().__init__()
        self.layer1 = nn.Linear(channels * nodes, 1)

    @full_precision
    def forward(self, p: Tensor, q: Tensor) -> Tensor:
        """Aligned nodes [B, n, D] of both -> [B, 1]."""
        product = self.scale * F.normalize(p, dim=2) * F.normalize(q, dim=2)
        return self.layer1(product.flatten(1)).sigmoid()


def assignment(affinity: Tensor) -> Tensor:
    """Affinities [B, n, n] -> soft assignment: voting, then :func:`sinkhorn`."""
    return sinkhorn(voting(affinity))


def voting(affinity: Tensor) -> Tensor:
    """softmax(200 s) of each row."""
    return (VOTING * affinity).softmax(2)


def sinkhorn(s: Tensor) -> Tensor:
    """Twenty normalisations, columns and rows in turn, so that the rows sum to 1 at the end."""
    s = s + SINKHORN_EPSILON
    for step in range(SINKHORN_STEPS):
        s = s / s.sum(1 + step % 2, keepdim=True)
    return s


def permutation_loss(s: Tensor) -> Tensor:
    """Binary cross-entropy of assignments [B, n, n] against the identity, a sum over each image's pairs, over n."""
    target = torch.eye(s.shape[1], dtype=s.dtype, device=s.device).expand_as(s)
    return F.binary_cross_entropy(s, target, reduction="sum") / s.shape[0] / s.shape[1]
