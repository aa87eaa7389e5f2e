"""RGA-Net, RGA-SC (Zhang et al., arXiv 1904.02998): ResNet with relation-aware global attention behind each stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from torch import Tensor, nn

from model.backbones.base import Backbone, Outputs
from model.backbones.resnet import ResNet
from model.base import Batch, DataFacts, Progress, Rate, Terms
from model.layers.heads import accuracy, make_classifier, make_neck
from model.layers.relation import RelationAttention
from model.methods.id_triplet import IDTripletMethod
from model.methods.renaming import by_patterns
from model.methods.requirements import loss_options

if TYPE_CHECKING:
    from yacs.config import CfgNode

STRIDES = (4, 8, 16, 16)
"""Of the maps of the four stages, in pixels."""


class RGANet(IDTripletMethod):
    """ResNet with an attention module behind each of its stages, a BNNeck and a classifier.

    The modules have the size of the maps in their weights, so a model has one image size.

    Args:
        backbone: with last stride 1.
        identities: C.
        image_size: height and width in pixels.
        branch: ``both`` (RGA-SC), ``spatial`` (RGA-S) or ``channel`` (RGA-C).
        neck_feat: test feature ``after`` or ``before`` the neck.
        losses: see :class:`IDTripletMethod`.
    """

    def __init__(
        self,
        backbone: ResNet,
        identities: int,
        image_size: tuple[int, int] = (256, 128),
        *,
        branch: str = "both",
        neck_feat: str = "after",
        **losses: float | None,
    ) -> None:
        super().__init__(backbone, **losses)
        self.neck_feat = neck_feat
        width = backbone.dims["map"]
        height, breadth = image_size
        self.attentions = nn.ModuleList(
            RelationAttention(width // 2 ** (3 - stage), -(-height // stride) * -(-breadth // stride), branch)
            for stage, stride in enumerate(STRIDES)
        )
        self.bottleneck = make_neck(width)
        self.classifier = make_classifier(width, identities)

    @classmethod
    def build(cls, cfg: CfgNode, backbone: Backbone, facts: DataFacts, training: bool) -> Self:
        return cls(
            backbone,
            facts.identities,
            (cfg.INPUT.SIZE_TRAIN[0], cfg.INPUT.SIZE_TRAIN[1]),
            branch=cfg.MODEL.RGA_NET.BRANCH,
            neck_feat=cfg.TEST.NECK_FEAT,
            **loss_options(cfg),
        )

    def forward(self, batch: Batch, at: Progress | None = None) -> Outputs:
        """``feature`` [B, D]: mean of the last attended map."""
        encoder = self.image_encoder
        x = encoder.stem(batch.images)
        stages = (encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4)
        for stage, attention in zip(stages, self.attentions, strict=True):
            x = attention(stage(x))
        return {"feature": x.mean((2, 3))}

    def losses(self, outputs: Outputs, labels: Tensor, at: Progress) -> tuple[Terms, Terms]:
        """``id`` on the scores behind the neck, ``triplet`` on the feature in front of it."""
        scores = self.classifier(self.bottleneck(outputs["feature"]))
        terms = {
            "id": self.id_weight * self.cross_entropy(scores, labels),
            "triplet": self.triplet_weight * self.triplet(outputs["feature"], labels),
        }
        return terms, {"accuracy": accuracy(scores, labels)}

    def embed(self, outputs: Outputs) -> Tensor:
        """The feature behind or in front of the neck [B, D]."""
        return self.bottleneck(outputs["feature"]) if self.neck_feat == "after" else outputs["feature"]

    def rate(self, name: str, stage: int, solver: CfgNode) -> Rate | None:
        """The neck's bias stays 0."""
        return None if name == "bottleneck.bias" else super().rate(name, stage, solver)

    @classmethod
    def rename(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Names of the released code: ``backbone`` with ``rga_att1`` .. ``rga_att4``, ``feat_bn``, ``cls``."""
        return by_patterns(state, _NAMES)


_NAMES = (
    (r"^backbone\.rga_att(\d)\.", lambda found: f"attentions.{int(found[1]) - 1}."),
    (r"^(attentions\.\d\.)(\w+)_(spatial|channel)\.", r"\1\3.\2."),
    (r"^backbone\.", "image_encoder."),
    (r"^feat_bn\.", "bottleneck."),
    (r"^cls\.", "classifier."),
)
