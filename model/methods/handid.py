"""CLIP-HandID (Baisa, Pallam, Jayavel, arXiv 2506.12447): a network turns each image into a pseudo-word."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from loss import SupConLoss, contrast_terms
from model.backbones.base import Backbone, Outputs, TextTower
from model.base import DataFacts, Progress, Rate, Terms
from model.clip.prompts import Template, check_sentence, context_tokens, text_of
from model.methods.baseline import ImageReID
from utils.compute.distributed import sharded
from utils.compute.precision import widened

if TYPE_CHECKING:
    from collections.abc import Mapping

    from yacs.config import CfgNode


class HandID(ImageReID):
    """:class:`ImageReID` with textual inversion: a pseudo-word of each image in the sentence "A photo of a * hand".

    An inversion network turns the projected image feature into the word's embedding; CLIP's frozen text encoder reads
    the sentence, and gradients pass through it to the inversion network and on to the image encoder. Images and
    sentences of a batch attract each other by :math:`L_{i2t} + L_{t2i}`, with the identities as labels.

    Args:
        text: CLIP's text tower; None in a test.
        sentence: with one ``X`` for each pseudo-word.
        text_weight: of :math:`L_{i2t}` and :math:`L_{t2i}`.
        other arguments: see :class:`ImageReID`.
    """

    backbones = ("clip",)

    @classmethod
    def own_losses(cls, cfg: CfgNode) -> tuple[str, ...]:
        return ("I2T_LOSS_WEIGHT",)

    @classmethod
    def check(cls, cfg: CfgNode) -> None:
        super().check(cfg)
        if cfg.MODEL.PROMPT:
            context_tokens(cfg.MODEL.PROMPT)

    @classmethod
    def options(cls, cfg: CfgNode, backbone: Backbone, facts: DataFacts, training: bool) -> dict[str, Any]:
        return {
            "text": text_of(backbone, cfg.MODEL.METHOD) if training else None,
            "sentence": cfg.MODEL.PROMPT or facts.sentence.format("X"),
            "text_weight": cfg.MODEL.I2T_LOSS_WEIGHT,
        }

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        text: TextTower | None = None,
        sentence: str = "",
        text_weight: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(backbone, num_classes, **options)
        self.contrast = SupConLoss()
        self.text_weight = text_weight
        if text is not None:
            self.sentence = sentence
            self.template = Template(sentence, text.embedding, text.context)
            self.text_encoder = text.encoder
            count, width = self.template.free
            self.inversion = inversion_network(backbone.dims["projected"], count * width)

    def texts(self, images: Tensor) -> Tensor:
        """Projected features [B, E] -> features of their sentences [B, E]."""
        words = self.inversion(images).unflatten(1, self.template.free)
        return widened(sharded(lambda part: self.text_encoder(self.template.place(part), self.template.end), words))

    def losses(self, outputs: Outputs, labels: Tensor, at: Progress) -> tuple[Terms, Terms]:
        terms, shown = super().losses(outputs, labels, at)
        images = outputs["projected"]
        both = contrast_terms(self.contrast, images, self.texts(images), labels)
        return terms | {name: self.text_weight * term for name, term in both.items()}, shown

    def rate(self, name: str, stage: int, solver: CfgNode) -> Rate | None:
        return None if name.startswith("text_encoder.") else super().rate(name, stage, solver)

    def check_start(self, state: Mapping[str, Tensor]) -> None:
        check_sentence(state, self.state_dict(), "template.", self.sentence)


def inversion_network(image_width: int, word_width: int, dropout: float = 0.5) -> nn.Sequential:
    """From projected image features [B, E] to embeddings of pseudo-words [B, M D], through two layers of 4 E."""
    hidden = 4 * image_width
    return nn.Sequential(
        *(nn.Linear(image_width, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Dropout(dropout)),
        *(nn.Linear(hidden, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Dropout(dropout)),
        *(nn.Linear(hidden, word_width), nn.LayerNorm(word_width)),
    )
