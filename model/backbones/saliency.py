"""Where an image encoder looks: attention rollout for CLIP's ViTs, activation maps for ResNets and timm's backbones.

Both are for pictures; the way features are computed knows nothing of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from model.clip.model import Attention, ModifiedResNet, VisionTransformer


def scaled(maps: Tensor) -> Tensor:
    """Maps [B, h, w], each from 0 to 1."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp_min(torch.finfo(maps.dtype).tiny)


@torch.no_grad()
def attention_rollout(encoder: VisionTransformer, images: Tensor, side_vector: Tensor | None = None) -> Tensor:
    """Attention of the class token to each patch through all blocks [B, h, w] (Abnar and Zuidema, arXiv 2005.00928).

    The heads' mean attention A of each block is averaged with the identity, for the residual connection, and the
    blocks are multiplied: R = prod (A + I) / 2. Rows of R sum to 1.
    """
    x = encoder.embed(images, side_vector)
    rolled = torch.eye(x.shape[1], device=x.device).expand(len(x), -1, -1)
    for block in encoder.transformer.resblocks:
        weights = attention_weights(block.attn, block.ln_1(x)).mean(1)
        rolled = (weights @ rolled + rolled) / 2
        x = block(x)
    return rolled[:, 0, 1:].unflatten(1, encoder.grid)


def attention_weights(attention: Attention, x: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) [B, heads, L, L], which the fused attention never shows."""
    query, key, _ = F.linear(x, attention.in_proj_weight, attention.in_proj_bias).float().chunk(3, dim=-1)
    query, key = (t.unflatten(-1, (attention.heads, -1)).transpose(1, 2) for t in (query, key))
    return (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1)


@torch.no_grad()
def activation_map(encoder: ModifiedResNet, images: Tensor) -> Tensor:
    """Norm over the channels of the last stage's activations [B, h, w] (Zagoruyko and Komodakis, arXiv 1612.03928)."""
    return encoder.maps(images)[1].float().norm(dim=1)
