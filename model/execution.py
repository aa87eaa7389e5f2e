"""How a model is executed: in how much memory and in which kernels. What it computes stays the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.batch_norm import synchronise_batch_norm
from model.clip.model import ImageFeatures, ModifiedResNet, Transformer
from utils.distributed import world_size
from utils.logger import LOGGER

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from model.baseline import ImageReID

Encode = Callable[[Tensor, Tensor, Tensor], ImageFeatures]
"""From images [B, 3, H, W], camera and view labels [B] to features."""


def set_execution(cfg: CfgNode, model: ImageReID) -> None:
    """Let ``model``, on its device, run as ``SOLVER.*`` asks. Parameters keep their names."""
    model.parts = cfg.SOLVER.STAGE2.ACCUMULATE
    for module in model.modules():
        if isinstance(module, Transformer):
            module.checkpointing = cfg.SOLVER.GRAD_CHECKPOINTING
    if isinstance(model.image_encoder, ModifiedResNet) and world_size() > 1:
        if cfg.SOLVER.SYNC_BN:
            synchronise_batch_norm(model.image_encoder)
        else:
            LOGGER.info("each process normalises by its own images: SOLVER.SYNC_BN True takes those of all")
    if cfg.SOLVER.CHANNELS_LAST and isinstance(model.image_encoder, ModifiedResNet):
        # Convolutions pass the format of their weights on to what they compute.
        model.image_encoder.to(memory_format=torch.channels_last)
    if cfg.SOLVER.COMPILE:
        model.image_encoder.compile()
        if hasattr(model, "text_encoder"):
            model.text_encoder.compile(dynamic=True)  # batches hold different numbers of identities


def encode_in_parts(encode: Encode, parts: int, images: Tensor, camids: Tensor, viewids: Tensor) -> ImageFeatures:
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
    return ImageFeatures(*(torch.cat(feature) for feature in zip(*features, strict=True)))


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
