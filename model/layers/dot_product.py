"""Scaled dot-product attention, by the faster of two ways to compute it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

_WEIGHTS_AT_ONCE = 2**24


def dot_product_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v: [B, heads, L, d] of L queries and [B, heads, L', d] of L' keys and values.

    In a training in bfloat16 on a CPU the backward pass of torch's fused attention takes three times as long as matrix
    products. There the weights are computed for some images at a time and again in the backward pass, so that they need
    no more memory than the fused attention.
    """
    trains = torch.is_grad_enabled() and query.requires_grad
    if not (trains and query.device.type == "cpu" and query.dtype is torch.bfloat16):
        return F.scaled_dot_product_attention(query, key, value)
    images = max(1, _WEIGHTS_AT_ONCE // (query.shape[1] * query.shape[2] * key.shape[2]))
    parts = zip(query.split(images), key.split(images), value.split(images), strict=True)
    return torch.cat([checkpoint(_attention, *part, use_reentrant=False, preserve_rng_state=False) for part in parts])


def _attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return (query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)).softmax(-1).to(value.dtype) @ value
