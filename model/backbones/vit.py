"""The ViT of the re-identification methods that do not build on CLIP, under timm's parameter names.

As in TransReID (arXiv 2102.04378) patches may overlap (OLP), camera or view information may join every token (SIE), and
residual branches are dropped at random (stochastic depth). Letters in shapes: B images, L tokens, D width, N patches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.backbones.base import Backbone, LoadReport, Outputs
from model.backbones.saliency import ROLLOUT, scaled
from model.layers.dot_product import dot_product_attention
from model.layers.rollout import roll
from model.loading import copy_all, resized_table

LAYER_NORM_EPS = 1e-6
"""timm's ViTs have it; torch's own is 1e-5."""


@dataclass(frozen=True)
class ViTSize:
    """Channels, blocks, heads, patch side in pixels and timm's name of the pre-training, empty where there is none."""

    width: int
    depth: int
    heads: int
    patch: int = 16
    pretrained: str = ""


SIZES: dict[str, ViTSize] = {
    "vit_base_patch16_224": ViTSize(768, 12, 12, pretrained="vit_base_patch16_224.orig_in21k_ft_in1k"),
    "vit_small_patch16_224": ViTSize(384, 12, 6, pretrained="vit_small_patch16_224.augreg_in21k_ft_in1k"),
    "deit_base_distilled_patch16_224": ViTSize(768, 12, 12, pretrained="deit_base_distilled_patch16_224.fb_in1k"),
    "deit_small_distilled_patch16_224": ViTSize(384, 12, 6, pretrained="deit_small_distilled_patch16_224.fb_in1k"),
    "deit_tiny_distilled_patch16_224": ViTSize(192, 12, 3, pretrained="deit_tiny_distilled_patch16_224.fb_in1k"),
    # Ours, for tests and random starts on a CPU.
    "vit-tiny": ViTSize(32, 3, 2),
}
"""Sizes by ``MODEL.NAME``. A distilled DeiT is used without its distillation token, as TransReID does."""

CLASSIFIERS = ("head.", "head_dist.", "fc.", "pre_logits.")
"""Layers of the pre-training's classifier; ``fc`` is TransReID's name for it."""


class DropPath(nn.Module):
    """Stochastic depth (Huang et al., arXiv 1603.09382): drop a residual branch of an image with probability ``rate``.

    Branches that stay are divided by 1 - ``rate``. Does nothing in eval mode.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        kept = x.new_empty((len(x),) + (1,) * (x.dim() - 1)).bernoulli_(1 - self.rate)
        return x * kept / (1 - self.rate)


class Attention(nn.Module):
    """Multi-head self-attention with one map for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens [B, L, D] -> queries, keys and values [B, heads, L, D / heads]."""
        return tuple(part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))

    def merge(self, mixed: Tensor) -> Tensor:
        """What the heads have read [B, heads, L, D / heads] -> [B, L, D]."""
        return self.proj(mixed.transpose(1, 2).flatten(2))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens [B, L, D] -> [B, L, D]; ``mask`` [B, 1, L, L] is added to the scores."""
        if mask is None:
            return self.merge(dot_product_attention(*self.project(x)))
        return self.merge(F.scaled_dot_product_attention(*self.project(x), attn_mask=mask))


def attention_weights(query: Tensor, key: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) [B, heads, L, L'], which the fused attention does not return."""
    return (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1)


class Mlp(nn.Module):
    """Two linear maps with the exact GELU between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer block.

    Attributes:
        checkpointing: compute the block again in the backward pass, see ``SOLVER.GRAD_CHECKPOINTING``.
    """

    def __init__(self, width: int, heads: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, LAYER_NORM_EPS)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, LAYER_NORM_EPS)
        self.mlp = Mlp(width)
        self.drop_path = DropPath(drop_path)
        self.checkpointing = False

    def residual(self, x: Tensor, mixed: Tensor) -> Tensor:
        """What follows the attention: ``mixed`` [B, L, D] is added to the tokens x [B, L, D], then the MLP's."""
        x = x + self.drop_path(mixed)
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens [B, L, D] -> [B, L, D]; ``mask`` as of :class:`Attention`."""
        return recomputed(self, lambda x: self.residual(x, self.attn(self.norm1(x), mask)), x)

    def trace(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`forward`, with the attention weights [B, heads, L, L], which carry no gradient."""
        query, key, value = self.attn.project(self.norm1(x))
        weights = attention_weights(query.detach(), key.detach())
        return self.residual(x, self.attn.merge(F.scaled_dot_product_attention(query, key, value))), weights


