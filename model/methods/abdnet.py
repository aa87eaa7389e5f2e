"""ABD-Net (Chen et al., arXiv 1908.01114): attention over channels and positions, kept diverse by penalties."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.backbones.base import Backbone, Outputs
from model.backbones.resnet import ResNet
from model.base import Batch, DataFacts, Progress, Rate, Stage, Terms
from model.layers.attention import ChannelAttention, PositionAttention
from model.layers.heads import accuracy
from model.methods.id_triplet import IDTripletMethod
from model.methods.renaming import by_prefixes
from model.methods.requirements import divisible_height, loss_options
from utils.compute.precision import full_precision

if TYPE_CHECKING:
    from yacs.config import CfgNode

PARTS = ("global", "part0", "part1")
"""The vectors that are classified and tested: of the whole map, of its upper and of its lower half."""

OF_IMAGES = 32
"""The released code scales the penalty on maps to a batch of this size."""

INTERMEDIATE_FACTOR = 0.01
"""Weight of the map behind the first attention in the penalty on maps."""

_PRETRAINED = ("image_encoder.", "abd_layer4.")


class Penalties(NamedTuple):
    """Weights of the penalties on eigenvalues, and when and where they act.

    Attributes:
        of_beta, ow_beta: of those on maps (OF) and weights (OW).
        of_epoch: first epoch of stage 2 with OF.
        ow: weights that OW reads: ``stem``, the first convolution; ``all`` convolutions of the backbone; ``none``.
    """

    of_beta: float = 1e-6
    ow_beta: float = 1e-3
    of_epoch: int = 24
    ow: str = "stem"


PUBLISHED = Penalties()


class ABDNet(IDTripletMethod):
    """ResNet with channel attention behind layer1, a global branch, and a branch of two halves with three heads.

    Stage 1 trains what is not pre-trained, without penalties; stage 2 trains everything.

    Args:
        backbone: with last stride 1; its layer4 is the global branch, the other branch has a copy.
        identities: C.
        dropout: on the global vector.
        head_dropout: on channels of the heads' maps.
        losses: see :class:`IDTripletMethod`.
        penalties: of the eigenvalues.
    """

    stages: ClassVar[tuple[Stage, ...]] = (Stage(1), Stage(2))

    def __init__(
        self,
        backbone: ResNet,
        identities: int,
        *,
        dropout: float = 0.5,
        head_dropout: float = 0.1,
        penalties: Penalties = PUBLISHED,
        **losses: float | None,
    ) -> None:
        super().__init__(backbone, **losses)
        self.dropout = dropout
        self.penalties = penalties
        width = backbone.dims["map"]
        self.abd_layer4 = copy.deepcopy(backbone.layer4)
        self.shallow_cam = ChannelAttention()
        self.fc = nn.Sequential(nn.Linear(width, width // 2), nn.BatchNorm1d(width // 2))
        self.reduction = _convolution(width, width // 2, 1)
        attentions = {"before": nn.Identity(), "cam": ChannelAttention(), "pam": PositionAttention(width // 4)}
        self.heads = nn.ModuleDict({n: AttentionHead(width // 2, a, head_dropout) for n, a in attentions.items()})
        self.sum_conv = nn.Sequential(nn.Dropout2d(head_dropout), nn.Conv2d(width // 2, width // 2, 1))
        self.classifiers = nn.ModuleList(nn.Linear(width // 2, identities) for _ in PARTS)
        for name, module in self.named_modules():
            if not name.startswith(_PRETRAINED) and name not in ("image_encoder", "abd_layer4"):
                _initialise(module)

    @classmethod
    def check(cls, cfg: CfgNode) -> None:
        super().check(cfg)
        divisible_height(cfg, 32, "the map cannot be cut into two halves of equal height")

    @classmethod
    def build(cls, cfg: CfgNode, backbone: Backbone, facts: DataFacts, training: bool) -> Self:
        own = cfg.MODEL.ABDNET
        return cls(
            backbone,
            facts.identities,
            dropout=own.DROPOUT,
            head_dropout=own.HEAD_DROPOUT,
            penalties=Penalties(own.OF_BETA, own.OW_BETA, own.OF_EPOCH, own.OW),
            **loss_options(cfg),
        )

    def forward(self, batch: Batch, at: Progress | None = None) -> Outputs:
        """``global`` [B, D], ``part0`` and ``part1`` [B, D/2]; with OF also ``of`` [B], each image's penalty."""
        encoder = self.image_encoder
        intermediate = self.shallow_cam(encoder.layer1(encoder.stem(batch.images)))
        x = encoder.layer3(encoder.layer2(intermediate))
        outputs = {"global": encoder.layer4(x).mean((2, 3))}
        halves = self.reduction(self.abd_layer4(x)).chunk(2, dim=2)
        maps = {name: [head(half) for half in halves] for name, head in self.heads.items()}
        maps["after"] = [self.sum_conv(sum(pieces)) for pieces in zip(*maps.values(), strict=True)]
        outputs |= {f"part{i}": half.mean((2, 3)) for i, half in enumerate(maps["after"])}
        if at is not None and at.stage == 2 and at.epoch >= self.penalties.of_epoch:
            outputs["of"] = self.map_penalty({"intermediate": [intermediate]} | maps)
        return outputs

    def map_penalty(self, maps: Mapping[str, Sequence[Tensor]]) -> Tensor:
        """OF of each image [B]: the spread of eigenvalues, averaged over the halves, summed over the positions."""
        total = []
        for name, halves in maps.items():
            factor = INTERMEDIATE_FACTOR if name == "intermediate" else 1.0
            spreads = [eigenvalue_spread(half.flatten(2), *self.map_starts(half)) for half in halves]
            total.append(factor * torch.stack(spreads).mean(0))
        return torch.stack(total).sum(0)

    def map_starts(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Random starts [B, C, 1] of the power steps for the largest and the smallest eigenvalue."""
        return _pair(torch.randn, maps, *maps.shape[:2], 1)

    def weight_starts(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Likewise for a convolution of S filters, [S, 1]."""
        return _pair(torch.rand, weight, len(weight), 1)

    def weight_penalty(self, weight: Tensor) -> Tensor:
        """OW of a convolution: ten times the squared spread of the eigenvalues of its filters' Gram matrix."""
        return 10 * eigenvalue_spread(weight.flatten(1), *self.weight_starts(weight)).square()

    def penalised_weights(self) -> list[Tensor]:
        """Convolutions that OW reads; the released code never reached others than the stem."""
        encoder = self.image_encoder
        if self.penalties.ow == "all":
            parts = (encoder, self.abd_layer4)
            return [m.weight for part in parts for m in part.modules() if isinstance(m, nn.Conv2d)]
        return [encoder.conv1.weight] if self.penalties.ow == "stem" else []

    def features(self, outputs: Outputs) -> list[Tensor]:
        """The vectors of :data:`PARTS` [B, D/2]."""
        whole = F.dropout(F.relu(self.fc(outputs["global"])), self.dropout, self.training)
        return [whole, outputs["part0"], outputs["part1"]]

    def losses(self, outputs: Outputs, labels: Tensor, at: Progress) -> tuple[Terms, Terms]:
        """``id`` and ``triplet``, the means over the three vectors; in stage 2 ``of`` and ``ow``."""
        features = self.features(outputs)
        scores = [classifier(feature) for classifier, feature in zip(self.classifiers, features, strict=True)]
        terms = self.identity_terms(scores, features, labels)
        if "of" in outputs:
            terms["of"] = self.penalties.of_beta * OF_IMAGES * outputs["of"].mean()
        weights = self.penalised_weights() if at.stage == 2 else []
        if weights:
            terms["ow"] = self.penalties.ow_beta * torch.stack([self.weight_penalty(w) for w in weights]).sum()
        right = accuracy(torch.stack(scores).sum(0), labels)
        return terms, {"accuracy": right}

    def identity_terms(self, scores: Sequence[Tensor], features: Sequence[Tensor], labels: Tensor) -> Terms:
        """``id`` and ``triplet`` of scores [B, C] and features [B, D/2]."""
        identity = torch.stack([self.cross_entropy(score, labels) for score in scores]).mean()
        triplet = torch.stack([self.triplet(feature, labels) for feature in features]).mean()
        return {"id": self.id_weight * identity, "triplet": self.triplet_weight * triplet}

    def embed(self, outputs: Outputs) -> Tensor:
        """The three vectors side by side: [B, 3 D/2]."""
        return torch.cat(self.features(outputs), dim=1)

    def frozen(self, at: Progress) -> tuple[str, ...]:
        return _PRETRAINED if at.stage == 1 else ()

    def rate(self, name: str, stage: int, solver: CfgNode) -> Rate | None:
        """What is pre-trained does not train in stage 1."""
        if stage == 1 and name.startswith(_PRETRAINED):
            return None
        return super().rate(name, stage, solver)

    @classmethod
    def rename(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Names of the released code, whose two branches come in either order (it builds them from a set)."""
        whole, parts = ("1", "0") if any(name.startswith("branches.0.1.reduction.") for name in state) else ("0", "1")
        prefixes = {
            "common_branch.backbone1.0.": "image_encoder.conv1.",
            "common_branch.backbone1.1.": "image_encoder.bn1.",
            "common_branch.backbone1.4.": "image_encoder.layer1.",
            "common_branch.backbone2.0.": "image_encoder.layer2.",
            "common_branch.backbone2.1.": "image_encoder.layer3.",
            "common_branch.shallow_cam._cam_module.": "shallow_cam.",
            f"branches.{whole}.0.backbone.": "image_encoder.layer4.",
            f"branches.{whole}.1.classifier.": "classifiers.0.",
            f"branches.{whole}.1.": "",
            f"branches.{parts}.0.backbone.": "abd_layer4.",
            f"branches.{parts}.1.classifiers.0.": "classifiers.1.",
            f"branches.{parts}.1.classifiers.1.": "classifiers.2.",
            **{f"branches.{parts}.1.{head}_module.": f"heads.{head}." for head in ("before", "cam", "pam")},
            f"branches.{parts}.1.": "",
        }
        return by_prefixes(state, prefixes)


class AttentionHead(nn.Module):
    """Two 3x3 convolutions around an attention at half the channels, and a 1x1 convolution back."""

    def __init__(self, channels: int, attention: nn.Module, dropout: float) -> None:
        super().__init__()
        inner = channels // 2
        self.conv5c = _convolution(channels, inner, 3)
        self.attention_module = attention
        self.conv52 = _convolution(inner, inner, 3)
        self.conv7 = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(inner, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] -> map of the same shape."""
        return self.conv7(self.conv52(self.attention_module(self.conv5c(x))))


@full_precision
def eigenvalue_spread(rows: Tensor, largest: Tensor, smallest: Tensor) -> Tensor:
    r"""Largest minus smallest eigenvalue of :math:`G = M M^T`, each by one power step from a random start.

    :math:`y = G x`, :math:`\lambda = y^T G y / |y|^2`; the smallest is that of :math:`G - \lambda I`, plus
    :math:`\lambda`. The gradient flows through everything but the starts. G is never formed.

    Args:
        rows: M [..., C, N].
        largest, smallest: starts [..., C, 1].

    Returns:
        [...].
    """

    def gram(x: Tensor) -> Tensor:
        return rows @ (rows.transpose(-1, -2) @ x)

    def power(start: Tensor, shift: Tensor | float) -> Tensor:
        y = gram(start) - shift * start
        image = gram(y) - shift * y
        return (y * image).sum((-2, -1), keepdim=True) / y.square().sum((-2, -1), keepdim=True)

    top = power(largest, 0.0)
    return -power(smallest, top)[..., 0, 0]  # top - (power + top)


def _pair(draw: Callable[..., Tensor], like: Tensor, *shape: int) -> tuple[Tensor, Tensor]:
    """Two random tensors, in float32 or better."""
    first, second = draw(2, *shape, device=like.device, dtype=torch.promote_types(like.dtype, torch.float32))
    return first, second


def _convolution(channels: int, out: int, size: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels, out, size, padding=size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out), nn.ReLU())


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1, 0.02)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)
