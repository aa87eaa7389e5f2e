"""Saliency of an image encoder: attention rollout for ViTs, contributions to the feature for convolutional networks.

Both are for pictures; the computation of features is independent of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.layers.rollout import rollout

ROLLOUT = "attention rollout through all blocks"
CONTRIBUTIONS = "contribution of each place to the feature (gradient x activation)"
NORM = "norm of the last activations, whether or not the feature uses them"
"""What maps show, for captions."""


def scaled(maps: Tensor) -> Tensor:
    """Maps [B, h, w], each from 0 to 1."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp_min(torch.finfo(maps.dtype).tiny)


@torch.no_grad()
def attention_rollout(x: Tensor, blocks: Iterable[nn.Module], grid: tuple[int, int]) -> Tensor:
    """Attention of the class token to each patch through all blocks [B, h, w] (Abnar and Zuidema, arXiv 2005.00928).

    Args:
        x: tokens in front of the first block [B, 1 + h w, D].
        blocks: of CLIP's ViT.
        grid: h and w.
    """
    weights = []
    for block in blocks:
        weights.append(attention_weights(block.attn, block.ln_1(x)))
        x = block(x)
    return rollout(weights)[:, 0, 1:].unflatten(1, grid)


def attention_weights(attention: nn.Module, x: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) [B, heads, L, L], which the fused attention never shows."""
    query, key, _ = F.linear(x, attention.in_proj_weight, attention.in_proj_bias).float().chunk(3, dim=-1)
    query, key = (t.unflatten(-1, (attention.heads, -1)).transpose(1, 2) for t in (query, key))
    return (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1)


def contributions(maps: Tensor, feature: Callable[[Tensor], Tensor], channels: int = 1) -> Tensor:
    """What each place of the last maps adds to the squared length of the feature, its positive part [B, h, w].

    The gradient of f . f / 2 by the maps A, times A, summed over the channels: HiResCAM (Draelos and Carin, arXiv
    2011.08891) of the feature's agreement with itself, since a feature that is compared has no class scores. Where the
    feature is the mean of the maps, this is the share <A_p, f> / (h w) of a place p, and the shares add up to f . f.

    Args:
        maps: [B, D, h, w], or [B, h, w, D] with ``channels`` 3.
        feature: from these maps to features [B, F].
        channels: dimension of the channels.
    """
    with torch.inference_mode(False), torch.enable_grad():
        maps = maps.detach().clone().float().requires_grad_()
        found = feature(maps).float()
        (gradient,) = torch.autograd.grad((found * found.detach()).sum(), maps)
    return (gradient * maps.detach()).sum(channels).relu()
