"""SAN (Jin et al., arXiv 1905.13143) with joint optimisation: a decoder paints the texture of a body's surface."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.backbones.base import Backbone, Outputs
from model.backbones.resnet import ResNet
from model.base import Batch, DataFacts, Progress, Terms
from model.layers.heads import accuracy
from model.methods.id_triplet import IDTripletMethod
from model.methods.requirements import loss_options
from utils.console.logger import LOGGER
from utils.errors import ReIDError

if TYPE_CHECKING:
    from yacs.config import CfgNode

ROLES = (((0, 1), (0, 0)), ((1, 2), (1, 1)), ((2, 3), (2, 2)), ((0, 3), (3, 0)))
"""For each of the decoder's four maps: two images of an identity as the near pair, and an image of it and one of the
next identity as the far pair; the last pair is as the released code has it.
"""

_NARROWEST = 64
"""Side in pixels below which the decoder cannot pad its maps by reflection."""


class SAN(IDTripletMethod):
    """ResNet with a hidden layer and a classifier; in training a decoder paints each image's texture from its maps.

    The decoder's maps after each doubling have triplet terms, which act as a perceptual loss. A test leaves it out.

    Args:
        backbone: with last stride 1.
        identities: C.
        hidden: channels of the feature.
        decoder: whether there is one, in training.
        double_width: the texture is twice as wide as the image, as published.
        map_margin: of the terms on the decoder's maps.
        texture_weight, map_weight: of the terms of the decoder.
        losses: see :class:`IDTripletMethod`.
    """

    train_only: ClassVar[tuple[str, ...]] = ("decoder.",)
    note = "SAN, joint optimisation: one total and one optimiser, so no published number of SAN belongs to it"

    def __init__(
        self,
        backbone: ResNet,
        identities: int,
        *,
        hidden: int = 512,
        decoder: bool = True,
        double_width: bool = True,
        map_margin: float = 0.3,
        texture_weight: float = 1.0,
        map_weight: float = 1.0,
        **losses: float | None,
    ) -> None:
        super().__init__(backbone, **losses)
        self.map_margin = map_margin
        self.texture_weight, self.map_weight = texture_weight, map_weight
        width = backbone.dims["map"]
        self.fc = nn.Sequential(_linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU())
        self.classifier = _linear(hidden, identities)
        if decoder:
            self.decoder = Decoder(width, double_width)

    @classmethod
    def check(cls, cfg: CfgNode) -> None:
        super().check(cfg)
        instances = cfg.DATALOADER.NUM_INSTANCE
        if instances < 4 and instances != 2:
            raise ReIDError(
                f"DATALOADER.NUM_INSTANCE = {instances} with MODEL.METHOD = san, whose terms compare the first four "
                "images of an identity in turn. Set it to 4, as published, or to 2."
            )
        if min(cfg.INPUT.SIZE_TRAIN) < _NARROWEST or any(side % 16 for side in cfg.INPUT.SIZE_TRAIN):
            raise ReIDError(
                f"INPUT.SIZE_TRAIN = {cfg.INPUT.SIZE_TRAIN} with MODEL.METHOD = san: the decoder doubles maps of a "
                f"sixteenth of the image four times. Set both sides to multiples of 16 from {_NARROWEST} on."
            )

    @classmethod
    def needs(cls, cfg: CfgNode, training: bool) -> frozenset[str]:
        """Textures, in training.

        Raises:
            ReIDError: no folder of textures is named.
        """
        if training and not cfg.DATASETS.TEXTURES:
            raise ReIDError(
                "DATASETS.TEXTURES is empty with MODEL.METHOD = san, which learns to predict a texture of each "
                "training image. Name the folder that has them; there is no substitute that would still be SAN. "
                "MODEL.METHOD baseline trains without."
            )
        return frozenset({"texture"} if training else ())

    @classmethod
    def build(cls, cfg: CfgNode, backbone: Backbone, facts: DataFacts, training: bool) -> Self:
        own = cfg.MODEL.SAN
        if training:
            LOGGER.info("textures are read from %s", cfg.DATASETS.TEXTURES)
        return cls(
            backbone,
            facts.identities,
            hidden=own.HIDDEN,
            decoder=training,
            double_width=own.DOUBLE_WIDTH,
            **loss_options(cfg),
            map_margin=own.MAP_MARGIN,
            texture_weight=own.TEXTURE_WEIGHT,
            map_weight=own.MAP_WEIGHT,
        )

    def forward(self, batch: Batch, at: Progress | None = None) -> Outputs:
        """``pooled`` [B, D]; in training also ``texture`` [B], the mean absolute error of each texture, and ``map0`` ..
        ``map3`` of the decoder, which are large: the terms on them compare images of the whole batch."""
        encoder = self.image_encoder
        maps = [encoder.layer1(encoder.stem(batch.images))]
        for layer in (encoder.layer2, encoder.layer3, encoder.layer4):
            maps.append(layer(maps[-1]))
        outputs = {"pooled": maps[-1].mean((2, 3))}
        if at is None:
            return outputs
        texture, steps = self.decoder(maps)
        outputs["texture"] = (texture - batch.extra["texture"]).abs().mean((1, 2, 3))
        return outputs | {f"map{i}": step for i, step in enumerate(steps)}

    def losses(self, outputs: Outputs, labels: Tensor, at: Progress) -> tuple[Terms, Terms]:
        """``id`` and ``triplet`` on the feature, ``texture``, and ``maps``, the sum of :func:`map_terms`."""
        feature = self.embed(outputs)
        scores = self.classifier(feature)
        maps = map_terms([outputs[f"map{i}"] for i in range(len(ROLES))], labels, self.map_margin)
        terms = {
            "id": self.id_weight * self.cross_entropy(scores, labels),
            "triplet": self.triplet_weight * self.triplet(feature, labels),
            "texture": self.texture_weight * outputs["texture"].mean(),
            "maps": self.map_weight * maps.sum(),
        }
        return terms, {"accuracy": accuracy(scores, labels)}

    def embed(self, outputs: Outputs) -> Tensor:
        """Behind linear layer, BatchNorm and ReLU [B, 512], not normalised and never negative."""
        return self.fc(outputs["pooled"])

    @classmethod
    def rename(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The released code keeps encoder and decoder in two files; both are read, with or without these prefixes."""
        renamed = {}
        for name, tensor in state.items():
            name = name.removeprefix("encoder.")
            if name.partition(".")[0] in _ENCODER:
                name = f"image_encoder.{name}"
            renamed[name] = tensor
        return renamed


