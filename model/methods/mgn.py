"""MGN, multiple granularity network (Wang et al., arXiv 1804.01438): whole, halves and thirds in three branches."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from model.backbones.base import Backbone, Outputs
from model.backbones.resnet import ResNet, set_stride
from model.base import Batch, DataFacts, Progress, Terms
from model.layers.heads import accuracy
from model.layers.parts import stripe_maxima
from model.methods.id_triplet import IDTripletMethod
from model.methods.requirements import divisible_height, loss_options

if TYPE_CHECKING:
    from yacs.config import CfgNode

STRIPES = (1, 2, 3)
"""Of the three branches."""

ORDER = ("p1", "p2", "p3", "p2_0", "p2_1", "p3_0", "p3_1", "p3_2")
"""Of the pooled vectors: whole maps of the branches, then stripes from the top."""

GLOBAL = len(STRIPES)


class MGN(IDTripletMethod):
    """Three branches from the first block of layer3 on, each max-pooled whole, two of them in stripes too.

    The eight vectors are reduced and classified each by itself; the three of whole maps also have a triplet loss. The
    second branch is the backbone's own layers, the others start as copies of them. The first has stride 2 in layer4.

    Args:
        backbone: with last stride 1.
        identities: C.
        reduced: channels behind the reductions.
        shared: one reduction for all vectors, in place of one each.
        ce_dim: 256: classifiers of whole maps read the reduced vector, as in the public code; 2048: they read the
            pooled one and have no bias, as in the paper.
        losses: see :class:`IDTripletMethod`.
    """

    def __init__(
        self,
        backbone: ResNet,
        identities: int,
        *,
        reduced: int = 256,
        shared: bool = False,
        ce_dim: int = 256,
        **losses: float | None,
    ) -> None:
        super().__init__(backbone, **losses)
        width = backbone.dims["map"]
        rest = nn.Sequential(nn.Sequential(*backbone.layer3[1:]), backbone.layer4)
        self.branches = nn.ModuleDict({name: copy.deepcopy(rest) for name in ("p1", "p3")})
        set_stride(self.branches["p1"][1], 2)
        reduction = _reduction(width, reduced)
        self.reductions = nn.ModuleList(copy.deepcopy(reduction) for _ in range(1 if shared else len(ORDER)))
        self.pooled_classes = ce_dim == 2048
        self.classifiers = nn.ModuleList(
            _classifier(width, identities, bias=False)
            if self.pooled_classes and index < GLOBAL
            else _classifier(reduced, identities, bias=True)
            for index in range(len(ORDER))
        )

    @classmethod
    def check(cls, cfg: CfgNode) -> None:
        super().check(cfg)
        divisible_height(cfg, 96, "the map cannot be cut into 2 and into 3 stripes of equal height")

    @classmethod
    def build(cls, cfg: CfgNode, backbone: Backbone, facts: DataFacts, training: bool) -> Self:
        own = cfg.MODEL.MGN
        return cls(
            backbone,
            facts.identities,
            reduced=own.REDUCED,
            shared=own.SHARED_REDUCTION,
            ce_dim=own.CE_DIM,
            **loss_options(cfg),
        )

    def forward(self, batch: Batch, at: Progress | None = None) -> Outputs:
        """``pooled`` [B, D, 8], in the order of :data:`ORDER`."""
        encoder = self.image_encoder
        x = encoder.layer3[0](encoder.layer2(encoder.layer1(encoder.stem(batch.images))))
        maps = (self.branches["p1"](x), encoder.layer4(encoder.layer3[1:](x)), self.branches["p3"](x))
        whole = [stripe_maxima(m, 1) for m in maps]
        parts = [stripe_maxima(m, count) for m, count in zip(maps, STRIPES, strict=True) if count > 1]
        return {"pooled": torch.cat([*whole, *parts], dim=2)}

    def reduce(self, outputs: Outputs) -> list[Tensor]:
        """The reduced vectors [B, R]; a shared reduction normalises them one after another."""
        vectors = outputs["pooled"].unbind(2)
        reductions = [self.reductions[index % len(self.reductions)] for index in range(len(ORDER))]
        return [layer(v[..., None, None]).flatten(1) for layer, v in zip(reductions, vectors, strict=True)]

    def logits(self, outputs: Outputs, reduced: list[Tensor]) -> list[Tensor]:
        """Scores [B, C] of each vector."""
        read = list(reduced)
        if self.pooled_classes:
            read[:GLOBAL] = outputs["pooled"].unbind(2)[:GLOBAL]
        return [classifier(vector) for classifier, vector in zip(self.classifiers, read, strict=True)]

    def losses(self, outputs: Outputs, labels: Tensor, at: Progress) -> tuple[Terms, Terms]:
        """``id``: mean cross-entropy of the eight; ``triplet``: mean of the three reduced vectors of whole maps."""
        reduced = self.reduce(outputs)
        scores = self.logits(outputs, reduced)
        identity = torch.stack([self.cross_entropy(score, labels) for score in scores]).mean()
        triplet = torch.stack([self.triplet(feature, labels) for feature in reduced[:GLOBAL]]).mean()
        right = accuracy(torch.stack(scores).sum(0), labels)
        return {"id": self.id_weight * identity, "triplet": self.triplet_weight * triplet}, {"accuracy": right}

    def embed(self, outputs: Outputs) -> Tensor:
        """The reduced vectors side by side: [B, 8 R]."""
        return torch.cat(self.reduce(outputs), dim=1)

    @classmethod
    def rename(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Names of the public code (``backone``, ``p1``, ``reduction_0``, ``fc_id_256_1_0`` ...) -> own names."""
        renamed = {}
        for name, tensor in state.items():
            parts = name.split(".")
            if parts[0] == "backone":
                parts[:2] = ["image_encoder", _TRUNK[parts[1]]]
            elif parts[0] == "p2":
                block = ["layer3", str(int(parts[2]) + 1)] if parts[1] == "0" else ["layer4", parts[2]]
                parts[:3] = ["image_encoder", *block]
            elif parts[0] in ("p1", "p3"):
                parts.insert(0, "branches")
            elif parts[0].startswith("reduction_"):
                parts[:1] = ["reductions", parts[0].removeprefix("reduction_")]
            elif parts[0] in _CLASSIFIERS:
                parts[:1] = ["classifiers", str(_CLASSIFIERS.index(parts[0]))]
            renamed[".".join(parts)] = tensor
        return renamed


_TRUNK = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3.0"}
_CLASSIFIERS = [f"fc_id_2048_{i}" for i in range(3)] + [f"fc_id_256_{p}_{i}" for p in (1, 2) for i in range(p + 1)]


def _reduction(channels: int, reduced: int) -> nn.Sequential:
    convolution, norm = nn.Conv2d(channels, reduced, 1, bias=False), nn.BatchNorm2d(reduced)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_in")
    nn.init.normal_(norm.weight, 1, 0.02)
    return nn.Sequential(convolution, norm, nn.ReLU())


def _classifier(channels: int, identities: int, bias: bool) -> nn.Linear:
    classifier = nn.Linear(channels, identities, bias=bias)
    nn.init.kaiming_normal_(classifier.weight, mode="fan_out")
    if bias:
        nn.init.zeros_(classifier.bias)
    return classifier
