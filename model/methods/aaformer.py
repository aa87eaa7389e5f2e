"""AAFormer, auto-aligned transformer (Zhu et al., arXiv 2104.00921): a reconstruction."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.backbones.base import Outputs
from model.backbones.vit import SIZES, Block, ViT, patch_grid
from model.base import Batch, DataFacts, Progress
from model.methods.local import LocalReID
from model.methods.requirements import linear_classifiers
from utils.compute.precision import full_precision
from utils.errors import ReIDError

if TYPE_CHECKING:
    from yacs.config import CfgNode


class AAFormer(LocalReID):
    """:class:`ImageReID` on a ViT with learned part tokens, each of which reads a subset of the patches.

    In every block the patches are divided among the part tokens by balanced optimal transport (:func:`sinkhorn`). A
    part token attends to itself and its own patches; class token and patches do not see part tokens. Class token and
    part tokens have a BNNeck and a classifier each, ID and triplet loss.

    Neither code nor the full paper was available; docs/methods.md lists what is established and what was chosen.

    Args:
        backbone: pre-trained.
        num_classes: C.
        eps: weight of the plan's entropy.
        iterations: of the transport.
        similarity: of parts and patches, by the block's own ``projected`` queries and keys or by the ``tokens``.
        other arguments: see :class:`LocalReID`; P is the number of part tokens.

    Outputs: ``feature`` [B, D]; ``local`` [B, P, D].
    """

    backbones = ("vit",)
    note = "a reconstruction, no published number of AAFormer belongs to it"

    @classmethod
    def check(cls, cfg: CfgNode) -> None:
        super().check(cfg)
        linear_classifiers(cfg)
        keys = cfg.MODEL.AAFORMER
        if cfg.MODEL.NAME in SIZES:
            patches = math.prod(patch_grid(cfg.INPUT.SIZE_TRAIN, SIZES[cfg.MODEL.NAME].patch, cfg.MODEL.STRIDE_SIZE))
            if not 1 <= keys.PARTS <= patches:
                raise ReIDError(
                    f"MODEL.AAFORMER.PARTS = {keys.PARTS}: the image has {patches} patches; set 1 to {patches}."
                )

    @classmethod
    def options(cls, cfg: CfgNode, backbone: ViT, facts: DataFacts, training: bool) -> dict[str, Any]:
        keys = cfg.MODEL.AAFORMER
        return {
            "parts": keys.PARTS,
            "eps": keys.EPS,
            "iterations": keys.ITERATIONS,
            "similarity": keys.SIMILARITY,
            "global_weight": keys.GLOBAL_WEIGHT,
            "divide": keys.DIVIDE,
        }

    def __init__(
        self,
        backbone: ViT,
        num_classes: int,
        *,
        eps: float = 0.05,
        iterations: int = 3,
        similarity: str = "projected",
        **options: Any,
    ) -> None:
        super().__init__(backbone, num_classes, **options)
        self.part_tokens = nn.Parameter(0.02 * torch.randn(1, self.parts, backbone.dims["feature"]))
        self.eps, self.iterations, self.similarity = eps, iterations, similarity

    def forward(self, batch: Batch, at: Progress | None = None) -> Outputs:
        encoder = self.image_encoder
        x = encoder.embed(batch.images, self._side_vector(batch.cameras, batch.views))
        x = torch.cat((x[:, :1], self.part_tokens.to(x.dtype).expand(len(x), -1, -1), x[:, 1:]), dim=1)
        for block in encoder.blocks:
            x = block(x, self.mask(block, x))
        x = encoder.norm(x[:, : 1 + self.parts])
        return {"feature": x[:, 0], "local": x[:, 1:]}

    @torch.no_grad()
    def mask(self, block: Block, x: Tensor) -> Tensor:
        """Which of the tokens [B, L, D] each one sees in ``block``, [B, 1, L, L]."""
        plan = sinkhorn(similarities(block, x, self.parts, self.similarity), self.eps, self.iterations)
        return sight(plan.argmax(1), self.parts)


def similarities(block: Block, x: Tensor, parts: int, kind: str = "projected") -> Tensor:
    """Cosines of part tokens and patches [B, P, N] among tokens x [B, 1 + P + N, D], all heads together."""
    y = block.norm1(x)
    part, patch = y[:, 1 : 1 + parts], y[:, 1 + parts :]
    if kind == "projected":
        weights, biases = block.attn.qkv.weight.chunk(3), block.attn.qkv.bias.chunk(3)
        part, patch = F.linear(part, weights[0], biases[0]), F.linear(patch, weights[1], biases[1])
    return _cosines(part, patch)


@full_precision
def _cosines(part: Tensor, patch: Tensor) -> Tensor:
    return F.normalize(part, dim=-1) @ F.normalize(patch, dim=-1).transpose(1, 2)


@full_precision
def sinkhorn(scores: Tensor, eps: float, iterations: int) -> Tensor:
    r"""Balanced transport of patches to parts: scores [B, P, N] -> plan [B, P, N].

    Maximises :math:`\sum plan \cdot score + \epsilon H(plan)` for part marginals 1/P and patch marginals 1/N by
    Sinkhorn-Knopp iterations in the log domain, parts first; the patch marginals are exact at the end.
    """
    parts, patches = scores.shape[1:]
    log_plan = scores / eps
    for _ in range(iterations):
        log_plan = log_plan - log_plan.logsumexp(2, keepdim=True) - math.log(parts)
        log_plan = log_plan - log_plan.logsumexp(1, keepdim=True) - math.log(patches)
    return log_plan.exp()


def sight(owners: Tensor, parts: int) -> Tensor:
    """The part [B, N] that owns each patch -> which tokens each of [class, parts, patches] sees, [B, 1, L, L]."""
    count = 1 + parts + owners.shape[1]
    places = torch.arange(count, device=owners.device)
    is_part = (places > 0) & (places <= parts)
    own = F.one_hot(owners, parts).transpose(1, 2).bool()
    seen = (~is_part).expand(len(owners), count, count).clone()
    seen[:, 1 : 1 + parts] = places == places[1 : 1 + parts, None]
    seen[:, 1 : 1 + parts, 1 + parts :] = own
    return seen[:, None]