_ENCODER = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")


def map_terms(maps: list[Tensor], labels: Tensor, margin: float) -> Tensor:
    r"""For each map, :math:`\sum \max(0, d_{near} - d_{far} + m)` over the identities of a batch but the last, [4].

    d is the mean squared difference of two maps, of the images of :data:`ROLES`; with two images of an identity the
    third is the first again.

    Args:
        maps: [B, ...] each.
        labels: [B], as many neighbours with each label.
        margin: m.
    """
    block = int((labels == labels[0]).sum())
    terms = []
    for one, ((first, second), (own, other)) in zip(maps, ROLES, strict=True):
        people = one.unflatten(0, (-1, block))
        near = _distance(people[:-1, first % block], people[:-1, second % block])
        far = _distance(people[:-1, own % block], people[1:, other % block])
        terms.append(F.relu(near - far + margin).sum())
    return torch.stack(terms)


def _distance(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).square().flatten(1).mean(1)


class Decoder(nn.Module):
    """From the four stages' maps to a texture of the image's size, or of twice its width; names as published.

    Args:
        channels: of the last map; each stage before has half of them.
        double_width: whether the texture is twice as wide as the image.
    """

    def __init__(self, channels: int, double_width: bool) -> None:
        super().__init__()
        self.double_width = double_width
        quarter = channels // 4
        widths = [quarter, quarter // 2, quarter // 8, quarter // 16, quarter // 32]
        self.reduce_dim = _projection(channels, quarter)
        self.embed_layer3 = _projection(channels // 2, quarter)
        self.embed_layer2 = _projection(channels // 4, quarter // 2)
        self.embed_layer1 = _projection(channels // 8, quarter // 8)
        self.up1, self.up2, self.up3, self.up4 = (Doubling(before, out) for before, out in pairwise(widths))
        self.final_layer = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(widths[-1], 3, 7))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_normal_(module.weight, gain=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1, 0.02)

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Maps of the four stages -> texture [B, 3, H, 2W or W], in the range of its targets, and four maps."""
        first, second, third, last = maps
        steps = [self.up1(self.embed_layer3(third) + self.reduce_dim(last))]
        steps.append(self.up2(self.embed_layer2(second) + steps[-1]))
        steps.append(self.up3(self.embed_layer1(first) + steps[-1]))
        steps.append(self.up4(steps[-1]))
        texture = self.final_layer(steps[-1])
        if self.double_width:
            height, width = texture.shape[2:]
            texture = F.interpolate(texture, (height, 2 * width), mode="bilinear", align_corners=True)
        return texture, steps


class Doubling(nn.Module):
    """Residual block, ReLU, twice the resolution, convolution."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.res = _Residual(channels)
        self.conv = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, out, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.res(x).relu())


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        first, second = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.res = nn.Sequential(first, nn.BatchNorm2d(channels), nn.ReLU(), second, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.res(x)


def _projection(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 1), nn.BatchNorm2d(out), nn.ReLU())


def _linear(channels: int, out: int) -> nn.Linear:
    layer = nn.Linear(channels, out)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    return layer
