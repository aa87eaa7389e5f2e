"""How a model is executed: in how much memory and by which kernels. The results stay the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from model.backbones.timm_backbone import TimmEncoder
from model.backbones.vit import Block
from model.base import Method
from model.clip.model import Transformer
from model.layers.batch_norm import synchronise_batch_norm
from utils.compute.distributed import world_size
from utils.console.logger import LOGGER
from utils.errors import ReIDError

if TYPE_CHECKING:
    from yacs.config import CfgNode


def set_execution(cfg: CfgNode, model: Method) -> None:
    """Let ``model``, on its device, run as ``SOLVER.*`` says. Parameters keep their names.

    Raises:
        ReIDError: the backbone cannot be run so.
    """
    for module in model.modules():
        if isinstance(module, Transformer | Block):
            module.checkpointing = cfg.SOLVER.GRAD_CHECKPOINTING
    encoder = model.image_encoder
    if _has_batch_statistics(encoder) and world_size() > 1:
        if cfg.SOLVER.SYNC_BN:
            synchronise_batch_norm(model)
        else:
            LOGGER.info("each process normalises by its own images; SOLVER.SYNC_BN True uses those of all processes")
    if cfg.SOLVER.GRAD_CHECKPOINTING and isinstance(encoder, TimmEncoder):
        _checkpoint_blocks(cfg.MODEL.NAME, encoder)
    if cfg.SOLVER.CHANNELS_LAST and (_has_batch_statistics(encoder) or isinstance(encoder, TimmEncoder)):
        # Convolutions pass the format of their weights on to what they compute.
        encoder.to(memory_format=torch.channels_last)
    if cfg.SOLVER.COMPILE:
        encoder.compile()
        if hasattr(model, "text_encoder"):
            model.text_encoder.compile(dynamic=True)  # batches hold different numbers of identities


def _has_batch_statistics(encoder: nn.Module) -> bool:
    return any(isinstance(module, _BatchNorm) for module in encoder.modules())


def _checkpoint_blocks(name: str, encoder: TimmEncoder) -> None:
    """As timm itself does it, which would count each batch into the statistics of a BatchNorm twice."""
    if _has_batch_statistics(encoder):
        raise ReIDError(
            f"SOLVER.GRAD_CHECKPOINTING with MODEL.NAME = {name}: it has batch normalisation, whose statistics would "
            "change. To save memory, raise SOLVER.STAGE2.MICRO_BATCHES."
        )
    try:
        encoder.network.set_grad_checkpointing(True)
    except (AssertionError, AttributeError) as error:
        raise ReIDError(
            f"SOLVER.GRAD_CHECKPOINTING with MODEL.NAME = {name}: timm cannot do it for this backbone ({error}). "
            "Raise SOLVER.STAGE2.MICRO_BATCHES."
        ) from None
