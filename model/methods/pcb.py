"""PCB and refined part pooling, RPP (Sun et al., arXiv 1711.09349): a classifier for each horizontal stripe."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loss import CrossEntropyLabelSmooth
from model.backbones.base import Backbone, Outputs
from model.base import Batch, DataFacts, Method, Progress, Rate, Stage, Terms, TrainingSet
from model.layers.heads import accuracy, make_classifier
from model.layers.parts import stripe_means
from model.methods.requirements import divisible_height, id_loss_options, linear_classifiers
from utils.errors import ReIDError

if TYPE_CHECKING:
    from yacs.config import CfgNode

GROUP = 8
"""Consecutive channels whose mean the part classifier of RPP reads."""


class PCB(Method):
    """The last map is averaged in stripes; each stripe is reduced by a shared layer and has its own classifier.

    With RPP soft masks that a classifier of positions predicts take the place of the stripes. Stage 1 then trains PCB
    and stage 2 everything. Without RPP there is only stage 2.

    Args:
        backbone: with last stride 1.
        identities: C.
        parts: P, the stripes.
        reduced: channels behind the shared reduction.
        rpp: refined part pooling.
        adaptive: windows of stripes where the height does not divide, see :func:`stripe_means`.
        mask_epochs: first epochs of stage 2 in which only the part classifier trains.
        dropout: in front of the reduction and of the part classifier.
        smoothing: of the labels.
        id_weight: of the loss.

    Attributes:
        refined: a buffer, only with RPP: whether the masks have been trained, so that a test reads them.
    """

    stages: ClassVar[tuple[Stage, ...]] = (Stage(1), Stage(2))
    backbones: ClassVar[tuple[str, ...]] = ("resnet",)
    identity_bound: ClassVar[tuple[str, ...]] = ("classifiers.",)

    def __init__(
        self,
        backbone: Backbone,
        identities: int,
        *,
        parts: int = 6,
        reduced: int = 256,
        rpp: bool = False,
        adaptive: bool = False,
        mask_epochs: int = 0,
        dropout: float = 0.5,
        smoothing: float = 0.0,
        id_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.image_encoder = backbone
        self.parts, self.rpp, self.adaptive, self.mask_epochs = parts, rpp, adaptive, mask_epochs
        self.dropout, self.id_weight = dropout, id_weight
        width = backbone.dims["map"]
        self.local_conv = nn.Conv2d(width, reduced, 1, bias=False)
        nn.init.kaiming_normal_(self.local_conv.weight, mode="fan_out")
        self.feat_bn2d = nn.BatchNorm2d(reduced)
        self.classifiers = nn.ModuleList(make_classifier(reduced, identities, bias=True) for _ in range(parts))
        if rpp:
            self.local_mask = nn.Conv2d(width // GROUP, parts, 1)
            nn.init.kaiming_normal_(self.local_mask.weight, mode="fan_out")
            nn.init.zeros_(self.local_mask.bias)
            self.register_buffer("refined", torch.tensor(False))
        self.cross_entropy = CrossEntropyLabelSmooth(smoothing)

    @classmethod
    def check(cls, cfg: CfgNode) -> None:
        linear_classifiers(cfg)
        own, stages = cfg.MODEL.PCB, cfg.SOLVER.STAGES
        if 1 in stages and not own.RPP:
            raise ReIDError(
                f"SOLVER.STAGES = {stages} with MODEL.PCB.RPP = False: PCB has one stage. Set SOLVER.STAGES to [2]."
            )
        if own.RPP and stages == [1]:
            raise ReIDError(
                "SOLVER.STAGES = [1] with MODEL.PCB.RPP = True leaves the part classifier untrained. Set SOLVER.STAGES "
                "to [1, 2], or for PCB alone to [2] with MODEL.PCB.RPP False."
            )
        if own.STRIPES == "even":
            why = f"the map cannot be cut into MODEL.PCB.PARTS = {own.PARTS} stripes of equal height (PCB.STRIPES even)"
            divisible_height(cfg, 16 * own.PARTS, why)
        rows = -(-cfg.INPUT.SIZE_TRAIN[0] // 16)
        if rows < own.PARTS:
            raise ReIDError(
                f"MODEL.PCB.PARTS = {own.PARTS} with INPUT.SIZE_TRAIN = {cfg.INPUT.SIZE_TRAIN}: the map has "
                f"only {rows} rows. Set the height to at least {16 * own.PARTS}."
            )

    @classmethod
    def build(cls, cfg: CfgNode, backbone: Backbone, facts: DataFacts, training: bool) -> Self:
        own = cfg.MODEL.PCB
        return cls(
            backbone,
            facts.identities,
            parts=own.PARTS,
            reduced=own.REDUCED,
            rpp=own.RPP,
            adaptive=own.STRIPES == "adaptive",
            mask_epochs=own.MASK_EPOCHS,
            dropout=own.DROPOUT,
            **id_loss_options(cfg),
        )

    def forward(self, batch: Batch, at: Progress | None = None) -> Outputs:
        """``stripes`` [B, D, P]."""
        maps = self.image_encoder(batch.images)["map"]
        plain = stripe_means(maps, self.parts, self.adaptive)
        if not self.rpp or (at is not None and at.stage == 1):
            return {"stripes": plain}
        refined = self.refine(maps)
        return {"stripes": torch.where(self.refined, refined, plain) if at is None else refined}

    def masks(self, maps: Tensor) -> Tensor:
        """Soft assignment of positions to parts: maps [B, D, h, w] -> [B, P, h, w], which sum to 1 over the parts."""
        grouped = F.dropout(maps, self.dropout, self.training).unflatten(1, (-1, GROUP)).mean(2)
        return self.local_mask(grouped - grouped.mean((2, 3), keepdim=True)).softmax(dim=1)

    def refine(self, maps: Tensor) -> Tensor:
        r"""RPP: :math:`\frac{P}{hw} \sum_{xy} m_p(x, y) F(x, y)` for each part p, [B, D, P]."""
        masks = self.masks(maps).flatten(2)
        return self.parts / masks.shape[2] * (maps.flatten(2) @ masks.transpose(1, 2))

    def logits(self, outputs: Outputs) -> list[Tensor]:
        """Scores [B, C] of each stripe; the shared BatchNorm reads the batch and the stripes together."""
        dropped = F.dropout(outputs["stripes"], self.dropout, self.training)
        reduced = F.relu(self.feat_bn2d(self.local_conv(dropped[..., None])))[..., 0]
        return [classifier(reduced[:, :, part]) for part, classifier in enumerate(self.classifiers)]

    def losses(self, outputs: Outputs, labels: Tensor, at: Progress) -> tuple[Terms, Terms]:
        """``id0`` .. : cross-entropy of each stripe. The total is their sum, not their mean."""
        scores = self.logits(outputs)
        terms = {f"id{p}": self.id_weight * self.cross_entropy(score, labels) for p, score in enumerate(scores)}
        right = accuracy(torch.stack(scores).sum(0), labels)
        return terms, {"accuracy": right}

    def embed(self, outputs: Outputs) -> Tensor:
        """Each stripe's vector brought to length 1, channel by channel: [B, D P]."""
        return F.normalize(outputs["stripes"], dim=1).flatten(1)

    def begin_epoch(self, data: TrainingSet, at: Progress) -> None:
        """From stage 2 on a test reads the refined parts."""
        if self.rpp:
            self.refined.fill_(at.stage == 2)

    def frozen(self, at: Progress) -> tuple[str, ...]:
        if self.rpp and at.stage == 2 and at.epoch <= self.mask_epochs:
            return ("image_encoder.", "local_conv.", "feat_bn2d.", "classifiers.")
        return ()

    def rate(self, name: str, stage: int, solver: CfgNode) -> Rate | None:
        """The part classifier does not train in stage 1."""
        if stage == 1 and name.startswith("local_mask."):
            return None
        return super().rate(name, stage, solver)

    @classmethod
    def rename(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """``base`` is the backbone, ``instance<i>`` the classifier of stripe i; ImageNet's ``base.fc`` is dropped."""
        renamed = {}
        for name, tensor in state.items():
            first, _, rest = name.partition(".")
            if first == "base":
                if not rest.startswith("fc."):
                    renamed[f"image_encoder.{rest}"] = tensor
            elif first.startswith("instance"):
                renamed[f"classifiers.{first.removeprefix('instance')}.{rest}"] = tensor
            else:
                renamed[name] = tensor
        if "local_mask.weight" in renamed:
            renamed.setdefault("refined", torch.tensor(True))
        return renamed
