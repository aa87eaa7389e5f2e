"""Scaled dot-product attention, by the faster of two ways to compute it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

_WEIGHTS_AT_ONCE = 2**24


def dot_product_attention(query: Tensor, key: Tensor, value: Tensor, causal: bool = False) -> Tensor:
    """softmax(q k^T / sqrt(d)) v: [B, heads, L, d] of L queries and [B, heads, L', d] of L' keys and values.

    In a training in bfloat16 on a CPU the backward pass of torch's fused attention takes longer than matrix products,
    over the few tokens of a sentence five times as long. There the weights are computed for some images at a time and
    again in the backward pass, so that they need no more memory than the fused attention.

    Args:
        causal: each query reads the keys up to its own place.
    """
    trains = torch.is_grad_enabled() and query.requires_grad
    if not (trains and query.device.type == "cpu" and query.dtype is torch.bfloat16):
        return F.scaled_dot_product_attention(query, key, value, is_causal=causal)
    images = max(1, _WEIGHTS_AT_ONCE // (query.shape[1] * query.shape[2] * key.shape[2]))
    parts = zip(query.split(images), key.split(images), value.split(images), strict=True)
    how = {"use_reentrant": False, "preserve_rng_state": False}
    return torch.cat([checkpoint(_attention, *part, causal, **how) for part in parts])


def _attention(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
    # Scores in bfloat16 would be wrong by several percent where attention is sharp.
    with torch.autocast(query.device.type, enabled=False):
        scores = query.float() * query.shape[-1] ** -0.5 @ key.float().mT
        if causal:
            scores = scores + torch.full(scores.shape[-2:], -torch.inf).triu(1)
        return scores.softmax(-1).to(value.dtype) @ value
