"""CoOp (Zhou et al., IJCV 2022, arXiv 2109.01134): learned context around the names of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.backbones.base import Backbone, Outputs, TextTower
from model.base import DataFacts, Progress, Rate, Stage, Terms, TrainingSet
from model.clip.model import START_SCALE
from model.clip.prompts import text_of
from model.clip.simple_tokenizer import encode, refuse_marks, tokenize
from model.layers.heads import accuracy
from model.methods.baseline import ImageReID
from utils.compute.distributed import sharded
from utils.compute.precision import widened
from utils.errors import ReIDError

if TYPE_CHECKING:
    from yacs.config import CfgNode

TEXTS_AT_ONCE = 256
"""Classes that go through the text encoder together; with more, their activations are computed again backwards."""


class ContextLearner(nn.Module):
    """Sentences "[V]1 ... [V]M name." or, with the name in the middle, "[V]1 ... name ... [V]M." (CoOp, section 3.2).

    Args:
        names: of the C classes.
        count: M, learned vectors; the tokens of ``start`` where that is given.
        token_embedding: CLIP's table [vocabulary, D].
        context: tokens that the text encoder reads.
        class_specific: each class has vectors of its own (CSC) instead of sharing them (unified).
        middle: the name stands behind half of the vectors and not behind all.
        start: words whose embeddings the vectors start from; empty: normal, standard deviation 0.02.

    Attributes:
        ctx: [M, D], or [C, M, D] where they are class-specific.
        ends: [C], where each class's end-of-text token stands.

    Raises:
        ReIDError: a sentence is too long for the text encoder, or holds a mark of the tokenizer.
    """

    def __init__(
        self,
        names: Sequence[str],
        count: int,
        token_embedding: Tensor,
        context: int = 77,
        *,
        class_specific: bool = False,
        middle: bool = False,
        start: str = "",
    ) -> None:
        super().__init__()
        refuse_marks([*names, start], "a class's name, or MODEL.COOP.INIT,")
        first = encode(start)
        count = len(first) or count
        # Any word holds the places of the learned vectors.
        before = count // 2 if middle else count
        sentences = [" ".join(["x"] * before + [name] + ["x"] * (count - before)) + "." for name in names]
        tokens = tokenize(sentences, context_length=context)
        ends = tokens.argmax(1)
        tokens = tokens[:, : int(ends.max()) + 1]
        behind = torch.tensor([len(encode(name)) for name in names])
        place = torch.arange(count).expand(len(names), -1)
        slots = 1 + place + behind[:, None] * (place >= before)
        vectors = token_embedding[torch.tensor(first)] if first else 0.02 * torch.randn(count, token_embedding.shape[1])
        if class_specific:
            vectors = vectors.expand(len(names), -1, -1) if first else 0.02 * torch.randn(len(names), *vectors.shape)
        self.ctx = nn.Parameter(vectors.float().clone())
        self.register_buffer("embedded", token_embedding[tokens].float())
        self.register_buffer("slots", slots)
        self.register_buffer("ends", ends)

    def forward(self, classes: Tensor) -> Tensor:
        """Classes [B] -> embedded sentences [B, L, D] up to the end of the longest of all."""
        embedded = self.embedded[classes]
        vectors = self.ctx[classes] if self.ctx.dim() == 3 else self.ctx.expand(len(classes), -1, -1)
        return embedded.scatter(1, self.slots[classes, :, None].expand_as(vectors), vectors)


class CoOp(ImageReID):
    """CoOp's prompts for identities: stage 1 learns the context, both encoders frozen.

    p(y | x) is the softmax over all classes of cos(image, text of y) / temperature, with CLIP's own temperature, and
    the loss its cross-entropy. Stage 2, which is not CoOp's, lets the images follow these texts as CLIP-ReID's does.

    Args:
        text: CLIP's text tower; None in a test.
        names: of the C classes, in the order of the labels.
        context, class_specific, middle, start: see :class:`ContextLearner`.
        text_weight, label_smoothing: of the cross-entropy with the texts in stage 2.
        other arguments: see :class:`ImageReID`.

    Attributes:
        all_texts: [C, E] text features of all classes, computed when stage 2 starts.
    """

    stages = (Stage(1, cached=("projected",)), Stage(2))
    backbones = ("clip",)
    identity_bound = (*ImageReID.identity_bound, "prompt_learner.")
    resume_only = (*ImageReID.resume_only, "all_texts")
    has_sentences = True

    @classmethod
    def own_losses(cls, cfg: CfgNode) -> tuple[str, ...]:
        return ("I2T_LOSS_WEIGHT",)

    @classmethod
    def check(cls, cfg: CfgNode) -> None:
        super().check(cfg)
        if cfg.SOLVER.STAGES == [2]:
            raise ReIDError(
                "SOLVER.STAGES = [2] with MODEL.METHOD coop: stage 2 would start from a context that was never "
                "learned. Set it to [1, 2] or [1]."
            )

    @classmethod
    def options(cls, cfg: CfgNode, backbone: Backbone, facts: DataFacts, training: bool) -> dict[str, Any]:
        coop = cfg.MODEL.COOP
        return {
            "text": text_of(backbone, cfg.MODEL.METHOD) if training else None,
            "names": facts.names,
            "context": coop.CONTEXT,
            "class_specific": coop.CLASS_SPECIFIC,
            "middle": coop.POSITION == "middle",
            "start": coop.INIT,
            "text_weight": cfg.MODEL.I2T_LOSS_WEIGHT,
            "label_smoothing": 0.1 if cfg.MODEL.IF_LABELSMOOTH == "on" else 0.0,
        }

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        text: TextTower | None = None,
        names: Sequence[str] = (),
        context: int = 16,
        class_specific: bool = False,
        middle: bool = False,
        start: str = "",
        text_weight: float = 1.0,
        label_smoothing: float = 0.1,
        **options: Any,
    ) -> None:
        super().__init__(backbone, num_classes, **options)
        self.text_weight = text_weight
        self.label_smoothing = label_smoothing
        if text is None:
            return
        if not text.reads_words:
            raise ReIDError(
                "MODEL.METHOD coop needs CLIP's token embeddings, which a checkpoint of re-identification does not "
                "have. Start from CLIP's weights."
            )
        how = {"class_specific": class_specific, "middle": middle, "start": start}
        self.prompt_learner = ContextLearner(names, context, text.embedding, text.context, **how)
        self.text_encoder = text.encoder
        self.register_buffer("logit_scale", torch.tensor(START_SCALE))
        self.register_buffer("all_texts", torch.zeros(num_classes, backbone.dims["projected"]))

    def encode_text(self, labels: Tensor) -> Tensor:
        """Classes [B] -> features of their sentences [B, E], not normalised."""
        return self.text_encoder(self.prompt_learner(labels), self.prompt_learner.ends[labels])

    def begin_epoch(self, data: TrainingSet, at: Progress) -> None:
        """Texts of all classes, once: neither context nor text encoder change in stage 2."""
        if at.stage == 2 and at.epoch == 1:
            self.all_texts.copy_(self.sentences())

    def sentences(self) -> Tensor:
        return widened(sharded(self._encode, torch.arange(self.num_classes, device=self.logit_scale.device)))

    def prompt_tokens(self) -> Tensor:
        tokens = self.prompt_learner.ctx
        return tokens if tokens.dim() == 3 else tokens.expand(self.num_classes, -1, -1)

    def sentence_logits(self, images: Tensor, sentences: Tensor) -> Tensor:
        """Cosines times CLIP's factor."""
        return self.logit_scale.exp() * F.normalize(images) @ F.normalize(sentences).T

    def losses(self, outputs: Outputs, labels: Tensor, at: Progress) -> tuple[Terms, Terms]:
        if at.stage == 1:
            logits = self.sentence_logits(outputs["projected"], self.sentences())
            return {"ce": F.cross_entropy(logits, labels)}, {"accuracy": accuracy(logits, labels)}
        terms, shown = super().losses(outputs, labels, at)
        logits = outputs["projected"] @ self.all_texts.T
        if self.text_weight:
            loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
            terms["i2t"] = self.text_weight * loss
        return terms, shown | {"text accuracy": accuracy(logits, labels)}

    def rate(self, name: str, stage: int, solver: CfgNode) -> Rate | None:
        if stage == 1:
            prompt = name.startswith("prompt_learner.")
            return Rate(solver.BASE_LR, solver.WEIGHT_DECAY) if prompt else None
        return None if name.startswith(("prompt_learner.", "text_encoder.")) else super().rate(name, stage, solver)

    def _encode(self, classes: Tensor) -> Tensor:
        parts = classes.split(TEXTS_AT_ONCE)
        if len(parts) == 1 or not torch.is_grad_enabled():
            return torch.cat([self.encode_text(part) for part in parts])
        return torch.cat([checkpoint(self.encode_text, part, use_reentrant=False) for part in parts])
