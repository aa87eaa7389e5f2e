"""CAL, counterfactual attention learning (Rao et al., arXiv 2108.08728), its re-identification branch."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loss import CrossEntropyLabelSmooth
from model.backbones.base import Backbone, Outputs
from model.backbones.resnet import ResNet
from model.base import Batch, DataFacts, Progress, Rate, Terms
from model.layers.heads import accuracy, make_classifier, make_neck
from model.methods.id_triplet import IDTripletMethod
from model.methods.requirements import loss_options
from utils.compute.precision import full_precision

if TYPE_CHECKING:
    from yacs.config import CfgNode

GATE_WIDTH = 8


class Heads(NamedTuple):
    """What the losses compare: feature in front of the neck [B, D], scores [B, C] of both passes."""

    feature: Tensor
    score: Tensor
    counterfactual: Tensor


class SmoothedOver(CrossEntropyLabelSmooth):
    r"""Cross-entropy against :math:`(1 - \varepsilon)[k = y] + \varepsilon / K`, K being ``classes``.

    Args:
        classes: K; the released code has 751 on every data set.
        epsilon: see :class:`CrossEntropyLabelSmooth`.
    """

    def __init__(self, classes: int, epsilon: float) -> None:
        super().__init__(epsilon)
        self.classes = classes

    @full_precision
    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        log_p = logits.log_softmax(1)
        own = log_p.gather(1, labels[:, None])[:, 0]
        return -((1 - self.epsilon) * own + self.epsilon / self.classes * log_p.sum(1)).mean()


class CAL(IDTripletMethod):
    """ResNet with channel attention between its stages and bilinear attention pooling.

    In training the pooling is repeated with attention drawn at random; the score minus that of the counterfactual must
    itself classify the identity.

    Args:
        backbone: with last stride 1.
        identities: C.
        maps: M, attention maps.
        feature: of a test: ``score``, the class logits as published, or ``neck``, the feature behind the neck.
        smoothing_classes: the smoothing's share is divided by this number; 0 for C.
        losses: see :class:`IDTripletMethod`.
    """

    identity_bound: ClassVar[tuple[str, ...]] = ("classifier.",)

    def __init__(
        self,
        backbone: ResNet,
        identities: int,
        *,
        maps: int = 8,
        feature: str = "score",
        smoothing_classes: int = 0,
        **losses: float | None,
    ) -> None:
        super().__init__(backbone, **losses)
        self.feature = feature
        self.cross_entropy = SmoothedOver(smoothing_classes or identities, self.cross_entropy.epsilon)
        last = backbone.dims["map"]
        widths = [backbone.bn1.num_features, last // 8, last // 4, last // 2, last]
        self.splits = nn.ModuleList(SplitAttention(width) for width in widths)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        self.gates = nn.ModuleList(Gate(width) for width in widths)
        self.attentions = AttentionMaps(last, maps)
        self.classifier_bap = make_classifier(maps * last, last)
        self.bottleneck = make_neck(last)
        self.classifier = make_classifier(last, identities)
        for norm in self.norms:
            norm.bias.requires_grad_(False)

    @classmethod
    def build(cls, cfg: CfgNode, backbone: Backbone, facts: DataFacts, training: bool) -> Self:
        own = cfg.MODEL.CAL
        return cls(
            backbone,
            facts.identities,
            maps=own.MAPS,
            feature=own.FEATURE,
            smoothing_classes=own.SMOOTHING_CLASSES,
            **loss_options(cfg),
        )

    def forward(self, batch: Batch, at: Progress | None = None) -> Outputs:
        """``bap`` [B, M D] and in training ``fake``, the same with attention drawn from U(0, 2)."""
        encoder = self.image_encoder
        x = encoder.maxpool(encoder.bn1(encoder.conv1(batch.images)))  # no ReLU, as published
        stages = (nn.Identity(), encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4)
        for stage, split, norm, gate in zip(stages, self.splits, self.norms, self.gates, strict=True):
            x = norm(split(stage(x)))
            x = x * gate(x)
        attention = self.attentions(x)
        outputs = {"bap": bilinear_pooling(x, attention)}
        if at is not None:
            outputs["fake"] = bilinear_pooling(x, self.draw(attention))
        return outputs

    def draw(self, attention: Tensor) -> Tensor:
        """Random attention maps of the same shape, U(0, 2) for each image, map and position."""
        return torch.empty_like(attention).uniform_(0, 2)

    def heads(self, outputs: Outputs) -> Heads:
        """Both passes through projection, neck and classifier; the neck sees the counterfactual batch first."""
        counterfactual = self.classifier(self.bottleneck(self.classifier_bap(outputs["fake"])))
        feature = self.classifier_bap(outputs["bap"])
        return Heads(feature, self.classifier(self.bottleneck(feature)), counterfactual)

    def losses(self, outputs: Outputs, labels: Tensor, at: Progress) -> tuple[Terms, Terms]:
        r"""``id`` :math:`L_{CE}(s)`, ``effect`` :math:`L_{CE}(s - \hat s)` and ``triplet`` of the feature."""
        heads = self.heads(outputs)
        terms = {
            "id": self.id_weight * self.cross_entropy(heads.score, labels),
            "effect": self.id_weight * self.cross_entropy(heads.score - heads.counterfactual, labels),
            "triplet": self.triplet_weight * self.triplet(heads.feature, labels),
        }
        return terms, {"accuracy": accuracy(heads.score, labels)}

    def embed(self, outputs: Outputs) -> Tensor:
        neck = self.bottleneck(self.classifier_bap(outputs["bap"]))
        return self.classifier(neck) if self.feature == "score" else neck

    def rate(self, name: str, stage: int, solver: CfgNode) -> Rate | None:
        """Biases of the necks, between the stages too, stay 0."""
        if name.endswith(".bias") and name.startswith(("norms.", "bottleneck.")):
            return None
        return super().rate(name, stage, solver)

    @classmethod
    def rename(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The released code counts its modules from 1 and keeps the backbone twice (``base_1`` .. are aliases)."""
        renamed = {}
        for name, tensor in state.items():
            first, _, rest = name.partition(".")
            if first == "base":
                renamed[f"image_encoder.{rest}"] = tensor
            elif not first.startswith("base_"):
                for published, own in _NAMES.items():
                    if first.removeprefix(published).isdecimal():
                        number = int(first.removeprefix(published)) - 1
                        name = f"{own}.{number}.{rest.removeprefix('bottleneck2.')}"
                renamed[name] = tensor
        return renamed


