"""DCAL, dual cross-attention learning (Zhu et al., CVPR 2022, arXiv 2205.02151)."""

from __future__ import annotations

import copy
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.backbones.base import Outputs
from model.backbones.vit import Block, ViT, recomputed
from model.base import Batch, DataFacts, Progress, Rate, Terms
from model.layers.heads import make_classifier, make_neck
from model.methods.baseline import ImageReID
from model.methods.renaming import by_prefixes
from model.methods.requirements import linear_classifiers

if TYPE_CHECKING:
    from yacs.config import CfgNode

BRANCHES = ("self", "glca", "pwca")
"""Self-attention, global-local cross-attention, pair-wise cross-attention; the order of ``log_vars``."""


class DCAL(ImageReID):
    r""":class:`ImageReID` on a ViT with two further branches.

    Global-local cross-attention (GLCA): one more block in which the class token and the patches of largest attention
    rollout query all tokens. Pair-wise cross-attention (PWCA), in training only: a second pass through the blocks in
    which each image also attends to keys and values of another image of the batch. Each branch has ID and triplet
    loss; PWCA shares neck and classifier with self-attention. With learned :math:`w_b` the total is
    :math:`\frac12 \sum_b (e^{-w_b} L_b + w_b)`.

    There is no published code. Where the paper is silent, docs/methods.md names the choice made here.

    Args:
        backbone: pre-trained; last block and norm are copied for GLCA.
        num_classes: C.
        ratio: share of the patches that query in GLCA, rounded down.
        other arguments: see :class:`ImageReID`.

    Outputs: ``feature`` [B, D], ``glca`` [B, D]; in training ``pwca`` [B, D].
    """

    backbones = ("vit",)
    mixes_images = True
    note = "there is no published code, this follows the paper's text and choices of ours"

    @classmethod
    def check(cls, cfg: CfgNode) -> None:
        super().check(cfg)
        linear_classifiers(cfg)

    @classmethod
    def options(cls, cfg: CfgNode, backbone: ViT, facts: DataFacts, training: bool) -> dict[str, Any]:
        return {"ratio": cfg.MODEL.DCAL.RATIO}

    def __init__(self, backbone: ViT, num_classes: int, *, ratio: float = 0.3, **options: Any) -> None:
        super().__init__(backbone, num_classes, **options)
        dim = backbone.dims["feature"]
        self.queries = max(1, int(ratio * backbone.grid[0] * backbone.grid[1]))
        self.glca = copy.deepcopy(backbone.blocks[-1])
        self.glca_norm = copy.deepcopy(backbone.norm)
        self.bottleneck_glca = make_neck(dim)
        self.classifier_glca = make_classifier(dim, num_classes)
        self.log_vars = nn.Parameter(torch.zeros(len(BRANCHES)))

    def forward(self, batch: Batch, at: Progress | None = None) -> Outputs:
        embedded = self.image_encoder.embed(batch.images, self._side_vector(batch.cameras, batch.views))
        outputs = self.branches(embedded)
        if self.training:
            partners = torch.randperm(len(embedded), device=embedded.device)
            outputs["pwca"] = self.paired(embedded, partners)
        return outputs

    def branches(self, embedded: Tensor) -> Outputs:
        """Tokens for the first block [B, L, D] -> class tokens of self-attention and GLCA [B, D]."""
        encoder = self.image_encoder
        x, rolled = encoder.trace(embedded)
        chosen = recomputed(self.glca, partial(attend_selected, self.glca, selected=select(rolled, self.queries)), x)
        return {"feature": encoder.norm(x[:, 0]), "glca": self.glca_norm(chosen[:, 0])}

    def paired(self, embedded: Tensor, partners: Tensor) -> Tensor:
        """Tokens for the first block [B, L, D] -> class token of PWCA [B, D]; ``partners`` [B] are rows."""
        encoder, x = self.image_encoder, embedded
        for block in encoder.blocks:
            x = recomputed(block, partial(attend_pair, block, partners=partners), x)
        return encoder.norm(x[:, 0])

    def losses(self, outputs: Outputs, labels: Tensor, at: Progress) -> tuple[Terms, Terms]:
        features = outputs["feature"], outputs["glca"], outputs["pwca"]
        own, glca = (self.bottleneck, self.classifier), (self.bottleneck_glca, self.classifier_glca)
        totals = [
            torch.stack(list(self.criterion([classifier(neck(f))], [f], labels).values())).sum()
            for f, (neck, classifier) in zip(features, (own, glca, own), strict=True)
        ]
        factors = torch.exp(-self.log_vars) / 2
        terms = {name: factor * total for name, factor, total in zip(BRANCHES, factors, totals, strict=True)}
        logged = {f"loss_{name}": total.detach() for name, total in zip(BRANCHES, totals, strict=True)}
        return terms | {"log_vars": self.log_vars.sum() / 2}, logged

    def embed(self, outputs: Outputs) -> Tensor:
        """[self-attention, GLCA] [B, 2 D]."""
        glca = outputs["glca"].float()
        return torch.cat((super().embed(outputs), self.bottleneck_glca(glca) if self.neck_feat == "after" else glca), 1)

    def rate(self, name: str, stage: int, solver: CfgNode) -> Rate | None:
        rate = super().rate(name, stage, solver)
        return rate._replace(weight_decay=0.0) if name == "log_vars" else rate

    @classmethod
    def rename(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """TransReID's name of the backbone, which ports of DCAL keep."""
        return by_prefixes(state, {"base.": "image_encoder."}, ("base.fc.",))


def select(rolled: Tensor, count: int) -> Tensor:
    """Attention rollout [B, L, L] -> numbers of the queries [B, 1 + count]: class token, then the highest patches."""
    highest = rolled[:, 0, 1:].topk(count).indices + 1
    return torch.cat((torch.zeros_like(highest[:, :1]), highest), dim=1)


def attend_selected(block: Block, x: Tensor, selected: Tensor) -> Tensor:
    """GLCA: the ``selected`` tokens [B, k] of x [B, L, D] query all of them -> [B, k, D]."""
    query, key, value = block.attn.project(block.norm1(x))
    rows = selected[:, None, :, None].expand(-1, query.shape[1], -1, query.shape[3])
    mixed = F.scaled_dot_product_attention(query.gather(2, rows), key, value)
    return block.residual(x.gather(1, selected[..., None].expand(-1, -1, x.shape[2])), block.attn.merge(mixed))


def attend_pair(block: Block, x: Tensor, partners: Tensor) -> Tensor:
    """PWCA: tokens x [B, L, D] attend to their own and to their partner's keys in one softmax -> [B, L, D]."""
    query, *read = block.attn.project(block.norm1(x))
    key, value = (torch.cat((own, own[partners]), dim=2) for own in read)
    return block.residual(x, block.attn.merge(F.scaled_dot_product_attention(query, key, value)))
