"""Attention rollout (Abnar and Zuidema, arXiv 2005.00928): what each token draws from others through all blocks."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce

import torch
from torch import Tensor

from utils.compute.precision import full_precision


@full_precision
def roll(rolled: Tensor | None, attention: Tensor) -> Tensor:
    r"""One more block: attention [B, heads, L, L] and the rollout of the blocks before it [B, L, L] -> [B, L, L].

    The heads' mean :math:`A_l` is averaged with the identity, for the residual connection:
    :math:`R_l = (A_l + I) / 2 \; R_{l-1}`. Rows sum to 1. ``rolled`` is None for the first block.
    """
    mean = attention.mean(1)
    step = (mean + torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)) / 2
    return step if rolled is None else step @ rolled


def rollout(attentions: Iterable[Tensor]) -> Tensor:
    """The rollout [B, L, L] of all blocks, from each block's attention [B, heads, L, L]."""
    return reduce(roll, attentions, None)