_NAMES = {"att_s": "splits", "att": "gates", "BN": "norms"}


class SplitAttention(nn.Module):
    """Softmax between two halves of the channels, from the mean of their sum (ResNeSt's, radix 2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half, hidden = channels // 2, max(channels // 2, 32)
        self.fc1 = nn.Conv2d(half, hidden, 1)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] -> map of the same shape; the mean amplitude halves."""
        halves = x.unflatten(1, (2, -1))
        pooled = halves.sum(1).mean((2, 3), keepdim=True)
        weights = self.fc2(F.relu(self.bn1(self.fc1(pooled)))).unflatten(1, (2, -1)).softmax(1)
        return (halves * weights).flatten(1, 2)


class Gate(nn.Module):
    """Squeeze-and-excitation (Hu et al., arXiv 1709.01507) with 8 hidden values: weights of the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(channels, GATE_WIDTH, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(GATE_WIDTH, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] -> [B, C, 1, 1]."""
        return self.fc(x.mean((2, 3)))[..., None, None]


class AttentionMaps(nn.Module):
    """From a map [B, D, H, W] to attention [B, M, H, W], at least 0."""

    def __init__(self, channels: int, maps: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, maps, 1, bias=False)
        self.bn = nn.BatchNorm2d(maps, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


@full_precision
def bilinear_pooling(features: Tensor, attention: Tensor) -> Tensor:
    r"""BAP: :math:`f_{mc} = \frac{1}{HW} \sum_{xy} A_m X_c`, its signed square root, length 1.

    Args:
        features: X [B, D, H, W].
        attention: A [B, M, H, W].

    Returns:
        [B, M D], map by map.
    """
    places = features.shape[2] * features.shape[3]
    pooled = (attention.flatten(2) @ features.flatten(2).transpose(1, 2) / places).flatten(1)
    return F.normalize(pooled.sign() * (pooled.abs() + 1e-12).sqrt())
