"""GPA-Net (Baisa et al., arXiv 2101.05260): global and part features of a hand, each with a head of its own.

No code of it is known. The same author's code of MBA-Net holds the branch of parts, which this is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from model.backbones.base import Backbone
from model.backbones.resnet import ResNet
from model.base import DataFacts
from model.methods.mba_net import MBANet
from model.methods.requirements import id_loss_options
from utils.errors import ReIDError

if TYPE_CHECKING:
    from yacs.config import CfgNode


class GPANet(MBANet):
    """:class:`MBANet` without attention: the plain branch and a grid of parts of its map.

    Args:
        backbone: with last stride 1.
        identities: C.
        parts: rows and columns of the grid. Cells overlap by a row or column where the map cannot be divided.
        options: of :class:`MBANet`.
    """

    note = "its grid and recipe are inferred"

    def __init__(
        self,
        backbone: ResNet,
        identities: int,
        *,
        parts: tuple[int, int] = (3, 1),
        **options: float,
    ) -> None:
        super().__init__(backbone, identities, parts=parts, attention=False, **options)

    @classmethod
    def check(cls, cfg: CfgNode) -> None:
        super().check(cfg)
        parts = cfg.MODEL.GPA_NET.PARTS
        height, width = (-(-side // 16) for side in cfg.INPUT.SIZE_TRAIN)
        if len(parts) != 2 or not (1 <= parts[0] <= height and 1 <= parts[1] <= width) or parts[0] * parts[1] == 1:
            raise ReIDError(
                f"MODEL.GPA_NET.PARTS = {parts} with INPUT.SIZE_TRAIN = {cfg.INPUT.SIZE_TRAIN}: the map has {height} "
                f"rows and {width} columns. Expected rows and columns of at least two parts, for example [3, 1]."
            )

    @classmethod
    def build(cls, cfg: CfgNode, backbone: Backbone, facts: DataFacts, training: bool) -> Self:
        rows, columns = cfg.MODEL.GPA_NET.PARTS
        dropout = cfg.MODEL.GPA_NET.DROPOUT
        return cls(backbone, facts.identities, parts=(rows, columns), dropout=dropout, **id_loss_options(cfg))