def recomputed(block: Block, compute: Callable[..., Any], x: Tensor) -> Any:
    """``compute`` of tokens x; where ``block`` is checkpointing, computed again in the backward pass."""
    if block.checkpointing and torch.is_grad_enabled():
        return checkpoint(compute, x, use_reentrant=False)
    return compute(x)


class PatchEmbed(nn.Module):
    """Patches of an image as tokens; they overlap where ``stride`` is below ``patch``."""

    def __init__(self, width: int, patch: int, stride: tuple[int, int]) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, stride)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] -> [B, N, D], row by row."""
        return self.proj(images).flatten(2).transpose(1, 2)


def patch_grid(image_size: tuple[int, int], patch: int, stride: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of patches."""
    rows, columns = ((side - patch) // step + 1 for side, step in zip(image_size, stride, strict=True))
    return rows, columns


class ViT(Backbone):
    """The network with random weights, for images of one size.

    Outputs: ``tokens`` [B, 1 + N, D] behind the last norm, class token first, and ``feature`` [B, D], the class token.
    Methods that work between blocks call :meth:`embed`, ``blocks`` and ``norm`` themselves.

    Args:
        size: channels, blocks, heads and patch.
        image_size: height and width in pixels.
        stride: step between patches in pixels, rows and columns; None for the patch itself.
        drop_path: stochastic depth of the last block; it rises linearly from 0 in the first.
    """

    family: ClassVar[str] = "vit"
    saliency_kind = ROLLOUT
    positions = "pos_embed"

    def __init__(
        self,
        size: ViTSize,
        image_size: tuple[int, int],
        stride: tuple[int, int] | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        width, depth = size.width, size.depth
        stride = stride or (size.patch, size.patch)
        self.grid = patch_grid(image_size, size.patch, stride)
        self.dims = {"feature": width, "tokens": width}
        self.patch_embed = PatchEmbed(width, size.patch, stride)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + math.prod(self.grid), width))
        self.blocks = nn.ModuleList(Block(width, size.heads, drop_path * i / max(depth - 1, 1)) for i in range(depth))
        self.norm = nn.LayerNorm(width, LAYER_NORM_EPS)
        self.apply(initialise)
        for table in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(table, std=0.02)

    def embed(self, images: Tensor, side: Tensor | None = None) -> Tensor:
        """Images [B, 3, H, W] -> tokens [B, 1 + N, D] for the first block; ``side`` [B, D] joins all of them."""
        patches = self.patch_embed(images)
        tokens = torch.cat((self.cls_token.to(patches.dtype).expand(len(patches), -1, -1), patches), dim=1)
        tokens = tokens + self.pos_embed.to(patches.dtype)
        return tokens if side is None else tokens + side.to(tokens.dtype).unsqueeze(1)

    def forward(self, images: Tensor, side: Tensor | None = None) -> Outputs:
        x = self.embed(images, side)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return {"feature": x[:, 0], "tokens": x}

    def load(self, tensors: Mapping[str, Tensor]) -> LoadReport:
        """timm's and TransReID's files: ``jx_vit_base_p16_224-80ecf9dd.pth``, DeiT's, ``model.safetensors``."""
        report = LoadReport()
        distilled = "dist_token" in tensors
        ready: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            if name.startswith(CLASSIFIERS):
                report.skipped[name] = "classifier of the pre-training"
            elif name == "dist_token":
                report.skipped[name] = "distillation token"
            elif name == "pos_embed":
                ready[name] = self._positions(tensor, 2 if distilled else 1, report)
            else:
                ready[name] = tensor
        copy_all(self, ready)
        report.loaded = [name for name in ready if name not in report.resized]
        return report

    def _positions(self, table: Tensor, special: int, report: LoadReport) -> Tensor:
        """The table for this grid: class position, then patches; that of a distillation token is left out."""
        table = torch.cat((table[:, :1], table[:, special:]), dim=1)
        if table.shape[1] == self.pos_embed.shape[1]:
            return table
        resized, report.resized["pos_embed"] = resized_table(table, self.grid)
        return resized

    def trace(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens for the first block -> tokens behind the last [B, L, D], and attention rollout [B, L, L].

        No gradient passes through the rollout.
        """
        rolled = None
        for block in self.blocks:
            x, weights = recomputed(block, block.trace, x)
            rolled = roll(rolled, weights)
        return x, rolled

    @torch.no_grad()
    def saliency(self, images: Tensor, side: Tensor | None = None) -> Tensor:
        """Attention rollout from the class token to each patch."""
        return scaled(self.trace(self.embed(images, side))[1][:, 0, 1:].unflatten(1, self.grid))


def initialise(module: nn.Module) -> None:
    """Linear maps of a ViT start from a truncated normal distribution (0.02) and biases of 0."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
