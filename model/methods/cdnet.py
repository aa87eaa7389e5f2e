"""CDNet (Li et al., arXiv 2104.04163): the found network with a global branch and one of two stripes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.backbones.base import Backbone, Outputs
from model.backbones.cdnet import CDNet, own_name
from model.base import Batch, DataFacts, Progress, Terms
from model.layers.heads import accuracy, make_classifier
from model.layers.parts import stripe_means
from model.methods.id_triplet import IDTripletMethod
from model.methods.requirements import loss_options

if TYPE_CHECKING:
    from yacs.config import CfgNode

STRIPES = 2
BRANCHES = {"whole": "global", "halves": "local"}
"""Published names by own ones: `global` is no name of an attribute."""
HIDDEN = 512
"""Values between a branch's feature and its classifier."""


class CDNetReID(IDTripletMethod):
    """Global mean of the last map, and the means of an upper and a lower half of the map behind the last transition.

    Each branch has a linear layer, BatchNorm, ReLU and a classifier, which a test leaves out, and a triplet loss on
    the feature in front of them, behind the dropout.

    Args:
        backbone: CDNet.
        identities: C.
        reduced: channels of a stripe.
        dropout: on both features.
        losses: see :class:`IDTripletMethod`.
    """

    backbones: ClassVar[tuple[str, ...]] = ("cdnet",)
    note = "the published network, without the architecture search"

    def __init__(
        self,
        backbone: CDNet,
        identities: int,
        *,
        reduced: int = 128,
        dropout: float = 0.2,
        **losses: float | None,
    ) -> None:
        super().__init__(backbone, **losses)
        self.dropout = dropout
        self.squeeze = nn.Conv2d(backbone.dims["middle"], reduced, 1, bias=False)
        nn.init.kaiming_normal_(self.squeeze.weight)
        widths = {"whole": backbone.dims["map"], "halves": STRIPES * reduced}
        self.hidden = nn.ModuleDict({name: _hidden(widths[name]) for name in BRANCHES})
        self.classifiers = nn.ModuleDict({name: make_classifier(HIDDEN, identities, bias=True) for name in BRANCHES})

    @classmethod
    def build(cls, cfg: CfgNode, backbone: Backbone, facts: DataFacts, training: bool) -> Self:
        return cls(
            backbone,
            facts.identities,
            reduced=cfg.MODEL.CDNET.REDUCED,
            dropout=cfg.MODEL.CDNET.DROPOUT,
            **loss_options(cfg),
        )

    def forward(self, batch: Batch, at: Progress | None = None) -> Outputs:
        """``whole`` [B, D] and ``halves`` [B, 2 R], the upper one first."""
        middle, last = self.image_encoder.maps(batch.images)
        # The convolution is linear, so it may follow the means, which are fewer.
        halves = self.squeeze(stripe_means(middle, STRIPES, adaptive=True)[..., None])[..., 0]
        return {"whole": last.mean((2, 3)), "halves": halves.transpose(1, 2).flatten(1)}

    def losses(self, outputs: Outputs, labels: Tensor, at: Progress) -> tuple[Terms, Terms]:
        """``id`` and ``triplet`` of each branch; the total is their sum."""
        features = {name: F.dropout(outputs[name], self.dropout, self.training) for name in BRANCHES}
        scores = {name: self.scores(name, feature) for name, feature in features.items()}
        terms = {}
        for name, feature in features.items():
            terms[f"id_{name}"] = self.id_weight * self.cross_entropy(scores[name], labels)
            terms[f"triplet_{name}"] = self.triplet_weight * self.triplet(feature, labels)
        return terms, {"accuracy": accuracy(sum(scores.values()), labels)}

    def scores(self, branch: str, feature: Tensor) -> Tensor:
        """Scores [B, C] of a branch's feature."""
        return self.classifiers[branch](self.hidden[branch](feature))

    def embed(self, outputs: Outputs) -> Tensor:
        """Both features side by side [B, D + 2 R], not normalised."""
        return torch.cat([outputs[name] for name in BRANCHES], dim=1)

    @classmethod
    def rename(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Names of the released code (``base``, ``neck``)."""
        renamed = {}
        for name, tensor in state.items():
            if name.startswith("base."):
                name = f"image_encoder.{own_name(name)}"
            elif name.startswith("neck."):
                name = name.removeprefix("neck.")
                for branch, published in BRANCHES.items():
                    name = name.replace(f"{published}_fcs.", f"hidden.{branch}.")
                    name = name.replace(f"{published}_classifier.", f"classifiers.{branch}.")
            renamed[name] = tensor
        return renamed


def _hidden(channels: int) -> nn.Sequential:
    return nn.Sequential(make_classifier(channels, HIDDEN, bias=True), nn.BatchNorm1d(HIDDEN), nn.ReLU())
