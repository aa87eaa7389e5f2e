"""CLIP-ReID (Li, Sun, Li, AAAI 2023, arXiv 2211.13977): a prompt is learned for each identity and guides the images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from loss import SupConLoss, contrast_terms
from model.backbones.base import Backbone, Outputs, TextTower
from model.base import Batch, DataFacts, Progress, Rate, Stage, Terms, TrainingSet
from model.clip.alignment import Alignment
from model.clip.prompts import PromptLearner, check_sentence, context_tokens, sentence_features, text_of
from model.layers.heads import accuracy
from model.methods.baseline import ImageReID
from utils.compute.distributed import sharded
from utils.compute.precision import widened
from utils.errors import ReIDError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from yacs.config import CfgNode


ONE_STAGE_LOSSES = ("i2t", "i2t+t2i")
"""Values of ``MODEL.TEXT_LOSS`` that need no texts of identities outside the batch."""

"""Of the BatchNorm in stage 0."""

IDENTITIES_AT_ONCE = 64
"""Identities that pass the text encoder together when the texts of all are computed."""


class CLIPReID(ImageReID):
    """CLIP-ReID: :class:`ImageReID` with a prompt learner and CLIP's frozen text encoder.

    Stage 0, off by default and not the paper's, trains both encoders on images and sentences about them by CLIP's own
    loss (:class:`~model.clip.alignment.Alignment`). Stage 1 learns the prompts against frozen image features, by
    :math:`L_{i2t} + L_{t2i}`. In stage 2 the images follow the texts of all identities, by :math:`L_{i2tce}`: the
    logits are inner products with the projected feature, neither normalised nor scaled. The ablations of the paper have
    other losses in stage 2, or no stage 1: then the prompts are learned in stage 2 with everything else.

    Args:
        text: CLIP's text tower; None in a test.
        sentence: see :class:`~model.clip.prompts.PromptLearner`.
        text_loss: of stage 2, the terms of ``MODEL.TEXT_LOSS`` with ``+`` between them: ``i2tce`` against all
            identities, ``i2t`` and ``t2i`` within the batch as in stage 1, ``none``.
        text_weight: of these terms.
        label_smoothing: of ``i2tce``.
        one_stage: the prompts change during stage 2.
        shuffle: control: in stage 2 each identity has the sentence of another one, drawn from this seed; None: its own.
        scale: largest logit scale of stage 0; None without that stage.
        locked: prefixes of parameters that stage 0 does not train.
        other arguments: see :class:`ImageReID`.

    Attributes:
        all_texts: [C, E] text features of all identities, computed when stage 2 starts.
    """

    stages = (Stage(0), Stage(1, cached=("projected",)), Stage(2))
    backbones = ("clip",)
    identity_bound = (*ImageReID.identity_bound, "prompt_learner.cls_ctx")
    resume_only = (*ImageReID.resume_only, "all_texts")
    has_sentences = True

    @classmethod
    def own_losses(cls, cfg: CfgNode) -> tuple[str, ...]:
        return () if cfg.MODEL.TEXT_LOSS == "none" else ("I2T_LOSS_WEIGHT",)

    @classmethod
    def check(cls, cfg: CfgNode) -> None:
        super().check(cfg)
        one_stage, loss = cfg.MODEL.ONE_STAGE, cfg.MODEL.TEXT_LOSS
        if one_stage and (cfg.SOLVER.STAGES != [2] or loss not in ONE_STAGE_LOSSES):
            raise ReIDError(
                f"MODEL.ONE_STAGE with SOLVER.STAGES = {cfg.SOLVER.STAGES} and MODEL.TEXT_LOSS = {loss}: the prompts "
                "are learned in stage 2 from the identities of each batch. Set SOLVER.STAGES to [2] and "
                f"MODEL.TEXT_LOSS to one of {', '.join(ONE_STAGE_LOSSES)}."
            )
        stages = cfg.SOLVER.STAGES
        if stages in ([2], [0, 2]) and not (cfg.MODEL.STAGE1_WEIGHT or one_stage or loss == "none"):
            raise ReIDError(
                f"SOLVER.STAGES = {stages} without MODEL.STAGE1_WEIGHT: stage 2 would start from prompts that were "
                "never learned. Name the checkpoint that stage 1 wrote, run stage 1 too, or set MODEL.ONE_STAGE to "
                "True."
            )
        if cfg.MODEL.TEXT_CONTROL != "none" and (one_stage or loss == "none"):
            raise ReIDError(
                f"MODEL.TEXT_CONTROL = {cfg.MODEL.TEXT_CONTROL} with MODEL.ONE_STAGE = {one_stage} and "
                f"MODEL.TEXT_LOSS = {loss}: it exchanges the sentences of stage 1 before stage 2 reads them. Set "
                "ONE_STAGE to False and TEXT_LOSS to another value than none, or TEXT_CONTROL to none."
            )
        if cfg.MODEL.PROMPT:
            context_tokens(cfg.MODEL.PROMPT)

    @classmethod
    def reads_captions(cls, cfg: CfgNode) -> bool:
        """Whether stage 0 runs and trains on sentences."""
        return 0 in cfg.SOLVER.STAGES

    @classmethod
    def needs(cls, cfg: CfgNode, training: bool) -> frozenset[str]:
        own = {"caption"} if training and cls.reads_captions(cfg) else set()
        attributes = {"attributes"} if own and cfg.SOLVER.STAGE0.ATTRIBUTE_WEIGHT else set()
        return super().needs(cfg, training) | own | attributes

    @classmethod
    def options(cls, cfg: CfgNode, backbone: Backbone, facts: DataFacts, training: bool) -> dict[str, Any]:
        return {
            "scale": cfg.SOLVER.STAGE0.MAX_SCALE if training and cls.reads_captions(cfg) else None,
            "attributes": facts.attributes,
            "attribute_weight": cfg.SOLVER.STAGE0.ATTRIBUTE_WEIGHT,
            "locked": tuple(cfg.SOLVER.STAGE0.LOCK),
            "text": text_of(backbone, cfg.MODEL.METHOD) if training else None,
            "sentence": cfg.MODEL.PROMPT or facts.sentence.format("X X X X"),
            "text_loss": cfg.MODEL.TEXT_LOSS,
            "text_weight": cfg.MODEL.I2T_LOSS_WEIGHT,
            "label_smoothing": 0.1 if cfg.MODEL.IF_LABELSMOOTH == "on" else 0.0,
            "one_stage": cfg.MODEL.ONE_STAGE,
            "shuffle": cfg.SOLVER.SEED if cfg.MODEL.TEXT_CONTROL == "shuffled" else None,
        }

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        text: TextTower | None = None,
        sentence: str = "",
        text_loss: str = "i2tce",
        text_weight: float = 1.0,
        label_smoothing: float = 0.1,
        one_stage: bool = False,
        shuffle: int | None = None,
        scale: float | None = None,
        attributes: Sequence[Sequence[str]] = (),
        attribute_weight: float = 0.0,
        locked: tuple[str, ...] = (),
        **options: Any,
    ) -> None:
        super().__init__(backbone, num_classes, **options)
        self.contrast = SupConLoss()
        self.text_losses = [] if text_loss == "none" else text_loss.split("+")
        self.text_weight = text_weight
        self.label_smoothing = label_smoothing
        self.one_stage = one_stage
        self.shuffle = shuffle
        self.attribute_weight = attribute_weight
        self.locked = locked
        if text is not None and scale is not None:
            self.alignment = Alignment(text, scale, attributes)
        if text is not None:
            self.sentence = sentence
            self.prompt_learner = PromptLearner(sentence, num_classes, text.embedding, text.context)
            self.text_encoder = text.encoder
            self.register_buffer("all_texts", torch.zeros(num_classes, backbone.dims["projected"]))

    def forward(self, batch: Batch, at: Progress | None = None) -> Outputs:
        outputs = super().forward(batch, at)
        if at is None or at.stage or "caption" not in batch.extra:
            return outputs
        sentences = {name: batch.extra[name] for name in ("caption", "attributes") if name in batch.extra}
        return {"projected": outputs["projected"], **sentences}

    def encode_text(self, labels: Tensor) -> Tensor:
        """Identities [B] -> features of their sentences [B, E], not normalised."""
        return self.text_encoder(self.prompt_learner(labels), self.prompt_learner.end)

    def encode_sentences(self, sentences: Sequence[str]) -> Tensor:
        """Features [N, E] of N sentences, of length 1; only in a training with stage 0."""
        return F.normalize(self.sentence_features(sentences))

    def sentence_features(self, sentences: Sequence[str]) -> Tensor:
        """The same [N, E], not normalised."""
        alignment = self.alignment
        return sentence_features(self.text_encoder, alignment.token_embedding, alignment.context, sentences)

    def finish_alignment(self, images: Tensor, texts: Tensor) -> None:
        """End of stage 0: change both projections so that |image| |text| is the logit scale, exp(``logit_scale``).

        The later losses take inner products of features that are neither normalised nor scaled. An encoder that is
        locked stays as it is. The fixed words of the prompts are read from the trained table.

        Args:
            images, texts: features [N, E] of the training images and of one sentence about each.
        """
        lengths = {"image": float(images.float().norm(dim=1).mean()), "text": float(texts.float().norm(dim=1).mean())}
        free = [tower for tower in lengths if f"{tower}_encoder." not in self.locked]
        product = float(self.alignment.logit_scale.exp())
        for tower in lengths.keys() - free:
            product /= lengths[tower]
        for tower in free:
            self.get_submodule(f"{tower}_encoder").scale_projection(product ** (1 / len(free)) / lengths[tower])
        self.prompt_learner.read_words(self.alignment.token_embedding)

    def begin_epoch(self, data: TrainingSet, at: Progress) -> None:
        """Texts of all identities, once: prompts and text encoder do not change in stage 2 (except in one stage)."""
        if at.stage != 2 or at.epoch != 1 or self.one_stage or not self.text_losses:
            return
        texts = self.sentences()
        self.all_texts.copy_(texts if self.shuffle is None else texts[others(len(texts), self.shuffle)])

    def sentences(self) -> Tensor:
        def encode(labels: Tensor) -> Tensor:
            return torch.cat([widened(self.encode_text(part)) for part in labels.split(IDENTITIES_AT_ONCE)])

        return sharded(encode, torch.arange(self.num_classes, device=self.all_texts.device))

    def token_table(self) -> Tensor:
        return self.alignment.token_embedding if hasattr(self, "alignment") else super().token_table()

    def prompt_tokens(self) -> Tensor:
        return self.prompt_learner.cls_ctx

    def losses(self, outputs: Outputs, labels: Tensor, at: Progress) -> tuple[Terms, Terms]:
        images = outputs["projected"]
        if at.stage == 0:
            return self._alignment_terms(outputs)
        if at.stage == 1:
            return contrast_terms(self.contrast, images, self._texts(labels), labels), {}
        terms, shown = super().losses(outputs, labels, at)
        if not {"i2t", "t2i"}.isdisjoint(self.text_losses):
            texts = self._texts(labels) if self.one_stage else self.all_texts[labels]
            both = contrast_terms(self.contrast, images, texts, labels)
            terms |= {name: self.text_weight * term for name, term in both.items() if name in self.text_losses}
        if "i2tce" in self.text_losses and self.text_weight:
            logits = images @ self.all_texts.T
            terms["i2t"] = self.text_weight * F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
            shown["text accuracy"] = accuracy(logits, labels)
        return terms, shown

    def _alignment_terms(self, outputs: Outputs) -> tuple[Terms, Terms]:
        """Those of stage 0."""
        images = outputs["projected"]
        terms, shown = self.alignment.terms(self.text_encoder, images, outputs["caption"])
        if "attributes" in outputs:
            loss = self.alignment.attribute_loss(self.text_encoder, images, outputs["attributes"])
            terms["attributes"] = self.attribute_weight * loss
        return terms, shown

    def frozen(self, at: Progress) -> tuple[str, ...]:
        return self.locked if at.stage == 0 else ()

    def rate(self, name: str, stage: int, solver: CfgNode) -> Rate | None:
        if stage == 0 or name.startswith("alignment."):
            return self._alignment_rate(name, solver) if stage == 0 else None
        prompt = name.startswith("prompt_learner.")
        if stage == 1:
            return Rate(solver.BASE_LR, solver.WEIGHT_DECAY) if prompt else None
        if name.startswith("text_encoder.") or (prompt and not self.one_stage):
            return None
        return super().rate(name, stage, solver)

    def _alignment_rate(self, name: str, solver: CfgNode) -> Rate | None:
        """Both encoders train; words that do not occur keep their start, so their table does not decay."""
        if name.startswith(self.locked or ("\0",)):
            return None
        if name.startswith("alignment."):
            return Rate(solver.BASE_LR, 0.0)
        encoders = ("image_encoder.", "text_encoder.")
        return super().rate(name, 0, solver) if name.startswith(encoders) else None

    def check_start(self, state: Mapping[str, Tensor]) -> None:
        check_sentence(state, self.state_dict(), "prompt_learner.", self.sentence)

    def _texts(self, labels: Tensor) -> Tensor:
        """A text feature for each image [B, E]; the text encoder reads each distinct identity of the batch once."""
        identities, position = labels.unique(return_inverse=True)
        return widened(sharded(self.encode_text, identities))[position]


def others(count: int, seed: int) -> Tensor:
    """For each of ``count`` identities another one [C], each once: a random circle of all."""
    circle = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return torch.empty_like(circle).index_copy_(0, circle, circle.roll(1))
