"""The CLIP network (Radford et al., arXiv 2103.00020) as CLIP-ReID uses it.

Two changes to the original, both from CLIP-ReID (arXiv 2211.13977): patches may overlap (OLP) and a camera/view vector
may be added to the ViT's class token (SIE); the last stage of the ResNet keeps its resolution. Parameter names are
OpenAI's. Letters in shapes: B images, L tokens, D width of the tower, E width of the shared space.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.backbones.base import Backbone, LoadReport, Outputs, TextTower
from model.backbones.saliency import CONTRIBUTIONS, ROLLOUT, attention_rollout, contributions, scaled
from model.clip.positions import pretraining_grid, resized_table
from model.clip.shapes import HEAD_WIDTH, CLIPShape, ResNetShape, TextShape, ViTShape
from model.layers.dot_product import dot_product_attention
from model.loading import copy_all

START_SCALE = math.log(1 / 0.07)
"""log(1 / 0.07), the logarithm of the logit scale that CLIP's pre-training starts from."""


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), the activation OpenAI trained CLIP with."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Attention(nn.Module):
    """Multi-head self-attention with the parameter names of ``nn.MultiheadAttention``."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, first_only: bool = False) -> Tensor:
        """[B, L, D] -> [B, L, D], or [B, 1, D] when only the first token is the query."""
        width = x.shape[-1]
        if first_only:
            weights, biases = self.in_proj_weight.split((width, 2 * width)), self.in_proj_bias.split((width, 2 * width))
            query = F.linear(x[:, :1], weights[0], biases[0])
            key, value = F.linear(x, weights[1], biases[1]).chunk(2, dim=-1)
        else:
            query, key, value = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        query, key, value = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (query, key, value))
        mixed = dot_product_attention(query, key, value, self.causal)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear maps with QuickGELU between."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, inner)
        self.gelu = QuickGELU()
        self.c_proj = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.gelu(self.c_fc(x)))


class ResidualAttentionBlock(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int, inner: int, causal: bool) -> None:
        super().__init__()
        self.attn = Attention(width, heads, causal)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = MLP(width, inner)
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, first_only: bool = False) -> Tensor:
        mixed = self.attn(self.ln_1(x), first_only)
        x = (x[:, :1] if first_only else x) + mixed
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """A stack of blocks.

    Args:
        width: D, channels.
        layers: blocks.
        heads: of the attention in a block.
        inner: channels inside an MLP; None for 4 D.
        causal: a token attends to itself and those before it.

    Attributes:
        checkpointing: keep each block's input alone and compute the rest again in the backward pass: the same
            gradients for less memory and a third more time.
    """

    def __init__(self, width: int, layers: int, heads: int, inner: int | None = None, causal: bool = False) -> None:
        super().__init__()
        self.checkpointing = False
        sizes = (width, heads, inner or 4 * width, causal)
        self.resblocks = nn.ModuleList(ResidualAttentionBlock(*sizes) for _ in range(layers))

    def forward(self, x: Tensor, stop: int | None = None) -> Tensor:
        """[B, L, D] -> [B, L, D] through all blocks, or those in front of block ``stop``."""
        for block in list(self.resblocks)[:stop]:
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return x


class CLIPImageEncoder(Backbone):
    """What both image towers share: outputs, names, loading.

    :meth:`forward` gives the three features that CLIP-ReID trains on: ``penultimate``, the class token after the last
    but one block [B, D], or the mean of stage 3 [B, D/2] of a ResNet; ``feature``, the class token after the last block
    and its norm [B, D], or the mean of stage 4 [B, D]; ``projected``, the same in the space shared with text [B, E].
    """

    family = "clip"

    @abstractmethod
    def scale_projection(self, factor: float) -> None:
        """Multiply ``projected`` by ``factor``, in place, in the last layer."""

    def load(self, tensors: Mapping[str, Tensor]) -> LoadReport:
        """Copy CLIP's tensors under OpenAI's names into this tower and :attr:`text`; see :meth:`Backbone.load`."""
        report = LoadReport()
        image = {n.removeprefix("visual."): t for n, t in tensors.items() if n.startswith("visual.")}
        table, name = image.get(self.positions), f"visual.{self.positions}"
        if table is not None and table.dim() == 2 and len(table) > 1:
            image[self.positions], said = resized_table(table, self.grid, pretraining_grid(len(table) - 1))
            report.resized |= {name: said} if said else {}
        copy_all(self, image, "visual.")
        report.loaded += [f"visual.{name}" for name in image if f"visual.{name}" not in report.resized]
        rest = {n: t for n, t in tensors.items() if not n.startswith("visual.")}
        if self.text is None:
            report.skipped |= dict.fromkeys(rest, "no text is read")
            return report
        self.text.embedding = rest.pop("token_embedding.weight").float()
        self.text.logit_scale = rest.pop("logit_scale", self.text.logit_scale).float()
        copy_all(self.text.encoder, rest, "")
        report.loaded += list(rest)
        return report


class VisionTransformer(CLIPImageEncoder):
    """CLIP's ViT for images of one size.

    Args:
        shape: sizes of the network.
        embed_dim: E.
        image_size: height and width in pixels.
        stride: step between patches in pixels (rows, columns); smaller than the patch for OLP.

    Attributes:
        side_on_all: add the camera/view vector to all tokens (TransReID, arXiv 2102.04378) and not to the class token
            alone (CLIP-ReID's code).
    """

    positions = "positional_embedding"
    saliency_kind = ROLLOUT

    def __init__(
        self, shape: ViTShape, embed_dim: int, image_size: tuple[int, int], stride: tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        stride = stride or (shape.patch, shape.patch)
        rows, columns = ((side - shape.patch) // step + 1 for side, step in zip(image_size, stride, strict=True))
        scale = shape.width**-0.5
        self.side_on_all = False
        self.grid = (rows, columns)
        self.dims = {"penultimate": shape.width, "feature": shape.width, "projected": embed_dim}
        self.class_embedding = nn.Parameter(scale * torch.randn(shape.width))
        self.positional_embedding = nn.Parameter(scale * torch.randn(rows * columns + 1, shape.width))
        self.proj = nn.Parameter(scale * torch.randn(shape.width, embed_dim))
        self.conv1 = nn.Conv2d(3, shape.width, shape.patch, stride, bias=False)
        self.ln_pre = nn.LayerNorm(shape.width)
        self.transformer = Transformer(shape.width, shape.layers, shape.heads, shape.inner)
        self.ln_post = nn.LayerNorm(shape.width)

    def embed(self, images: Tensor, side: Tensor | None = None) -> Tensor:
        """Images [B, 3, H, W] -> tokens [B, L, D] for the first block; ``side`` [B, D] is added to the first or all."""
        patches = self.conv1(images).flatten(2).transpose(1, 2)
        first = self.class_embedding.to(patches.dtype).expand(patches.shape[0], 1, -1)
        if side is not None:
            first = first + side.unsqueeze(1)
            if self.side_on_all:
                patches = patches + side.unsqueeze(1)
        return self.ln_pre(torch.cat([first, patches], dim=1) + self.positional_embedding.to(patches.dtype))

    def forward(self, images: Tensor, side: Tensor | None = None) -> Outputs:
        """Images [B, 3, H, W] and an optional camera/view vector [B, D] -> features of the class token."""
        x = self.transformer(self.embed(images, side), stop=-1)
        last = self.transformer.resblocks[-1]
        # Nothing reads the patches behind the last block, so only the class token goes through it.
        feature = self.ln_post(last(x, first_only=True)[:, 0])
        return {"penultimate": x[:, 0], "feature": feature, "projected": feature @ self.proj}

    @torch.no_grad()
    def scale_projection(self, factor: float) -> None:
        self.proj.mul_(factor)

    def forward_tokens(self, images: Tensor, side: Tensor | None = None) -> Outputs:
        """As :meth:`forward`, with all tokens in each of the three: [B, L, D], [B, L, D], [B, L, E]."""
        x = self.transformer(self.embed(images, side), stop=-1)
        feature = self.ln_post(self.transformer.resblocks[-1](x))
        return {"penultimate": x, "feature": feature, "projected": feature @ self.proj}

    @torch.no_grad()
    def saliency(self, images: Tensor, side: Tensor | None = None) -> Tensor:
        """Attention rollout, see :func:`model.backbones.saliency.attention_rollout`."""
        return scaled(attention_rollout(self.embed(images, side), self.transformer.resblocks, self.grid))


class Bottleneck(nn.Module):
    """Residual block whose strides are 2x2 average pools in front of 1x1 convolutions."""

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        outputs = planes * self.expansion
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.downsample: nn.Sequential | None = None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential()
            self.downsample.add_module("-1", nn.AvgPool2d(stride) if stride > 1 else nn.Identity())
            self.downsample.add_module("0", nn.Conv2d(inputs, outputs, 1, bias=False))
            self.downsample.add_module("1", nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.pool(F.relu(self.bn2(self.conv2(out))))
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(self.bn3(self.conv3(out)) + shortcut)


class AttentionPool2d(nn.Module):
    """Attention over [spatial mean, all positions]; the answer at the mean is the projected image feature."""

    def __init__(self, positions: int, width: int, heads: int, output: int) -> None:
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.randn(positions + 1, width) / width**0.5)
        self.k_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.c_proj = nn.Linear(width, output)
        for layer in (self.k_proj, self.q_proj, self.v_proj, self.c_proj):
            nn.init.normal_(layer.weight, std=width**-0.5)

    def forward(self, x: Tensor, first_only: bool = True) -> Tensor:
        """Feature map [B, D, H, W] -> [B, 1, E], or [B, 1 + HW, E] when every position is a query."""
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1)
        x = x + self.positional_embedding.to(x.dtype)
        queries = x[:, :1] if first_only else x
        query, key, value = (
            projection(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection, tokens in ((self.q_proj, queries), (self.k_proj, x), (self.v_proj, x))
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.c_proj(mixed.transpose(1, 2).flatten(2))


class ModifiedResNet(CLIPImageEncoder):
    """CLIP's ResNet: three-convolution stem, pooled strides, attention pooling; its last stage has stride 1.

    Args:
        shape: sizes of the network.
        embed_dim: E.
        image_size: height and width in pixels.
    """

    positions = "attnpool.positional_embedding"
    saliency_kind = CONTRIBUTIONS

    def __init__(self, shape: ResNetShape, embed_dim: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        width = shape.width
        rows, columns = (((side + 1) // 2) // 8 for side in image_size)
        self.grid = (rows, columns)
        self.dims = {"penultimate": 16 * width, "feature": 32 * width, "projected": embed_dim}
        self.conv1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.avgpool = nn.AvgPool2d(2)
        stages, inputs = [], width
        for planes, blocks, stride in zip((1, 2, 4, 8), shape.layers, (1, 2, 2, 1), strict=True):
            stages.append(self._stage(inputs, planes * width, blocks, stride))
            inputs = planes * width * Bottleneck.expansion
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.attnpool = AttentionPool2d(rows * columns, inputs, inputs // HEAD_WIDTH, embed_dim)

    @staticmethod
    def _stage(inputs: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
        rest = (Bottleneck(planes * Bottleneck.expansion, planes) for _ in range(blocks - 1))
        return nn.Sequential(Bottleneck(inputs, planes, stride), *rest)

    def maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images [B, 3, H, W] -> feature maps of stage 3 [B, D/2, H/16, W/16] and stage 4 [B, D, H/16, W/16]."""
        x = F.relu(self.bn1(self.conv1(images)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = self.avgpool(F.relu(self.bn3(self.conv3(x))))
        third = self.layer3(self.layer2(self.layer1(x)))
        return third, self.layer4(third)

    def forward(self, images: Tensor, side: Tensor | None = None) -> Outputs:
        """Images [B, 3, H, W] -> pooled features; a ResNet has no token to which ``side`` could be added."""
        third, fourth = self.maps(images)
        projected = self.attnpool(fourth)[:, 0]
        return {"penultimate": third.mean(dim=(2, 3)), "feature": fourth.mean(dim=(2, 3)), "projected": projected}

    @torch.no_grad()
    def scale_projection(self, factor: float) -> None:
        self.attnpool.c_proj.weight.mul_(factor)
        self.attnpool.c_proj.bias.mul_(factor)

    def saliency(self, images: Tensor, side: Tensor | None = None) -> Tensor:
        """Contributions to both features of stage 4, see :func:`model.backbones.saliency.contributions`."""
        with torch.no_grad():
            _, fourth = self.maps(images)
        return scaled(contributions(fourth, lambda x: torch.cat([x.mean((2, 3)), self.attnpool(x)[:, 0]], 1)))


class TextEncoder(nn.Module):
    """CLIP's text tower from embedded tokens on (its token embedding lies with the prompts)."""

    def __init__(self, shape: TextShape, embed_dim: int) -> None:
        super().__init__()
        width, layers = shape.width, shape.layers
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(shape.context, width))
        self.text_projection = nn.Parameter(width**-0.5 * torch.randn(width, embed_dim))
        self.transformer = Transformer(width, layers, shape.heads, causal=True)
        self.ln_final = nn.LayerNorm(width)
        for block in self.transformer.resblocks:
            nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
            nn.init.normal_(block.attn.out_proj.weight, std=width**-0.5 * (2 * layers) ** -0.5)
            nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
            nn.init.normal_(block.mlp.c_proj.weight, std=width**-0.5 * (2 * layers) ** -0.5)

    def forward(self, prompts: Tensor, end: int | Tensor) -> Tensor:
        """Embedded tokens [B, L, D] whose end-of-text token stands at ``end`` -> features [B, E], not normalised.

        Attention is causal, so what follows the end-of-text token cannot matter: callers may cut it off (L = end + 1).
        Sentences of different lengths have an ``end`` each, [B].
        """
        x = prompts + self.positional_embedding[: prompts.shape[1]].to(prompts.dtype)
        x = self.transformer(x)
        last = x[:, end] if isinstance(end, int) else x[torch.arange(len(x), device=x.device), end]
        return self.ln_final(last) @ self.text_projection

    @torch.no_grad()
    def scale_projection(self, factor: float) -> None:
        """Multiply the features by ``factor``, in place, in the last layer."""
        self.text_projection.mul_(factor)


def make_image_encoder(
    shape: CLIPShape, image_size: tuple[int, int], stride: tuple[int, int] | None = None
) -> CLIPImageEncoder:
    """The image tower for images of one size, with a text tower where ``shape`` has one; weights are random."""
    encoder: CLIPImageEncoder
    if isinstance(shape.image, ViTShape):
        encoder = VisionTransformer(shape.image, shape.embed_dim, image_size, stride)
    else:
        encoder = ModifiedResNet(shape.image, shape.embed_dim, image_size)
    if shape.text is not None:
        table = 0.02 * torch.randn(shape.text.vocabulary, shape.text.width)
        encoder.text = TextTower(TextEncoder(shape.text, shape.embed_dim), table, torch.tensor(START_SCALE))
    return encoder
