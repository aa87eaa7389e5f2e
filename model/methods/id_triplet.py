"""What methods with an ID loss and a triplet loss have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from loss import CrossEntropyLabelSmooth, TripletLoss
from model.backbones.base import Backbone
from model.base import Method
from model.methods.requirements import identity_pairs, linear_classifiers

if TYPE_CHECKING:
    from yacs.config import CfgNode


class IDTripletMethod(Method):
    """An image encoder, an ID loss and a triplet loss; :func:`model.methods.requirements.loss_options` gives the last
    four arguments.

    Args:
        backbone: the image encoder.
        smoothing: of the labels.
        margin: of the triplet loss, None for the soft margin.
        id_weight, triplet_weight: of the losses.
    """

    backbones: ClassVar[tuple[str, ...]] = ("resnet",)

    def __init__(
        self,
        backbone: Backbone,
        *,
        smoothing: float = 0.1,
        margin: float | None = 0.3,
        id_weight: float = 1.0,
        triplet_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.image_encoder = backbone
        self.id_weight, self.triplet_weight = id_weight, triplet_weight
        self.cross_entropy, self.triplet = CrossEntropyLabelSmooth(smoothing), TripletLoss(margin)

    @classmethod
    def check(cls, cfg: CfgNode) -> None:
        linear_classifiers(cfg)
        identity_pairs(cfg)
