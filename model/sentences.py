"""The text encoder that belongs to the weights of a test, to compare images with sentences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from model.backbones.registry import read_pretraining
from model.clip.model import TextEncoder
from model.clip.prompts import sentence_features
from model.clip.shapes import shape_of_checkpoint, shape_of_weights
from model.clip.weights import clip_weights, is_reid_checkpoint, read_state_dict
from model.loading import copy_all
from utils.errors import ReIDError

if TYPE_CHECKING:
    from yacs.config import CfgNode

ENCODER = "text_encoder."
TRAINED_TABLE = "alignment.token_embedding"
"""Token embeddings in a checkpoint whose training had stage 0."""
TOLERANCE = 1e-3
"""Largest difference between a checkpoint's text encoder and its pre-training's, which may be stored in float16."""


def sentence_encoder(cfg: CfgNode) -> Callable[[Sequence[str]], Tensor]:
    """From N sentences to features [N, E] of length 1 in the space of the projected image feature.

    Args:
        cfg: ``TEST.WEIGHT`` holds CLIP's weights, or a checkpoint with a text encoder. Such a checkpoint has token
            embeddings only after stage 0; otherwise they are read from the pre-training that ``MODEL`` names.

    Raises:
        ReIDError: there is no text encoder, or no token embeddings that belong to it.
    """
    path = cfg.TEST.WEIGHT
    tensors = read_state_dict(path)
    if not is_reid_checkpoint(tensors):
        tensors = clip_weights(tensors, path)
        shape, table = shape_of_weights(tensors), tensors["token_embedding.weight"]
    else:
        shape = shape_of_checkpoint(tensors)
        if shape.text is None:
            raise ReIDError(
                f"{path}: there is no text encoder in it, so no sentence can be compared with its images. Take a "
                "checkpoint of a method with text, such as MODEL.METHOD clipreid, or CLIP's own weights."
            )
        own = {name.removeprefix(ENCODER): t for name, t in tensors.items() if name.startswith(ENCODER)}
        table = tensors[TRAINED_TABLE] if TRAINED_TABLE in tensors else _table_of_pretraining(cfg, own)
        tensors = own
    encoder = TextEncoder(shape.text, shape.embed_dim)
    names = encoder.state_dict().keys()
    copy_all(encoder, {name: tensors[name] for name in names if name in tensors}, ENCODER)
    encoder.eval()
    return lambda sentences: F.normalize(sentence_features(encoder, table, shape.text.context, sentences))


def _table_of_pretraining(cfg: CfgNode, own: Mapping[str, Tensor]) -> Tensor:
    """Token embeddings of the pre-training, if its text encoder is the checkpoint's."""
    if cfg.MODEL.PRETRAIN_CHOICE == "random":
        raise ReIDError(
            f"{cfg.TEST.WEIGHT}: its training started from random weights, so its text encoder has no trained word "
            "embeddings. "
            "Take a checkpoint that started from CLIP's weights or from MODEL.PRETRAIN_CHOICE hands."
        )
    path, tensors = read_pretraining(cfg)
    start = clip_weights(tensors, path)
    same = all(
        name in start and start[name].shape == tensor.shape and torch.allclose(start[name], tensor, atol=TOLERANCE)
        for name, tensor in own.items()
    )
    if not same:
        raise ReIDError(
            f"{cfg.TEST.WEIGHT}: its text encoder is not that of {path}, whose token embeddings it would need. Set "
            "MODEL.PRETRAIN_CHOICE and MODEL.PRETRAIN_PATH as in its training."
        )
    return start["token_embedding.weight"]
