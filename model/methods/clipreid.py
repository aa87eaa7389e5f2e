"""CLIP-ReID (Li, Sun, Li, AAAI 2023, arXiv 2211.13977): a prompt is learned for each identity and guides the images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from loss import LossAndParts, Stage1Loss, SupConLoss, contrast_terms
from model.clip.model import ImageFeatures, TextEncoder
from model.clip.prompts import PromptLearner, context_tokens
from model.clip.shapes import CLIPShape
from model.methods.baseline import Collect, Guidance, ImageReID
from utils.distributed import sharded
from utils.errors import ReIDError

if TYPE_CHECKING:
    from yacs.config import CfgNode


ONE_STAGE_LOSSES = ("i2t", "i2t+t2i")
"""Values of ``MODEL.TEXT_LOSS`` that need no texts of identities outside the batch."""


class CLIPReID(ImageReID):
    """CLIP-ReID: :class:`ImageReID` plus a prompt learner and CLIP's frozen text encoder.

    Stage 1 learns the prompts against image features that stay as they are, by :math:`L_{i2t} + L_{t2i}`. In stage 2
    the images follow the texts of all identities, by :math:`L_{i2tce}`: the logits are inner products with the
    projected feature, neither normalised nor scaled. The ablations of the paper have other losses in stage 2, or no
    stage 1: then the prompts are learned in stage 2 with all else.

    Args:
        sentence: see :class:`PromptLearner`.
        token_embedding: CLIP's token embedding table; None draws a random one.
        text_loss: of stage 2, the terms of ``MODEL.TEXT_LOSS`` with ``+`` between them: ``i2tce`` against all
            identities, ``i2t`` and ``t2i`` within the batch as in stage 1, ``none``.
        text_weight: of ``i2t`` and ``t2i`` in stage 2; that of ``i2tce`` is the criterion's.
        one_stage: the prompts change during stage 2.
        other arguments: see :class:`ImageReID`.
    """

    stages = ([1, 2], [1], [2])
    reads_text = True

    @classmethod
    def own_losses(cls, cfg: CfgNode) -> tuple[str, ...]:
        return () if cfg.MODEL.TEXT_LOSS == "none" else ("I2T_LOSS_WEIGHT",)

    @classmethod
    def options(cls, cfg: CfgNode) -> dict[str, Any]:
        return {
            "text_loss": cfg.MODEL.TEXT_LOSS,
            "text_weight": cfg.MODEL.I2T_LOSS_WEIGHT,
            "one_stage": cfg.MODEL.ONE_STAGE,
        }

    @classmethod
    def check(cls, cfg: CfgNode) -> None:
        one_stage, loss = cfg.MODEL.ONE_STAGE, cfg.MODEL.TEXT_LOSS
        if one_stage and (cfg.SOLVER.STAGES != [2] or loss not in ONE_STAGE_LOSSES):
            raise ReIDError(
                f"MODEL.ONE_STAGE with SOLVER.STAGES = {cfg.SOLVER.STAGES} and MODEL.TEXT_LOSS = {loss}: the prompts "
                "are learned in stage 2 from the identities of each batch. Set SOLVER.STAGES to [2] and "
                f"MODEL.TEXT_LOSS to one of {', '.join(ONE_STAGE_LOSSES)}."
            )
        if cfg.SOLVER.STAGES == [2] and not (cfg.MODEL.STAGE1_WEIGHT or one_stage or loss == "none"):
            raise ReIDError(
                "SOLVER.STAGES = [2] without MODEL.STAGE1_WEIGHT: stage 2 would start from prompts that nobody "
                "learned. Name the checkpoint that stage 1 wrote, run both stages, or set MODEL.ONE_STAGE to True."
            )
        if cfg.MODEL.PROMPT:
            context_tokens(cfg.MODEL.PROMPT)

    def __init__(
        self,
        shape: CLIPShape,
        num_classes: int,
        *args: Any,
        sentence: str,
        token_embedding: Tensor | None = None,
        text_loss: str = "i2tce",
        text_weight: float = 1.0,
        one_stage: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(shape, num_classes, *args, **options)
        if token_embedding is None:
            token_embedding = 0.02 * torch.randn(shape.text.vocabulary, shape.text.width)
        self.prompt_learner = PromptLearner(sentence, num_classes, token_embedding, shape.text.context)
        self.text_encoder = TextEncoder(shape.text, shape.embed_dim)
        self.contrast = Stage1Loss()
        self.supcon = SupConLoss()
        self.text_losses = [] if text_loss == "none" else text_loss.split("+")
        self.text_weight = text_weight
        self.one_stage = one_stage
        self.register_buffer("all_texts", None, persistent=False)

    def encode_text(self, labels: Tensor) -> Tensor:
        """Identities [B] -> features of their sentences [B, E], not normalised."""
        return self.text_encoder(self.prompt_learner(labels), self.prompt_learner.end)

    def stage1_loss(self, features: Tensor, labels: Tensor) -> LossAndParts:
        """:math:`L_{i2t} + L_{t2i}`; the text encoder sees each distinct identity of the batch once."""
        identities, position = labels.unique(return_inverse=True)
        return self.contrast(features, sharded(self.encode_text, identities)[position], labels)

    def prepare(self, collect: Collect, chunk: int) -> None:
        """Texts of all identities [C, E]: neither prompts nor text encoder change any more (but in one stage)."""
        if self.one_stage or not self.text_losses:
            return

        def encode(labels: Tensor) -> Tensor:
            return torch.cat([self.encode_text(part).float() for part in labels.split(chunk)])

        self.all_texts = sharded(encode, torch.arange(self.num_classes, device=self.prompt_learner.cls_ctx.device))

    def texts(self, features: ImageFeatures, labels: Tensor) -> Tensor | None:
        if not self.one_stage:
            return None
        identities, position = labels.unique(return_inverse=True)
        return sharded(self.encode_text, identities)[position]

    def guide(self, features: ImageFeatures, texts: Tensor | None, labels: Tensor) -> Guidance:
        images = features.projected
        if texts is None and self.all_texts is not None:
            texts = self.all_texts[labels]
        terms = {}
        if not {"i2t", "t2i"}.isdisjoint(self.text_losses):
            both = contrast_terms(self.supcon, images, texts, labels)
            terms = {name: self.text_weight * term for name, term in both.items() if name in self.text_losses}
        logits = images @ self.all_texts.T if "i2tce" in self.text_losses else None
        return Guidance(logits, terms)
