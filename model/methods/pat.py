"""PAT, part-aware transformer (Li et al., arXiv 2106.04095): a reconstruction from the published description."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.backbones.base import Backbone, Outputs
from model.base import Batch, DataFacts, Progress, Terms
from model.layers.heads import accuracy, make_classifier
from model.methods.id_triplet import IDTripletMethod
from model.methods.requirements import loss_options
from utils.compute.precision import full_precision
from utils.errors import ReIDError

if TYPE_CHECKING:
    from yacs.config import CfgNode


class PAT(IDTripletMethod):
    """A transformer encoder over the pixels of the last map; learned part prototypes attend to them in a decoder.

    No code of the authors is known; every choice that the description leaves open is an argument.

    Args:
        backbone: with last stride 1.
        identities: C.
        parts: K, prototypes shared by all images.
        width: d, channels behind the reduction.
        std: of the prototypes when they start.
        heads: of self-attention.
        masks: of each prototype, the heads of its attention to the pixels.
        sigmoid: a mask is a sigmoid at each pixel in place of a softmax over all.
        encoders, decoders: layers of each.
        hidden: channels of the feed-forward layers.
        dropout: in the layers.
        norm_first: LayerNorm in front of each sublayer in place of behind it.
        positions: rows and columns have learned embeddings.
        neck: a BatchNorm between each feature and its classifier.
        joined: the parts have one classifier and triplet loss together, in place of one each.
        tested: ``both`` | ``whole`` | ``parts``: what the test feature is made of.
        part_weight, diversity_weight: of the losses of the parts, and of their mean cosine.
        losses: see :class:`IDTripletMethod`.
    """

    note = "a reconstruction, no published number of PAT belongs to it"

    def __init__(
        self,
        backbone: Backbone,
        identities: int,
        *,
        parts: int = 14,
        std: float = 0.02,
        width: int = 512,
        heads: int = 8,
        masks: int = 1,
        sigmoid: bool = False,
        encoders: int = 1,
        decoders: int = 1,
        hidden: int = 2048,
        dropout: float = 0.1,
        norm_first: bool = False,
        positions: bool = False,
        neck: bool = False,
        joined: bool = False,
        tested: str = "both",
        part_weight: float = 1.0,
        diversity_weight: float = 1.0,
        **losses: float | None,
    ) -> None:
        super().__init__(backbone, **losses)
        self.part_weight, self.diversity_weight = part_weight, diversity_weight
        self.reduction = nn.Conv2d(backbone.dims["map"], width, 1)
        self.prototypes = nn.Parameter(torch.randn(parts, width) * std)
        if positions:
            rows, columns = backbone.grid
            self.rows = nn.Parameter(torch.randn(rows, 1, width) * 0.02)
            self.columns = nn.Parameter(torch.randn(1, columns, width) * 0.02)
        self.positions = positions
        layer = (width, hidden, dropout, norm_first)
        self.encoder = nn.ModuleList(EncoderLayer(*layer, heads) for _ in range(encoders))
        self.decoder = nn.ModuleList(DecoderLayer(*layer, heads, masks, sigmoid) for _ in range(decoders))
        self.joined, self.tested = joined, tested
        widths = [width, *([parts * width] if joined else [width] * parts)]
        self.necks = nn.ModuleList(nn.BatchNorm1d(w) if neck else nn.Identity() for w in widths)
        self.classifiers = nn.ModuleList(make_classifier(w, identities) for w in widths)

    @classmethod
    def check(cls, cfg: CfgNode) -> None:
        super().check(cfg)
        own = cfg.MODEL.PAT
        for key in ("HEADS", "MASKS"):
            if own.WIDTH % own[key]:
                raise ReIDError(
                    f"MODEL.PAT.WIDTH = {own.WIDTH} with MODEL.PAT.{key} = {own[key]}: the heads divide the channels. "
                    f"Set WIDTH to a multiple, such as {max(own.WIDTH // own[key], 1) * own[key]}."
                )
        if own.PARTS < 2:
            raise ReIDError(f"MODEL.PAT.PARTS = {own.PARTS}: parts are compared with each other. Set it to 2 or more.")

    @classmethod
    def build(cls, cfg: CfgNode, backbone: Backbone, facts: DataFacts, training: bool) -> Self:
        own = cfg.MODEL.PAT
        return cls(
            backbone,
            facts.identities,
            parts=own.PARTS,
            std=own.PROTOTYPE_STD,
            width=own.WIDTH,
            heads=own.HEADS,
            masks=own.MASKS,
            sigmoid=own.MASK == "sigmoid",
            encoders=own.ENCODERS,
            decoders=own.DECODERS,
            hidden=own.HIDDEN,
            dropout=own.DROPOUT,
            norm_first=own.NORM == "before",
            positions=own.POSITIONS,
            neck=own.NECK,
            joined=own.PART_LOSS == "joined",
            tested=own.FEATURE,
            **loss_options(cfg),
            part_weight=own.PART_WEIGHT,
            diversity_weight=own.DIVERSITY_WEIGHT,
        )

    def forward(self, batch: Batch, at: Progress | None = None) -> Outputs:
        """``whole`` [B, d], the mean of the encoded pixels, and ``parts`` [B, K, d]."""
        pixels = self.encode(self.image_encoder(batch.images)["map"])
        return {"whole": pixels.mean(1), "parts": self.decode(pixels)}

    def encode(self, maps: Tensor) -> Tensor:
        """Maps [B, D, h, w] -> pixels with their context [B, h w, d]."""
        x = self.reduction(maps).flatten(2).transpose(1, 2)
        if self.positions:
            x = x + (self.rows + self.columns).flatten(0, 1)
        for layer in self.encoder:
            x = layer(x)
        return x

    def decode(self, pixels: Tensor) -> Tensor:
        """Pixels [B, h w, d] -> features of the parts [B, K, d]."""
        x = self.prototypes.expand(len(pixels), -1, -1)
        for layer in self.decoder:
            x = layer(x, pixels)
        return x

    def losses(self, outputs: Outputs, labels: Tensor, at: Progress) -> tuple[Terms, Terms]:
        """``id``, ``triplet`` of the whole; ``part_id``, ``part_triplet``, means over the parts; ``diversity``."""
        parts = outputs["parts"]
        features = [outputs["whole"], *([parts.flatten(1)] if self.joined else parts.unbind(1))]
        scores = [c(neck(x)) for c, neck, x in zip(self.classifiers, self.necks, features, strict=True)]
        identity = torch.stack([self.cross_entropy(score, labels) for score in scores])
        triplet = torch.stack([self.triplet(feature, labels) for feature in features])
        terms = {
            "id": self.id_weight * identity[0],
            "triplet": self.triplet_weight * triplet[0],
            "part_id": self.part_weight * self.id_weight * identity[1:].mean(),
            "part_triplet": self.part_weight * self.triplet_weight * triplet[1:].mean(),
            "diversity": self.diversity_weight * part_similarity(parts),
        }
        return terms, {"accuracy": accuracy(scores[0], labels)}

    def embed(self, outputs: Outputs) -> Tensor:
        """The whole and the parts side by side [B, (1 + K) d], or one of them; in front of the necks."""
        whole, parts = outputs["whole"], outputs["parts"].flatten(1)
        return {"both": torch.cat([whole, parts], dim=1), "whole": whole, "parts": parts}[self.tested]


class Attention(nn.Module):
    r"""Multi-head attention, :math:`\mathrm{softmax}(q k^T / \sqrt{d_k})\, v` with linear layers around it.

    Args:
        width: d.
        heads: which divide it.
        dropout: on the weights.
        sigmoid: each weight by itself in place of a softmax over the keys.
    """

    def __init__(self, width: int, heads: int, dropout: float, sigmoid: bool = False) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.heads, self.sigmoid, self.dropout = heads, sigmoid, nn.Dropout(dropout)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Queries of x [B, K, d], keys and values of the context [B, L, d] -> [B, K, d]."""
        value = self.value(context).unflatten(2, (self.heads, -1)).transpose(1, 2)
        found = self.dropout(self.masks(x, context)).to(value) @ value
        return self.out(found.transpose(1, 2).flatten(2))

    @full_precision
    def masks(self, x: Tensor, context: Tensor) -> Tensor:
        """Weights of the context for each query, [B, heads, K, L]."""
        query, key = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in (self.query(x), self.key(context)))
        scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
        return scores.sigmoid() if self.sigmoid else scores.softmax(3)


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward layers, each with residual connection and LayerNorm."""

    def __init__(self, width: int, hidden: int, dropout: float, norm_first: bool, heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads, dropout)
        self.feed = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, width), nn.Dropout(dropout)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.norm_first = norm_first

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B, L, d] -> [B, L, d]."""
        return self.residual(1, self.residual(0, x, self.look_around), self.feed)

    def look_around(self, x: Tensor) -> Tensor:
        """Attention of the tokens to one another."""
        return self.attention(x, x)

    def residual(self, index: int, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """x plus the sublayer's output, with the norm of that index in front of the sublayer or behind the sum."""
        norm = self.norms[index]
        return x + sublayer(norm(x)) if self.norm_first else norm(x + sublayer(x))


class DecoderLayer(EncoderLayer):
    """Self-attention of the prototypes, their attention to the pixels, and a feed-forward layer.

    The attention to the pixels has no residual connection: what a part is made of is the pixels under its mask alone.
    """

    def __init__(
        self, width: int, hidden: int, dropout: float, norm_first: bool, heads: int, masks: int, sigmoid: bool
    ) -> None:
        super().__init__(width, hidden, dropout, norm_first, heads)
        self.pooling = Attention(width, masks, dropout, sigmoid)

    def forward(self, x: Tensor, pixels: Tensor) -> Tensor:  # type: ignore[override]
        """Prototypes [B, K, d] and pixels [B, L, d] -> features of the parts [B, K, d]."""
        return self.residual(1, self.pooling(self.residual(0, x, self.look_around), pixels), self.feed)


def part_similarity(parts: Tensor) -> Tensor:
    """Mean cosine of different parts of an image, over the batch: [B, K, d] -> scalar. It is not clamped at 0."""
    unit = F.normalize(parts, dim=2)
    cosines = unit @ unit.transpose(1, 2)
    count = parts.shape[1]
    return (cosines.sum((1, 2)) - cosines.diagonal(dim1=1, dim2=2).sum(1)).mean() / (count * (count - 1))
