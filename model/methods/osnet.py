"""OSNet's own training (Zhou et al., arXiv 1905.00953): a plain classifier on the network's feature."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

from torch import Tensor, nn

from loss import CrossEntropyLabelSmooth
from model.backbones.base import Backbone, Outputs
from model.backbones.osnet import OSNet, own_names
from model.base import Batch, DataFacts, Method, Progress, Terms
from model.layers.heads import accuracy
from model.methods.requirements import id_loss_options, linear_classifiers
from utils.errors import ReIDError

if TYPE_CHECKING:
    from yacs.config import CfgNode

ENCODER = "image_encoder."


class OSNetClassifier(Method):
    """Classifier with bias on the feature behind the network's own BatchNorm and ReLU; cross-entropy alone.

    Args:
        backbone: any OSNet.
        identities: C.
        frozen_epochs: first epochs in which the classifier alone learns, the network in eval mode.
        smoothing: of the labels.
        id_weight: of the loss.
    """

    backbones: ClassVar[tuple[str, ...]] = ("osnet",)

    def __init__(
        self,
        backbone: OSNet,
        identities: int,
        *,
        frozen_epochs: int = 0,
        smoothing: float = 0.1,
        id_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.image_encoder = backbone
        self.frozen_epochs, self.id_weight = frozen_epochs, id_weight
        self.classifier = nn.Linear(backbone.dims["feature"], identities)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)
        self.cross_entropy = CrossEntropyLabelSmooth(smoothing)

    @classmethod
    def check(cls, cfg: CfgNode) -> None:
        linear_classifiers(cfg)
        if cfg.DATALOADER.SAMPLER != "softmax":
            raise ReIDError(
                f"DATALOADER.SAMPLER = {cfg.DATALOADER.SAMPLER} with MODEL.METHOD = {cfg.MODEL.METHOD}, which has the "
                "ID loss alone. Set it to softmax, or choose MODEL.METHOD baseline for the triplet loss."
            )
        if cfg.MODEL.OSNET.FROZEN_EPOCHS >= cfg.SOLVER.STAGE2.MAX_EPOCHS and cfg.MODEL.PRETRAIN_CHOICE != "random":
            raise ReIDError(
                f"MODEL.OSNET.FROZEN_EPOCHS = {cfg.MODEL.OSNET.FROZEN_EPOCHS} with SOLVER.STAGE2.MAX_EPOCHS = "
                f"{cfg.SOLVER.STAGE2.MAX_EPOCHS}: the network would stay frozen in all epochs. Set it lower."
            )

    @classmethod
    def build(cls, cfg: CfgNode, backbone: Backbone, facts: DataFacts, training: bool) -> Self:
        # Random weights need no protection from a random classifier.
        pretrained = cfg.MODEL.PRETRAIN_CHOICE != "random"
        return cls(
            backbone,
            facts.identities,
            frozen_epochs=cfg.MODEL.OSNET.FROZEN_EPOCHS if pretrained else 0,
            **id_loss_options(cfg),
        )

    def frozen(self, at: Progress) -> tuple[str, ...]:
        return (ENCODER,) if at.epoch <= self.frozen_epochs else ()

    def forward(self, batch: Batch, at: Progress | None = None) -> Outputs:
        """``pooled`` [B, D]: means of the last map."""
        return {"pooled": self.image_encoder.maps(batch.images).mean((2, 3))}

    def losses(self, outputs: Outputs, labels: Tensor, at: Progress) -> tuple[Terms, Terms]:
        """``id``: cross-entropy with smoothed labels."""
        scores = self.scores(outputs)
        return {"id": self.id_weight * self.cross_entropy(scores, labels)}, {"accuracy": accuracy(scores, labels)}

    def scores(self, outputs: Outputs) -> Tensor:
        """Scores of the identities [B, C]."""
        return self.classifier(self.embed(outputs))

    def embed(self, outputs: Outputs) -> Tensor:
        """Behind Linear, BatchNorm and ReLU [B, 512], not normalised and never negative."""
        return self.image_encoder.fc(outputs["pooled"])

    @classmethod
    def rename(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """torchreid's names, of all forms of OSNet."""
        own = (ENCODER, "classifier.")
        return {n if n.startswith(own) else f"{ENCODER}{n}": tensor for n, tensor in own_names(state).items()}
