"""CLIP-ReID (Li, Sun, Li, AAAI 2023, arXiv 2211.13977): a prompt is learned for each identity and guides the images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from loss import LossAndParts, Stage1Loss
from model.baseline import Collect, Guidance, ImageReID, SideInformation
from model.clip.model import ImageFeatures, TextEncoder
from model.clip.shapes import CLIPShape
from model.clip.simple_tokenizer import tokenize
from utils.distributed import in_shares
from utils.errors import ReIDError

if TYPE_CHECKING:
    from yacs.config import CfgNode


class PromptLearner(nn.Module):
    """Sentences such as "A photo of a [X]1 [X]2 [X]3 [X]4 hand." with the [X] learned for each identity (Eq. 3).

    The other tokens keep CLIP's embeddings; they are buffers, so that a checkpoint needs no token embedding table.

    Args:
        sentence: with one ``X`` for each learnable token.
        num_classes: C, the training identities.
        token_embedding: CLIP's table [vocabulary, D].
        context: tokens the text encoder reads.

    Raises:
        ReIDError: the sentence has no ``X``, or they do not stand together.
    """

    def __init__(self, sentence: str, num_classes: int, token_embedding: Tensor, context: int = 77) -> None:
        super().__init__()
        words = sentence.split()
        count = words.count("X")
        before = " ".join(words[: words.index("X")]) if count else ""
        if not count or words[words.index("X") :][:count] != ["X"] * count:
            raise ReIDError(
                f"MODEL.PROMPT = {sentence!r}: expected the learnable tokens as neighbouring X, "
                "for example 'A photo of a X X X X hand.'"
            )
        tokens = tokenize(sentence, context_length=context)
        first = int(tokenize(before, context_length=context).argmax())
        self.end = int(tokens.argmax())
        embedded = token_embedding[tokens[0]].float().unsqueeze(0)
        self.cls_ctx = nn.Parameter(torch.empty(num_classes, count, embedded.shape[-1]).normal_(std=0.02))
        self.register_buffer("token_prefix", embedded[:, :first].clone())
        self.register_buffer("token_suffix", embedded[:, first + count :].clone())

    def forward(self, labels: Tensor, whole: bool = False) -> Tensor:
        """Identities [B] -> embedded sentences [B, L, D], up to the end of the text or as a ``whole`` context."""
        context = self.cls_ctx[labels]
        suffix = self.token_suffix
        if not whole:
            suffix = suffix[:, : self.end + 1 - self.token_prefix.shape[1] - context.shape[1]]
        parts = (self.token_prefix.expand(len(labels), -1, -1), context, suffix.expand(len(labels), -1, -1))
        return torch.cat(parts, dim=1)


class CLIPReID(ImageReID):
    """CLIP-ReID: :class:`ImageReID` plus a prompt learner and CLIP's frozen text encoder.

    Stage 1 learns the prompts against image features that stay as they are, by :math:`L_{i2t} + L_{t2i}`. In stage 2
    the images follow the texts of all identities, by :math:`L_{i2tce}`: the logits are inner products with the
    projected feature, neither normalised nor scaled.

    Args:
        sentence: see :class:`PromptLearner`.
        token_embedding: CLIP's token embedding table; None draws a random one.
        other arguments: see :class:`ImageReID`.
    """

    stages = ([1, 2], [1], [2])
    reads_text = True
    loss_keys = ("I2T_LOSS_WEIGHT",)

    @classmethod
    def check(cls, cfg: CfgNode) -> None:
        if cfg.SOLVER.STAGES == [2] and not cfg.MODEL.STAGE1_WEIGHT:
            raise ReIDError(
                "SOLVER.STAGES = [2] without MODEL.STAGE1_WEIGHT: stage 2 would start from prompts that nobody "
                "learned. Name the checkpoint that stage 1 wrote, or run both stages."
            )
        learned = [i for i, word in enumerate(cfg.MODEL.PROMPT.split()) if word == "X"]
        if cfg.MODEL.PROMPT and not (1 <= len(learned) <= 60 and learned[-1] - learned[0] == len(learned) - 1):
            raise ReIDError(
                f"MODEL.PROMPT = {cfg.MODEL.PROMPT!r}: expected one X for each learnable token, 1 to 60 side by side, "
                "for example 'A photo of a X X X X hand.'"
            )

    def __init__(
        self,
        shape: CLIPShape,
        num_classes: int,
        image_size: tuple[int, int],
        stride: tuple[int, int] | None = None,
        *,
        sentence: str,
        token_embedding: Tensor | None = None,
        side_information: SideInformation | None = None,
        cosine_head: bool = False,
        neck_feat: str = "before",
    ) -> None:
        super().__init__(
            shape,
            num_classes,
            image_size,
            stride,
            side_information=side_information,
            cosine_head=cosine_head,
            neck_feat=neck_feat,
        )
        if token_embedding is None:
            token_embedding = 0.02 * torch.randn(shape.text.vocabulary, shape.text.width)
        self.prompt_learner = PromptLearner(sentence, num_classes, token_embedding, shape.text.context)
        self.text_encoder = TextEncoder(shape.text, shape.embed_dim)
        self.contrast = Stage1Loss()
        self.register_buffer("all_texts", None, persistent=False)

    def encode_text(self, labels: Tensor) -> Tensor:
        """Identities [B] -> features of their sentences [B, E], not normalised."""
        return self.text_encoder(self.prompt_learner(labels), self.prompt_learner.end)

    def stage1_loss(self, features: Tensor, labels: Tensor) -> LossAndParts:
        """:math:`L_{i2t} + L_{t2i}`; the text encoder sees each distinct identity of the batch once."""
        identities, position = labels.unique(return_inverse=True)
        return self.contrast(features, in_shares(self.encode_text, identities)[position], labels)

    def prepare(self, collect: Collect, chunk: int) -> None:
        """Texts of all identities [C, E]: neither prompts nor text encoder change any more."""

        def encode(labels: Tensor) -> Tensor:
            return torch.cat([self.encode_text(part).float() for part in labels.split(chunk)])

        self.all_texts = in_shares(encode, torch.arange(self.num_classes, device=self.prompt_learner.cls_ctx.device))

    def guide(self, features: ImageFeatures, texts: Tensor | None, labels: Tensor) -> Guidance:
        return Guidance(features.projected @ self.all_texts.T)
