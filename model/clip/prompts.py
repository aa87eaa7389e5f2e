"""Sentences with learnable tokens (CLIP-ReID, arXiv 2211.13977, section 3.2)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.clip.simple_tokenizer import encode, refuse_marks, tokenize
from utils.errors import ReIDError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from model.backbones.base import Backbone, TextTower

LEARNABLE = re.compile(r"(?<![^\W_])X(?:\s+X)*(?![^\W_])")
"""X side by side, each a word of its own; punctuation may touch them."""
COMPOUND = re.compile(r"X-[^\W_]{2}")
"""How a word such as X-ray begins."""
SENTENCES_AT_ONCE = 64
"""Sentences of about the same length that pass the text encoder together, each group with a context of its own."""
KEPT_SENTENCES = 256
"""With more of them, the activations of a group are computed again in the backward pass."""


def encode_tokens(encoder: nn.Module, table: Tensor, tokens: Tensor) -> Tensor:
    """Features [N, E] of sentences [N, L], not normalised.

    Args:
        encoder: CLIP's text encoder.
        table: token embeddings [vocabulary, D].
        tokens: as :func:`model.clip.simple_tokenizer.tokenize` gives them.
    """
    ends = tokens.argmax(1)
    order = ends.argsort(stable=True)
    parts = order.split(SENTENCES_AT_ONCE)
    again = len(order) > KEPT_SENTENCES and torch.is_grad_enabled()

    def one(rows: Tensor) -> Tensor:
        context = int(ends[rows].max()) + 1
        return encoder(F.embedding(tokens[rows, :context], table), ends[rows])

    found = [checkpoint(one, rows, use_reentrant=False) if again else one(rows) for rows in parts]
    return torch.cat(found)[order.argsort()]


@torch.no_grad()
def sentence_features(encoder: nn.Module, table: Tensor, context: int, sentences: Sequence[str]) -> Tensor:
    """Features [N, E] of N sentences, not normalised.

    Args:
        encoder, table: as for :func:`encode_tokens`.
        context: tokens that the encoder reads.

    Raises:
        ReIDError: a sentence is longer than the text encoder reads, or holds a mark of the tokenizer.
    """
    refuse_marks(sentences, "a sentence")
    tokens = tokenize(sentences, context_length=context).to(table.device)
    return encode_tokens(encoder, table, tokens).float()


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
            f"MODEL.PROMPT = {sentence!r}: an X and the text beside it are one token. Put blanks around each X."
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
        self.tokens, self.first = tokens[0], first
        self.free = (count, token_embedding.shape[-1])
        self.register_buffer("token_prefix", torch.empty(1, first, self.free[1]))
        self.register_buffer("token_suffix", torch.empty(1, context - first - count, self.free[1]))
        self.read_words(token_embedding)

    @torch.no_grad()
    def read_words(self, token_embedding: Tensor) -> None:
        """Take the embeddings of the fixed tokens from the table [vocabulary, D]."""
        embedded = token_embedding[self.tokens.to(token_embedding.device)].float().unsqueeze(0)
        self.token_prefix.copy_(embedded[:, : self.first])
        self.token_suffix.copy_(embedded[:, self.first + self.free[0] :])

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

    def check(self, state: Mapping[str, Tensor], prefix: str) -> None:
        """Refuse prompts under ``prefix`` in a checkpoint that were learned for other identities or another sentence.

        Raises:
            ReIDError: naming the tensor and what to set.
        """
        learned, wanted = state.get(f"{prefix}cls_ctx"), self.cls_ctx
        if learned is None or learned.shape != wanted.shape:
            found = "none" if learned is None else f"{prefix}cls_ctx {list(learned.shape)}"
            raise ReIDError(
                f"the prompts of {len(wanted)} identities, {prefix}cls_ctx {list(wanted.shape)}, were expected; "
                f"found {found}. Prompts can't be moved to another data set: run stage 1 on this one."
            )
        for name in ("token_prefix", "token_suffix"):
            own, other = self.get_buffer(name), state.get(f"{prefix}{name}")
            fits = other is not None and other.shape == own.shape
            if not fits or not torch.allclose(other, own.float().cpu(), atol=1e-3):
                raise ReIDError(
                    f"{prefix}{name} differs: the prompts were learned inside another sentence or with other CLIP "
                    "weights. Set MODEL.PROMPT and MODEL.PRETRAIN_PATH as in their stage 1."
                )


def text_of(backbone: Backbone, method: str) -> TextTower:
    """The text tower of ``backbone``, for a ``method`` that needs one.

    Raises:
        ReIDError: there is none.
    """
    if backbone.text is None:
        raise ReIDError(
            f"there is no text encoder in it, which MODEL.METHOD {method} needs. Start from CLIP's weights or from a "
            "checkpoint of CLIP-ReID, or set MODEL.METHOD to baseline."
        )
    return backbone.text


def check_sentence(state: Mapping[str, Tensor], own: Mapping[str, Tensor], prefix: str, sentence: str) -> None:
    """Compare a checkpoint's sentence with the model's: tokens before the X, number of X, tokens after them.

    The fixed words must be those of the file, which has no token embedding table.

    Args:
        state, own: tensors of the file and of the model.
        prefix: of the embeddings, ``prompt_learner.`` or ``template.``.
        sentence: the model's, for messages.

    Raises:
        ReIDError: they differ, or the file has no sentence.
    """
    names = (f"{prefix}token_prefix", f"{prefix}token_suffix")
    missing = [name for name in names if name not in state]
    if missing:
        raise ReIDError(
            f"there is no {missing[0]}: this checkpoint has no sentence of this method to start from. Train with "
            "MODEL.METHOD baseline, or start from CLIP's weights."
        )
    found, wanted = _counts(state, names), _counts(own, names)
    if found != wanted:
        said = "{} tokens before the learned ones, {} learned, {} after (start and end of the text included)"
        raise ReIDError(
            f"the checkpoint's sentence has {said.format(*found)}; {sentence!r} has {said.format(*wanted)}. The file "
            "has no token embeddings for another sentence: set MODEL.PROMPT to the checkpoint's own, or start from "
            "CLIP's weights."
        )


def _counts(tensors: Mapping[str, Tensor], names: tuple[str, str]) -> tuple[int, int, int]:
    """Tokens before, among and after the X. Padding, many copies of one embedding, does not count."""
    prefix, suffix = (tensors[name] for name in names)
    context = len(tensors["text_encoder.positional_embedding"])
    distinct = (suffix[0] != suffix[0, -1]).any(dim=1).nonzero()
    after = int(distinct[-1]) + 1 if len(distinct) else 0
    return prefix.shape[1], context - prefix.shape[1] - suffix.shape[1], after
