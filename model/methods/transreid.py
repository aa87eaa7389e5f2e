"""TransReID (He et al., ICCV 2021, arXiv 2102.04378) and its baseline, a ViT with ID and triplet loss."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from model.backbones.base import Outputs
from model.backbones.vit import SIZES, ViT, patch_grid
from model.base import Batch, DataFacts, Progress
from model.methods.local import LocalReID
from model.methods.renaming import by_prefixes
from model.methods.requirements import linear_classifiers
from utils.errors import ReIDError

if TYPE_CHECKING:
    from yacs.config import CfgNode


class TransReID(LocalReID):
    """:class:`ImageReID` on a ViT; a jigsaw (JPM) adds local features of shuffled patches.

    All but the last block is shared. Last block and last norm give the global feature; a copy of both reads the class
    token with each of several groups of shuffled patches and gives each group's local feature. Without a jigsaw this
    is the paper's baseline. Loss: ID and triplet, each 1/2 of the global feature and 1/2 of the local ones' mean.

    Args:
        backbone: pre-trained.
        num_classes: C.
        jigsaw: token numbers of each group [P, q], see :func:`jigsaw_groups`; None for none.
        other arguments: see :class:`LocalReID`.

    Outputs: ``feature`` [B, D]; ``local`` [B, P, D].
    """

    backbones = ("vit",)

    @classmethod
    def check(cls, cfg: CfgNode) -> None:
        super().check(cfg)
        linear_classifiers(cfg)
        if cfg.MODEL.TRANSREID.JPM and cfg.MODEL.NAME in SIZES:
            rows, columns = patch_grid(cfg.INPUT.SIZE_TRAIN, SIZES[cfg.MODEL.NAME].patch, cfg.MODEL.STRIDE_SIZE)
            _groups(cfg, rows * columns)

    @classmethod
    def options(cls, cfg: CfgNode, backbone: ViT, facts: DataFacts, training: bool) -> dict[str, Any]:
        return {"jigsaw": _groups(cfg, backbone.grid[0] * backbone.grid[1]) if cfg.MODEL.TRANSREID.JPM else None}

    def __init__(self, backbone: ViT, num_classes: int, *, jigsaw: Tensor | None = None, **options: Any) -> None:
        super().__init__(backbone, num_classes, parts=0 if jigsaw is None else len(jigsaw), **options)
        self.register_buffer("jigsaw", jigsaw, persistent=False)
        if jigsaw is not None:
            self.local_block = copy.deepcopy(backbone.blocks[-1])
            self.local_norm = copy.deepcopy(backbone.norm)

    def forward(self, batch: Batch, at: Progress | None = None) -> Outputs:
        if self.jigsaw is None:
            return super().forward(batch, at)
        encoder = self.image_encoder
        x = encoder.embed(batch.images, self._side_vector(batch.cameras, batch.views))
        for block in encoder.blocks[:-1]:
            x = block(x)
        local = [
            self.local_norm(self.local_block(torch.cat((x[:, :1], x[:, group]), dim=1))[:, 0]) for group in self.jigsaw
        ]
        return {"feature": encoder.norm(encoder.blocks[-1](x)[:, 0]), "local": torch.stack(local, dim=1)}

    @classmethod
    def rename(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Names of the published code; last block and norm are its ``b1`` where there is a jigsaw."""
        if not any(name.startswith("base.") for name in state):
            return state
        own = {"base.sie_embed": "cv_embed", "base.": "image_encoder.", "b2.0.": "local_block.", "b2.1.": "local_norm."}
        left_out = ["base.fc."]
        if "b1.1.weight" in state:
            last = max(int(name.split(".")[2]) for name in state if name.startswith("base.blocks."))
            left_out += [f"base.blocks.{last}.", "base.norm."]
            own |= {"b1.0.": f"image_encoder.blocks.{last}.", "b1.1.": "image_encoder.norm."}
        renamed = by_prefixes(state, own, tuple(left_out))
        if "cv_embed" in renamed:
            renamed["cv_embed"] = renamed["cv_embed"].flatten(1)  # published [rows, 1, D]
        return renamed


def _groups(cfg: CfgNode, patches: int) -> Tensor:
    keys = cfg.MODEL.TRANSREID
    return jigsaw_groups(patches, keys.SHIFT, keys.GROUPS, keys.PARTS)


def shuffled(patches: int, shift: int, groups: int) -> list[int]:
    """Numbers 1..N of the patch tokens in the order of the jigsaw.

    They are rotated by ``shift`` - 1; where ``groups`` does not divide them, the last but one comes once more; the
    ``groups`` equal pieces are then interleaved.

    Raises:
        ReIDError: one more token is not enough.
    """
    order = [*range(shift, patches + 1), *range(1, shift)]
    if len(order) % groups:
        order.append(order[-2])
    if len(order) % groups or not 1 <= shift <= patches:
        raise ReIDError(
            f"MODEL.TRANSREID.SHIFT = {shift}, GROUPS = {groups}: {patches} patches cannot be shuffled so. SHIFT lies "
            f"between 1 and {patches}, and GROUPS divides {patches} or {patches + 1}; published: 5 (vehicles: 8) and 2."
        )
    size = len(order) // groups
    return [order[group * size + place] for place in range(size) for group in range(groups)]


def jigsaw_groups(patches: int, shift: int, groups: int, parts: int) -> Tensor:
    """Token numbers [parts, q] that each local feature reads: consecutive pieces of q = N // ``parts`` shuffled tokens.

    Raises:
        ReIDError: there are fewer patches than parts, or see :func:`shuffled`.
    """
    size = patches // parts
    if size < 1:
        raise ReIDError(
            f"MODEL.TRANSREID.PARTS = {parts}: the image has {patches} patches; set it to {patches} or less."
        )
    return torch.tensor(shuffled(patches, shift, groups)[: parts * size]).view(parts, size)
