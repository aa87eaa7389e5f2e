"""Zero-shot: image features of the pre-training as they are, and CLIP's own matching of images with sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor

from model.backbones.base import Backbone, TextTower
from model.base import DataFacts
from model.clip.prompts import sentence_features
from model.methods.baseline import ImageReID

if TYPE_CHECKING:
    from yacs.config import CfgNode


class ZeroShot(ImageReID):
    """No training: the features of CLIP's (arXiv 2103.00020) or another backbone's pre-training.

    Args:
        text: CLIP's text tower, to match sentences; None for none.
        other arguments: see :class:`ImageReID`. Features are those in front of the BNNecks, which are untrained.
    """

    stages = ()

    @classmethod
    def options(cls, cfg: CfgNode, backbone: Backbone, facts: DataFacts, training: bool) -> dict[str, Any]:
        return {"text": backbone.text if training else None}

    def __init__(self, *args: Any, text: TextTower | None = None, **options: Any) -> None:
        super().__init__(*args, **options | {"neck_feat": "before"})
        if text is not None and text.reads_words:
            self.context = text.context
            self.register_buffer("words", text.embedding.float(), persistent=False)
            self.text_encoder = text.encoder

    @property
    def matches_text(self) -> bool:
        """Whether :meth:`encode_sentences` can be called."""
        return hasattr(self, "text_encoder")

    def encode_sentences(self, sentences: Sequence[str]) -> Tensor:
        """Features [N, E] of N sentences, of length 1.

        Raises:
            ReIDError: a sentence is longer than the text encoder reads, or holds a mark of the tokenizer.
        """
        return F.normalize(sentence_features(self.text_encoder, self.words, self.context, sentences))
