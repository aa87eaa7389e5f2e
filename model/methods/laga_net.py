"""LAGA-Net (Baisa, arXiv 2209.04821): MBA-Net with horizontal stripes and a triplet loss, for hands and bodies.

No code of it is known. The network is inferred: MBA-Net's released code holds its four branches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Tensor

from loss import TripletLoss
from model.backbones.base import Backbone, Outputs
from model.backbones.resnet import ResNet
from model.base import DataFacts, Progress, Terms
from model.methods.mba_net import MBANet
from model.methods.requirements import identity_pairs, loss_options
from utils.errors import ReIDError

if TYPE_CHECKING:
    from yacs.config import CfgNode


class LAGANet(MBANet):
    """:class:`MBANet` with stripes of the plain branch and triplet losses on its global, spatial and channel vectors.

    Args:
        backbone: with last stride 1.
        identities: C.
        stripes: of the plain branch.
        margin: of the triplet losses, None for the soft margin.
        triplet_weight: of their sum.
        options: of :class:`MBANet`.
    """

    note = "inferred, no published number of LAGA-Net belongs to it"
    mined: ClassVar[tuple[str, ...]] = ("g", "s", "c")
    """Heads whose pooled vectors have a triplet loss: our choice, the paper's is unknown."""

    def __init__(
        self,
        backbone: ResNet,
        identities: int,
        *,
        stripes: int = 3,
        margin: float | None = 0.3,
        triplet_weight: float = 1.0,
        **options: object,
    ) -> None:
        super().__init__(backbone, identities, parts=(stripes, 1), **options)
        self.triplet, self.triplet_weight = TripletLoss(margin), triplet_weight

    @classmethod
    def check(cls, cfg: CfgNode) -> None:
        super().check(cfg)
        identity_pairs(cfg)
        stripes, rows = cfg.MODEL.LAGA_NET.PARTS, -(-cfg.INPUT.SIZE_TRAIN[0] // 16)
        if not 2 <= stripes <= rows:
            raise ReIDError(
                f"MODEL.LAGA_NET.PARTS = {stripes} with INPUT.SIZE_TRAIN = {cfg.INPUT.SIZE_TRAIN}: the map has {rows} "
                f"rows. Set it to one of 2 to {rows}; without stripes the network is MODEL.METHOD mba_net."
            )

    @classmethod
    def build(cls, cfg: CfgNode, backbone: Backbone, facts: DataFacts, training: bool) -> Self:
        own = cfg.MODEL.LAGA_NET
        return cls(
            backbone,
            facts.identities,
            stripes=own.PARTS,
            positions=own.POSITIONS,
            dropout=own.DROPOUT,
            **loss_options(cfg),
        )

    def losses(self, outputs: Outputs, labels: Tensor, at: Progress) -> tuple[Terms, Terms]:
        """``id`` over the heads as in MBA-Net; ``triplet``: sum over the pooled vectors of :attr:`mined`."""
        terms, shown = super().losses(outputs, labels, at)
        triplet = torch.stack([self.triplet(outputs[head], labels) for head in self.mined]).sum()
        return terms | {"triplet": self.triplet_weight * triplet}, shown
