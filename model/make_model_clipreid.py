"""CLIP-ReID (Li, Sun, Li, AAAI 2023, arXiv 2211.13977): prompts that are learned per identity, and the whole model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from model.baseline import ImageReID, SideInformation
from model.clip.clip import find_weights
from model.clip.model import TextEncoder
from model.clip.shapes import CLIPShape, named_shape, shape_of_checkpoint, shape_of_weights
from model.clip.simple_tokenizer import tokenize
from model.clip.weights import is_reid_checkpoint, read_clip_weights, read_reid_checkpoint, read_state_dict
from model.loading import load_clip_weights, load_reid_weights
from utils.errors import ReIDError
from utils.logger import LOGGER

if TYPE_CHECKING:
    from collections.abc import Mapping

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

    Args:
        sentence: see :class:`PromptLearner`.
        token_embedding: CLIP's token embedding table; None draws a random one (for checkpoints that are loaded next).
        other arguments: see :class:`ImageReID`.
    """

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

    def encode_text(self, labels: Tensor) -> Tensor:
        """Identities [B] -> features of their sentences [B, E], not normalised."""
        return self.text_encoder(self.prompt_learner(labels), self.prompt_learner.end)


TEXT_SIDE = ("prompt_learner.", "text_encoder.")
"""Parts of a checkpoint that a test has no use for."""

NO_OVERLAP = (16, 16)
"""The published default of ``MODEL.STRIDE_SIZE``; it stands for the patch's own size, whatever that is."""

LEARNABLE = "X X X X"
"""The four learnable tokens of the paper, for sentences that do not say how many."""


def make_model(cfg: CfgNode, num_classes: int, num_cameras: int, num_views: int, prompt: str) -> ImageReID:
    """The model that ``cfg`` describes, starting from CLIP's weights or, if asked for by name, from random ones.

    Args:
        cfg: ``MODEL.*``, ``INPUT.SIZE_TRAIN`` and ``TEST.NECK_FEAT`` are read.
        num_classes, num_cameras, num_views: counted on the training set.
        prompt: the data set's sentence, ``{}`` for the learnable tokens; ``MODEL.PROMPT`` goes before it.

    Raises:
        ReIDError: weights are missing, unreadable or do not fit.
    """
    weights = None
    if cfg.MODEL.PRETRAIN_CHOICE == "random":
        LOGGER.info("MODEL.PRETRAIN_CHOICE random: %s starts from random weights", cfg.MODEL.NAME)
        shape = named_shape(cfg.MODEL.NAME)
    else:
        path = find_weights(cfg.MODEL.NAME, cfg.MODEL.PRETRAIN_PATH)
        LOGGER.info("CLIP weights: %s", path)
        weights = read_clip_weights(path)
        shape = shape_of_weights(weights)
    side = _side_information(cfg, num_cameras, num_views)
    if cfg.MODEL.METHOD == "clipreid":
        table = None if weights is None else weights["token_embedding.weight"]
        prompts = {"sentence": cfg.MODEL.PROMPT or prompt.format(LEARNABLE), "token_embedding": table}
        model = CLIPReID(shape, num_classes, *_image_arguments(cfg), **prompts, **_image_options(cfg, side))
    else:
        model = ImageReID(shape, num_classes, *_image_arguments(cfg), **_image_options(cfg, side))
    if weights is not None:
        LOGGER.info("%s", load_clip_weights(model, weights).table())
    return model


def make_test_model(cfg: CfgNode, num_views: int) -> ImageReID:
    """The model in ``TEST.WEIGHT``, a CLIP-ReID checkpoint or CLIP weights as they are, ready to embed images.

    Sizes and the numbers of identities and cameras are read from the file, so neither CLIP's weights nor the training
    images are needed.

    Args:
        cfg: the configuration.
        num_views: of the data set; tells cameras from views where the side information has both.

    Raises:
        ReIDError: ``TEST.WEIGHT`` is empty, missing, unreadable or does not fit ``cfg``.
    """
    if not cfg.TEST.WEIGHT:
        raise ReIDError("TEST.WEIGHT is empty: add TEST.WEIGHT and the path of a checkpoint that training wrote.")
    state = read_state_dict(cfg.TEST.WEIGHT)
    if not is_reid_checkpoint(state):
        weights = read_clip_weights(cfg.TEST.WEIGHT)
        LOGGER.info("%s holds CLIP's own weights: the test is zero-shot", cfg.TEST.WEIGHT)
        model = ImageReID(shape_of_weights(weights), 1, *_image_arguments(cfg), **_image_options(cfg, None))
        LOGGER.info("%s", load_clip_weights(model, weights).table())
        return model
    side = _side_information(cfg, *_side_labels(cfg, state, num_views))
    num_classes = len(state["classifier.weight"])
    model = ImageReID(shape_of_checkpoint(state), num_classes, *_image_arguments(cfg), **_image_options(cfg, side))
    image_state = {name: tensor for name, tensor in state.items() if not name.startswith(TEXT_SIDE)}
    LOGGER.info("%s", load_reid_weights(model, image_state).table())
    return model


def load_prompts(model: CLIPReID, path: str) -> None:
    """Take the prompts that stage 1 learned from the checkpoint ``path``.

    Raises:
        ReIDError: they belong to another number of identities or another sentence.
    """
    state = read_reid_checkpoint(path)
    LOGGER.info("prompts of %s\n%s", path, load_reid_weights(model, state, only="prompt_learner.").table())


def _image_arguments(cfg: CfgNode) -> tuple[tuple[int, int], tuple[int, int] | None]:
    """Image size, and the step between patches where it is not the patch itself."""
    stride = tuple(cfg.MODEL.STRIDE_SIZE)
    return tuple(cfg.INPUT.SIZE_TRAIN), None if stride == NO_OVERLAP else stride


def _image_options(cfg: CfgNode, side: SideInformation | None) -> dict:
    return {
        "side_information": side,
        "cosine_head": cfg.MODEL.ID_LOSS_TYPE != "softmax",
        "neck_feat": cfg.TEST.NECK_FEAT,
    }


def _side_information(cfg: CfgNode, num_cameras: int, num_views: int) -> SideInformation | None:
    cameras = num_cameras if cfg.MODEL.SIE_CAMERA else 0
    views = num_views if cfg.MODEL.SIE_VIEW else 0
    return SideInformation(cameras, views, cfg.MODEL.SIE_COE) if cameras or views else None


def _side_labels(cfg: CfgNode, state: Mapping[str, Tensor], num_views: int) -> tuple[int, int]:
    """How many cameras and views the checkpoint's table was made for."""
    wanted = cfg.MODEL.SIE_CAMERA or cfg.MODEL.SIE_VIEW
    if ("cv_embed" in state) != wanted and cfg.MODEL.NAME.startswith("ViT"):
        raise ReIDError(
            f"{cfg.TEST.WEIGHT} was trained {'with' if 'cv_embed' in state else 'without'} side information; "
            "set MODEL.SIE_CAMERA and MODEL.SIE_VIEW as in its training."
        )
    rows = len(state["cv_embed"]) if wanted else 0
    if not (cfg.MODEL.SIE_CAMERA and cfg.MODEL.SIE_VIEW):
        return rows, rows
    if rows % num_views:
        raise ReIDError(
            f"{cfg.TEST.WEIGHT}: its side information has {rows} rows, no multiple of the data set's {num_views} views."
        )
    return rows // num_views, num_views
