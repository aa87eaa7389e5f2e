"""Auto-ReID (Quan et al., arXiv 1903.09776): published cells with the baseline's head; frame and recipe are ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from model.methods.baseline import ImageReID
from utils.errors import ReIDError

if TYPE_CHECKING:
    from yacs.config import CfgNode


class AutoReID(ImageReID):
    """BNNeck, ID and triplet loss on the mean of the last cell's map, as :class:`ImageReID` has them.

    The head of the paper is unknown; an ID and a triplet loss in its final training are from memory.
    """

    backbones: ClassVar[tuple[str, ...]] = ("autoreid",)
    note = "published cells in a frame of ours, without the architecture search"

    @classmethod
    def check(cls, cfg: CfgNode) -> None:
        super().check(cfg)
        stage = cfg.SOLVER.STAGE2
        if stage.IMS_PER_BATCH < 2 * stage.MICRO_BATCHES:
            raise ReIDError(
                f"SOLVER.STAGE2.IMS_PER_BATCH = {stage.IMS_PER_BATCH} with MICRO_BATCHES = {stage.MICRO_BATCHES}: the "
                "part-aware module normalises the parts of a micro-batch, which needs two images in each. Set "
                f"MICRO_BATCHES to {max(1, stage.IMS_PER_BATCH // 2)} or less."
            )
