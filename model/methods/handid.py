"""CLIP-HandID (Baisa, Pallam, Jayavel, arXiv 2506.12447): each image is put into words by a network of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from loss import SupConLoss, contrast_terms
from model.clip.model import ImageFeatures, TextEncoder
from model.clip.prompts import Template, context_tokens
from model.clip.shapes import CLIPShape
from model.methods.baseline import Guidance, ImageReID
from utils.distributed import sharded

if TYPE_CHECKING:
    from yacs.config import CfgNode


class HandID(ImageReID):
    """:class:`ImageReID` with textual inversion: a pseudo-word of each image in the sentence "A photo of a * hand".

    An inversion network turns the projected image feature into the word's embedding; CLIP's frozen text encoder reads
    the sentence, and gradients pass through it to the inversion network and on to the image encoder. Images and
    sentences of a batch attract each other by :math:`L_{i2t} + L_{t2i}`, with the identities as labels.

    Args:
        sentence: with one ``X`` for each pseudo-word.
        token_embedding: CLIP's token embedding table; None draws a random one.
        text_weight: of :math:`L_{i2t}` and :math:`L_{t2i}`.
        other arguments: see :class:`ImageReID`.
    """

    reads_text = True
    learnable = "X"

    @classmethod
    def own_losses(cls, cfg: CfgNode) -> tuple[str, ...]:
        return ("I2T_LOSS_WEIGHT",)

    @classmethod
    def check(cls, cfg: CfgNode) -> None:
        if cfg.MODEL.PROMPT:
            context_tokens(cfg.MODEL.PROMPT)

    @classmethod
    def options(cls, cfg: CfgNode) -> dict[str, Any]:
        return {"text_weight": cfg.MODEL.I2T_LOSS_WEIGHT}

    def __init__(
        self,
        shape: CLIPShape,
        *args: Any,
        sentence: str,
        token_embedding: Tensor | None = None,
        text_weight: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(shape, *args, **options)
        if token_embedding is None:
            token_embedding = 0.02 * torch.randn(shape.text.vocabulary, shape.text.width)
        self.template = Template(sentence, token_embedding, shape.text.context)
        self.text_encoder = TextEncoder(shape.text, shape.embed_dim)
        count, width = self.template.free
        self.inversion = inversion_network(shape.embed_dim, count * width)
        self.contrast = SupConLoss()
        self.text_weight = text_weight

    def texts(self, features: ImageFeatures, labels: Tensor) -> Tensor:
        # The inversion sees the whole batch in each of several processes, so that its dropout is that of one.
        words = self.inversion(features.projected).unflatten(1, self.template.free)
        return sharded(lambda share: self.text_encoder(self.template.place(share), self.template.end), words)

    def guide(self, features: ImageFeatures, texts: Tensor | None, labels: Tensor) -> Guidance:
        terms = contrast_terms(self.contrast, features.projected, texts, labels)
        return Guidance(terms={name: self.text_weight * term for name, term in terms.items()})


def inversion_network(image_width: int, word_width: int, dropout: float = 0.5) -> nn.Sequential:
    """From projected image features [B, E] to embeddings of pseudo-words [B, M D], through two layers of 4 E."""
    hidden = 4 * image_width
    return nn.Sequential(
        *(nn.Linear(image_width, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Dropout(dropout)),
        *(nn.Linear(hidden, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Dropout(dropout)),
        *(nn.Linear(hidden, word_width), nn.LayerNorm(word_width)),
    )
