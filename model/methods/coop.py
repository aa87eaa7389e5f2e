"""CoOp (Zhou et al., IJCV 2022, arXiv 2109.01134): learned context around the names of the classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from loss import LossAndParts
from model.clip.model import ImageFeatures, TextEncoder
from model.clip.shapes import CLIPShape
from model.clip.simple_tokenizer import encode, tokenize
from model.methods.baseline import Collect, Guidance, ImageReID
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
        ReIDError: a sentence is too long for the text encoder.
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
        names: of the C classes, in the order of the labels.
        context, class_specific, middle, start: see :class:`ContextLearner`.
        token_embedding: CLIP's token embedding table; None draws a random one.
        other arguments: see :class:`ImageReID`.
    """

    stages = ([1], [1, 2])
    takes_embeddings = True
    takes_names = True

    @classmethod
    def own_losses(cls, cfg: CfgNode) -> tuple[str, ...]:
        return ("I2T_LOSS_WEIGHT",)

    @classmethod
    def options(cls, cfg: CfgNode) -> dict[str, Any]:
        coop = cfg.MODEL.COOP
        return {
            "context": coop.CONTEXT,
            "class_specific": coop.CLASS_SPECIFIC,
            "middle": coop.POSITION == "middle",
            "start": coop.INIT,
        }

    def __init__(
        self,
        shape: CLIPShape,
        *args: Any,
        names: Sequence[str],
        context: int = 16,
        class_specific: bool = False,
        middle: bool = False,
        start: str = "",
        token_embedding: Tensor | None = None,
        **options: Any,
    ) -> None:
        super().__init__(shape, *args, **options)
        if shape.text is None:
            raise ReIDError("MODEL.METHOD coop needs a text encoder, which these weights do not have.")
        if token_embedding is None:
            token_embedding = 0.02 * torch.randn(shape.text.vocabulary, shape.text.width)
        how = {"class_specific": class_specific, "middle": middle, "start": start}
        self.prompt_learner = ContextLearner(names, context, token_embedding, shape.text.context, **how)
        self.text_encoder = TextEncoder(shape.text, shape.embed_dim)
        self.register_buffer("logit_scale", torch.tensor(math.log(1 / 0.07)))
        self.register_buffer("all_texts", None, persistent=False)

    def encode_text(self, labels: Tensor) -> Tensor:
        """Classes [B] -> features of their sentences [B, E], not normalised."""
        return self.text_encoder(self.prompt_learner(labels), self.prompt_learner.ends[labels])

    def stage1_loss(self, features: Tensor, labels: Tensor) -> LossAndParts:
        """Cross-entropy over all classes."""
        texts = self._encode_all(TEXTS_AT_ONCE)
        with torch.autocast(features.device.type, enabled=False):
            logits = self.logit_scale.exp() * F.normalize(features.float()) @ F.normalize(texts.float()).T
            loss = F.cross_entropy(logits, labels)
        accuracy = (logits.detach().argmax(1) == labels).float().mean()
        return loss, {"ce": loss.detach(), "accuracy": accuracy}

    def prepare(self, collect: Collect, chunk: int) -> None:
        """Texts of all classes [C, E]: neither context nor text encoder change any more."""
        self.all_texts = self._encode_all(chunk).float()

    def guide(self, features: ImageFeatures, texts: Tensor | None, labels: Tensor) -> Guidance:
        return Guidance(features.projected @ self.all_texts.T)

    def _encode_all(self, chunk: int) -> Tensor:
        parts = torch.arange(self.num_classes, device=self.logit_scale.device).split(chunk)
        if len(parts) == 1 or not torch.is_grad_enabled():
            return torch.cat([self.encode_text(part) for part in parts])
        return torch.cat([checkpoint(self.encode_text, part, use_reentrant=False) for part in parts])
