"""Sentences with learnable tokens (CLIP-ReID, arXiv 2211.13977, section 3.2)."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from model.clip.simple_tokenizer import encode, refuse_marks, tokenize
from utils.errors import ReIDError

LEARNABLE = re.compile(r"(?<![^\W_])X(?:\s+X)*(?![^\W_])")
"""X side by side, each a word of its own; punctuation may touch them."""
COMPOUND = re.compile(r"X-[^\W_]{2}")
"""How a word such as X-ray begins."""


def context_tokens(sentence: str) -> tuple[str, int]:
    """The text before the learnable tokens of a ``MODEL.PROMPT``, and how many learnable tokens there are.

    Raises:
        ReIDError: there are none, too many, or they do not stand together; or the sentence holds a mark of the
            tokenizer.
    """
    runs = list(LEARNABLE.finditer(sentence))
    if len(runs) > 1:
        runs = [run for run in runs if run[0] != "X" or not COMPOUND.match(sentence, run.start())]
    count = len(runs[0][0].split()) if len(runs) == 1 else 0
    if not 1 <= count <= 60:
        raise ReIDError(
            f"MODEL.PROMPT = {sentence!r}: expected one X for each learnable token, 1 to 60 side by side, "
            "for example 'A photo of a X X X X hand.'"
        )
    refuse_marks([sentence], "MODEL.PROMPT")
    before, after = sentence[: runs[0].start()], sentence[runs[0].end() :]
    if encode(sentence) != [*encode(before), *encode("X") * count, *encode(after)]:
        raise ReIDError(
            f"MODEL.PROMPT = {sentence!r}: an X joins what stands beside it to one token. Put blanks around each X."
        )
    return before, count


class Template(nn.Module):
    """A sentence such as "A photo of a [X]1 [X]2 [X]3 [X]4 hand." whose [X] can be any vectors.

    The other tokens keep CLIP's embeddings; they are buffers, so that a checkpoint needs no token embedding table.

    Args:
        sentence: with one ``X`` for each free token.
        token_embedding: CLIP's table [vocabulary, D].
        context: tokens the text encoder reads.

    Raises:
        ReIDError: the sentence has no ``X``, or they do not stand together.
    """

    def __init__(self, sentence: str, token_embedding: Tensor, context: int = 77) -> None:
        super().__init__()
        before, count = context_tokens(sentence)
        tokens = tokenize(sentence, context_length=context)
        first = int(tokenize(before, context_length=context).argmax())
        self.end = int(tokens.argmax())
        embedded = token_embedding[tokens[0]].float().unsqueeze(0)
        self.free = (count, embedded.shape[-1])
        self.register_buffer("token_prefix", embedded[:, :first].clone())
        self.register_buffer("token_suffix", embedded[:, first + count :].clone())

    def place(self, context: Tensor, whole: bool = False) -> Tensor:
        """Free tokens [B, M, D] -> embedded sentences [B, L, D], up to the end of the text or a ``whole`` context."""
        suffix = self.token_suffix
        if not whole:
            suffix = suffix[:, : self.end + 1 - self.token_prefix.shape[1] - context.shape[1]]
        count = len(context)
        return torch.cat((self.token_prefix.expand(count, -1, -1), context, suffix.expand(count, -1, -1)), dim=1)


class PromptLearner(Template):
    """A sentence for each identity, its [X] learned (Eq. 3).

    Args:
        sentence, token_embedding, context: see :class:`Template`.
        num_classes: C, the training identities.
    """

    def __init__(self, sentence: str, num_classes: int, token_embedding: Tensor, context: int = 77) -> None:
        super().__init__(sentence, token_embedding, context)
        self.cls_ctx = nn.Parameter(torch.empty(num_classes, *self.free).normal_(std=0.02))

    def forward(self, labels: Tensor, whole: bool = False) -> Tensor:
        """Identities [B] -> embedded sentences [B, L, D], up to the end of the text or as a ``whole`` context."""
        return self.place(self.cls_ctx[labels], whole)
