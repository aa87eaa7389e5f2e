"""How a model is executed: in how much memory and in which kernels. What it computes stays the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.backbones.timm_backbone import PooledFeature, TimmEncoder
from model.clip.model import ImageFeatures, ModifiedResNet, Transformer
from model.layers.batch_norm import synchronise_batch_norm
from utils.distributed import world_size
from utils.errors import ReIDError
from utils.logger import LOGGER

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from model.methods.baseline import ImageReID

Encode = Callable[[Tensor, Tensor, Tensor], ImageFeatures | PooledFeature]
"""From images [B, 3, H, W], camera and view labels [B] to features."""


def set_execution(cfg: CfgNode, model: ImageReID) -> None:
    """Let ``model``, on its device, run as ``SOLVER.*`` asks. Parameters keep their names.

    Raises:
        ReIDError: the backbone cannot be run so.
    """
    model.parts = cfg.SOLVER.STAGE2.ACCUMULATE
    for module in model.modules():
        if isinstance(module, Transformer):
            module.checkpointing = cfg.SOLVER.GRAD_CHECKPOINTING
    if _has_batch_statistics(model.image_encoder) and world_size() > 1:
        if cfg.SOLVER.SYNC_BN:
            if isinstance(model.image_encoder, TimmEncoder):
                raise ReIDError(
                    f"SOLVER.SYNC_BN with MODEL.NAME = {cfg.MODEL.NAME}: a backbone of timm may do more in its "
                    "layers than normalise. Set it to False, or train in one process."
                )
            synchronise_batch_norm(model.image_encoder)
        else:
            LOGGER.info("each process normalises by its own images: SOLVER.SYNC_BN True takes those of all")
    if cfg.SOLVER.GRAD_CHECKPOINTING and isinstance(model.image_encoder, TimmEncoder):
        _checkpoint_blocks(cfg.MODEL.NAME, model.image_encoder)
    if cfg.SOLVER.CHANNELS_LAST and isinstance(model.image_encoder, ModifiedResNet | TimmEncoder):
        # Convolutions pass the format of their weights on to what they compute.
        model.image_encoder.to(memory_format=torch.channels_last)
    if cfg.SOLVER.COMPILE:
        model.image_encoder.compile()
        if hasattr(model, "text_encoder"):
            model.text_encoder.compile(dynamic=True)  # batches hold different numbers of identities


def _has_batch_statistics(encoder: nn.Module) -> bool:
    return any(isinstance(module, nn.BatchNorm2d) for module in encoder.modules())


def _checkpoint_blocks(name: str, encoder: TimmEncoder) -> None:
    """As timm itself does it, which would count each batch into the statistics of a BatchNorm twice."""
    if _has_batch_statistics(encoder):
        raise ReIDError(
            f"SOLVER.GRAD_CHECKPOINTING with MODEL.NAME = {name}: it has batch normalisation, whose statistics would "
            "change. To save memory, raise SOLVER.STAGE2.ACCUMULATE."
        )
    try:
        encoder.network.set_grad_checkpointing(True)
    except (AssertionError, AttributeError) as error:
        raise ReIDError(
            f"SOLVER.GRAD_CHECKPOINTING with MODEL.NAME = {name}: timm cannot do it for this backbone ({error}). "
            "Raise SOLVER.STAGE2.ACCUMULATE."
        ) from None


def encode_in_parts(
    encode: Encode, parts: int, images: Tensor, camids: Tensor, viewids: Tensor
) -> ImageFeatures | PooledFeature:
    """Features of a whole batch while the encoder's activations are kept for no part of it.

    The backward pass encodes one part after the other again and accumulates the gradients. So everything behind the
    encoder, the losses that compare images and the BNNecks, sees all images of the batch, and for an encoder without
    batch statistics (ViT) the gradient is that of the undivided batch. The BatchNorm of a ResNet sees a part.
    """
    if parts == 1 or not torch.is_grad_enabled():
        return encode(images, camids, viewids)
    encoder = encode.__self__

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), _without_statistics(encoder)

    features = [
        checkpoint(encode, *part, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
        for part in zip(*(tensor.chunk(parts) for tensor in (images, camids, viewids)), strict=True)
    ]
    return type(features[0])(*(torch.cat(feature) for feature in zip(*features, strict=True)))


@contextmanager
def _without_statistics(model: nn.Module) -> Iterator[None]:
    """Do not count into the running statistics what is computed a second time."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0  # not track_running_stats: the recomputation must keep the same tensors as the first pass
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)
