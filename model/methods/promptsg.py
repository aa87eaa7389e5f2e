"""PromptSG, prompt-driven semantic guidance (Yang et al., CVPR 2024): an image's own sentence guides its tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loss import Criterion, SupConLoss, contrast_terms, make_loss
from model.backbones.base import Backbone, Outputs, TextTower
from model.base import Batch, DataFacts, Method, Progress, Rate, Terms
from model.clip.model import Attention, ModifiedResNet, ResidualAttentionBlock
from model.clip.prompts import LEARNABLE, Template, check_sentence, context_tokens, text_of
from model.clip.simple_tokenizer import tokenize
from model.layers.heads import make_classifier, make_neck
from model.methods.baseline import accuracy
from model.methods.requirements import linear_classifiers
from utils.compute.distributed import sharded
from utils.compute.precision import widened
from utils.errors import ReIDError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from yacs.config import CfgNode

HEADS = 8
"""Of the interaction module; the paper does not give it."""


class PromptSG(Method):
    r"""CLIP's image encoder whose tokens are read by a sentence about the image itself.

    An inversion network turns the projected class token v into a pseudo-word of "A photo of a * person". CLIP's frozen
    text encoder reads the sentence, and gradients pass through it. The sentence's feature l then queries the image
    tokens (:class:`Interaction`), whose output f is the feature. Loss:
    :math:`L_{ID}(f) + L_{triplet} + \lambda (L_{i2t} + L_{t2i})`, the latter two between v and l by cosine.

    There is no published code; docs/methods.md lists the choices made here.

    Args:
        backbone: CLIP's.
        num_classes: C.
        text: CLIP's text tower.
        sentence: with one ``X`` for the pseudo-word.
        temperature, reduction: of the contrast, see :class:`SupConLoss`.
        contrast_weight: lambda.
        composed: test with each image's own sentence; False: with the fixed one without the pseudo-word.
        concatenate: append the image encoder's own features to the test feature.
        neck_feat: f ``before`` or ``after`` the neck in the test feature.
        criterion: ID and triplet loss; None in a test.

    Outputs: ``tokens`` [B, 1 + N, E], the projected ones, class token first; ``penultimate``, ``feature`` [B, D].
    """

    backbones = ("clip",)
    resume_only = ("criterion.",)
    note = "there is no published code, this follows the paper's equations and choices of ours"

    @classmethod
    def check(cls, cfg: CfgNode) -> None:
        linear_classifiers(cfg)
        sentence = cfg.MODEL.PROMPT
        if sentence and context_tokens(sentence)[1] != 1:
            raise ReIDError(f"MODEL.PROMPT = {sentence!r}: promptsg puts one word into it; write one X.")
        if cfg.MODEL.SIE_CAMERA or cfg.MODEL.SIE_VIEW:
            raise ReIDError(
                "MODEL.SIE_CAMERA/SIE_VIEW with MODEL.METHOD = promptsg, which has none: set both to False."
            )

    @classmethod
    def build(cls, cfg: CfgNode, backbone: Backbone, facts: DataFacts, training: bool) -> Self:
        keys = cfg.MODEL.PROMPTSG
        return cls(
            backbone,
            facts.identities,
            text_of(backbone, cfg.MODEL.METHOD),
            cfg.MODEL.PROMPT or facts.sentence.format("X"),
            temperature=keys.TEMPERATURE,
            reduction=keys.REDUCTION,
            contrast_weight=keys.CONTRAST_WEIGHT,
            composed=keys.TEST == "composed",
            concatenate=keys.CONCATENATE,
            neck_feat=cfg.TEST.NECK_FEAT,
            criterion=make_loss(cfg, facts.identities, backbone.dims["projected"]) if training else None,
        )

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        text: TextTower,
        sentence: str,
        *,
        temperature: float = 0.07,
        reduction: str = "mean",
        contrast_weight: float = 0.5,
        composed: bool = True,
        concatenate: bool = False,
        neck_feat: str = "before",
        criterion: Criterion | None = None,
    ) -> None:
        super().__init__()
        width = backbone.dims["projected"]
        self.image_encoder = backbone
        self.text_encoder = text.encoder
        self.sentence = sentence
        self.template = Template(sentence, text.embedding, text.context)
        without = " ".join(LEARNABLE.sub(" ", sentence).split())
        fixed = tokenize(without, context_length=text.context)
        self.fixed_end = int(fixed.argmax())
        self.register_buffer("fixed_sentence", text.embedding[fixed[:, : self.fixed_end + 1]].float())
        self.inversion = inversion_network(width, self.template.free[1])
        self.interaction = Interaction(width)
        self.bottleneck = make_neck(width)
        self.classifier = make_classifier(width, num_classes)
        self.contrast = SupConLoss(temperature, reduction)
        self.contrast_weight, self.composed, self.concatenate = contrast_weight, composed, concatenate
        self.neck_feat = neck_feat
        if criterion is not None:
            self.criterion = criterion

    def forward(self, batch: Batch, at: Progress | None = None) -> Outputs:
        encoder = self.image_encoder
        if isinstance(encoder, ModifiedResNet):
            third, fourth = encoder.maps(batch.images)
            tokens = encoder.attnpool(fourth, first_only=False)
            return {"tokens": tokens, "penultimate": third.mean((2, 3)), "feature": fourth.mean((2, 3))}
        found = encoder.forward_tokens(batch.images)
        return {
            "tokens": found["projected"],
            "penultimate": found["penultimate"][:, 0],
            "feature": found["feature"][:, 0],
        }

    def read(self, words: Tensor) -> Tensor:
        """Pseudo-words [B, D] -> features of their sentences [B, E], not normalised."""
        return self.text_encoder(self.template.place(words[:, None]), self.template.end)

    def losses(self, outputs: Outputs, labels: Tensor, at: Progress) -> tuple[Terms, Terms]:
        tokens = outputs["tokens"]
        image = tokens[:, 0]
        # The inversion network sees the whole batch in each of several processes, so that its BatchNorm is that of one.
        text = widened(sharded(self.read, self.inversion(image)))
        f = self.interaction(text, tokens)
        score = self.classifier(self.bottleneck(f))
        terms = self.criterion([score], [f, outputs["penultimate"], outputs["feature"], image], labels)
        both = contrast_terms(self.contrast, F.normalize(image), F.normalize(text), labels)
        terms |= {name: self.contrast_weight * term for name, term in both.items()}
        return terms, {"accuracy": accuracy(score, labels)}

    def embed(self, outputs: Outputs) -> Tensor:
        """f [B, E], or [f, feature, projected] [B, 2 E + D]."""
        tokens = outputs["tokens"].float()
        f = self.interaction(self._text(tokens[:, 0]).float(), tokens)
        if self.neck_feat == "after":
            f = self.bottleneck(f)
        return torch.cat((f, outputs["feature"].float(), tokens[:, 0]), dim=1) if self.concatenate else f

    def _text(self, image: Tensor) -> Tensor:
        if self.composed:
            return self.read(self.inversion(image))
        return self.text_encoder(self.fixed_sentence, self.fixed_end).expand(len(image), -1)

    def rate(self, name: str, stage: int, solver: CfgNode) -> Rate | None:
        if name.startswith("text_encoder.") or name == "bottleneck.bias":
            return None
        return super().rate(name, stage, solver)

    def check_start(self, state: Mapping[str, Tensor]) -> None:
        check_sentence(state, self.state_dict(), "template.", self.sentence)


class Interaction(nn.Module):
    """A text feature queries the image tokens (Eq. 7), and two transformer blocks follow; the first token is all.

    Args:
        width: E.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_text = nn.LayerNorm(width)
        self.ln_image = nn.LayerNorm(width)
        self.cross = CrossAttention(width, HEADS, causal=False)
        self.blocks = nn.ModuleList(ResidualAttentionBlock(width, HEADS, 4 * width, causal=False) for _ in range(2))
        self.ln_post = nn.LayerNorm(width)

    def forward(self, text: Tensor, tokens: Tensor) -> Tensor:
        """Text features [B, E] and image tokens [B, L, E] -> [B, E]."""
        x = self.cross(self.ln_text(text)[:, None], self.ln_image(tokens))
        for block in self.blocks:
            x = block(x)
        return self.ln_post(x[:, 0])


class CrossAttention(Attention):
    """Multi-head attention of some tokens to others."""

    def project(self, queries: Tensor, tokens: Tensor) -> list[Tensor]:
        """Queries [B, L', E] and tokens [B, L, E] -> queries, keys and values of the heads [B, heads, ., E / heads]."""
        maps = zip(self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True)
        return [
            F.linear(x, weight, bias).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x, (weight, bias) in zip((queries, tokens, tokens), maps, strict=True)
        ]

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """Queries [B, L', E], tokens [B, L, E] -> [B, L', E]."""
        mixed = F.scaled_dot_product_attention(*self.project(queries, tokens))
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


def inversion_network(image_width: int, word_width: int, hidden: int = 512) -> nn.Sequential:
    """From projected image features [B, E] to embeddings of pseudo-words [B, D]: three linear layers and BatchNorm."""
    return nn.Sequential(
        *(nn.Linear(image_width, hidden), nn.ReLU()),
        *(nn.Linear(hidden, hidden), nn.ReLU()),
        *(nn.Linear(hidden, word_width), nn.BatchNorm1d(word_width)),
    )
