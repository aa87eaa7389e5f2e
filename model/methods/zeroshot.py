"""Zero-shot: image features of the pre-training as they are, and CLIP's own matching of images with sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model.backbones.timm_backbone import TimmShape
from model.clip.model import TextEncoder
from model.clip.shapes import CLIPShape
from model.clip.simple_tokenizer import tokenize
from model.methods.baseline import ImageReID


class ZeroShot(ImageReID):
    """Nothing is trained: what CLIP (arXiv 2103.00020), or a backbone of timm, has learned elsewhere.

    Args:
        token_embedding: CLIP's token embedding table, to match sentences; None draws a random one.
        other arguments: see :class:`ImageReID`.
    """

    stages = ([],)
    takes_embeddings = True

    def __init__(
        self,
        shape: CLIPShape | TimmShape,
        *args: Any,
        token_embedding: Tensor | None = None,
        **options: Any,
    ) -> None:
        # Nobody has trained a BNNeck, so features are those in front of it.
        super().__init__(shape, *args, **options | {"neck_feat": "before"})
        if shape.text is not None:
            if token_embedding is None:
                token_embedding = 0.02 * torch.randn(shape.text.vocabulary, shape.text.width)
            self.context = shape.text.context
            self.register_buffer("token_table", token_embedding.float(), persistent=False)
            self.text_encoder = TextEncoder(shape.text, shape.embed_dim)

    @property
    def matches_text(self) -> bool:
        """Whether :meth:`encode_sentences` can be called."""
        return hasattr(self, "text_encoder")

    @torch.no_grad()
    def encode_sentences(self, sentences: Sequence[str]) -> Tensor:
        """Features [N, E] of N sentences, of length 1.

        Raises:
            ReIDError: a sentence is longer than the text encoder reads.
        """
        tokens = tokenize(sentences, context_length=self.context).to(self.token_table.device)
        ends = tokens.argmax(1)
        embedded = self.token_table[tokens[:, : int(ends.max()) + 1]]
        return F.normalize(self.text_encoder(embedded, ends).float())
