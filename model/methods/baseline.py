"""The image half of CLIP-ReID, which is also the paper's baseline: encoder, BNNecks, classifiers, side information."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loss import Criterion, make_loss
from model.backbones.base import Backbone, Outputs
from model.base import Batch, DataFacts, Method, Progress, Rate, Terms
from model.layers.heads import accuracy
from utils.console.logger import LOGGER
from utils.errors import ReIDError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from yacs.config import CfgNode

TESTED = {"feature": "", "projected": "_proj"}
"""The outputs that have a BNNeck and a classifier, and side by side make the test feature; endings of the names."""

TESTED_AS = {"feature": "image", "projected": "projected"}
"""The same as ``TEST.FEATURE`` calls them."""


class SideInformation(NamedTuple):
    """Side information embedding (SIE, CLIP-ReID section 3.4): how many labels of each kind, and its factor.

    ``cameras`` or ``views`` is 0 where that kind is switched off.
    """

    cameras: int
    views: int
    coefficient: float

    @property
    def rows(self) -> int:
        """One embedding for each combination."""
        return max(self.cameras, 1) * max(self.views, 1)


class ImageReID(Method):
    """Re-identification from images alone (the baselines of CLIP-ReID, Table 1).

    CLIP's towers have three features, of which two are classified and tested; other backbones have one. The methods
    with CLIP's features are subclasses. They override :meth:`options`, :meth:`losses` and :meth:`begin_epoch`.

    Letters in shapes: B images, C identities, D image width, E width of the shared space.

    Args:
        backbone: pre-trained.
        num_classes: C, the training identities.
        side_information: camera/view embedding, None for none.
        cosine_head: classifiers score the cosine, as margin losses require, in place of the inner product.
        neck_feat: ``before`` or ``after`` the BNNeck, for :meth:`embed`.
        feature: ``both``, ``image`` or ``projected``, for :meth:`embed`.
        criterion: ID, triplet and center loss; None in a test.
    """

    backbones = ()
    identity_bound = ("classifier.", "classifier_proj.", "cv_embed")
    resume_only = ("criterion.",)
    train_only = ("alignment.", "prompt_learner.", "text_encoder.", "inversion.", "template.", "memory", "logit_scale")

    @classmethod
    def own_losses(cls, cfg: CfgNode) -> tuple[str, ...]:
        """Keys in ``MODEL`` of the weights of its own losses in stage 2, as far as these are on."""
        return ()

    @classmethod
    def check(cls, cfg: CfgNode) -> None:
        if (cfg.MODEL.SIE_CAMERA or cfg.MODEL.SIE_VIEW) and 2 not in cfg.SOLVER.STAGES:
            raise ReIDError(
                f"MODEL.SIE_CAMERA/SIE_VIEW with SOLVER.STAGES = {cfg.SOLVER.STAGES}: side information is learned in "
                "stage 2; without it random numbers would be added to every feature. Set both to False (stage 1 does "
                "not use them)."
            )
        if 2 in cfg.SOLVER.STAGES:
            _check_losses(cfg, cls.own_losses(cfg))

    @classmethod
    def needs(cls, cfg: CfgNode, training: bool) -> frozenset[str]:
        kinds = {"cameras": cfg.MODEL.SIE_CAMERA, "views": cfg.MODEL.SIE_VIEW}
        return frozenset(name for name, on in kinds.items() if on)

    @classmethod
    def build(cls, cfg: CfgNode, backbone: Backbone, facts: DataFacts, training: bool) -> Self:
        cameras = facts.cameras if cfg.MODEL.SIE_CAMERA else 0
        views = facts.views if cfg.MODEL.SIE_VIEW else 0
        return cls(
            backbone,
            facts.identities,
            side_information=SideInformation(cameras, views, cfg.MODEL.SIE_COE) if cameras or views else None,
            cosine_head=cfg.MODEL.ID_LOSS_TYPE != "softmax",
            neck_feat=cfg.TEST.NECK_FEAT,
            feature=cfg.TEST.FEATURE,
            criterion=make_loss(cfg, facts.identities, backbone.dims["feature"]) if training else None,
            **cls.options(cfg, backbone, facts, training),
        )

    @classmethod
    def options(cls, cfg: CfgNode, backbone: Backbone, facts: DataFacts, training: bool) -> dict[str, Any]:
        """Arguments of the constructor that only this method has."""
        return {}

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        side_information: SideInformation | None = None,
        cosine_head: bool = False,
        neck_feat: str = "before",
        feature: str = "both",
        criterion: Criterion | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.side_information = side_information
        self.cosine_head = cosine_head
        self.neck_feat = neck_feat
        self.tested = [name for name in TESTED if name in backbone.dims]
        self.embedded = [name for name in self.tested if feature in ("both", TESTED_AS[name])]
        self.compared = [name for name in ("penultimate", *TESTED) if name in backbone.dims]
        if side_information is not None:
            self.cv_embed = nn.Parameter(torch.zeros(side_information.rows, backbone.dims["feature"]))
            nn.init.trunc_normal_(self.cv_embed, std=0.02)
        for name in self.tested:
            classifier = nn.Linear(backbone.dims[name], num_classes, bias=False)
            nn.init.normal_(classifier.weight, std=0.001)
            self.add_module(f"classifier{TESTED[name]}", classifier)
        for name in self.tested:
            neck = nn.BatchNorm1d(backbone.dims[name])
            neck.bias.requires_grad_(False)
            self.add_module(f"bottleneck{TESTED[name]}", neck)
        self.image_encoder = backbone
        if criterion is not None:
            self.criterion = criterion

    def forward(self, batch: Batch, at: Progress | None = None) -> Outputs:
        found = self.image_encoder(batch.images, self._side_vector(batch.cameras, batch.views))
        return {name: found[name] for name in self.compared}

    def necks(self, outputs: Outputs) -> list[Tensor]:
        """The tested features behind their BNNecks, [B, D] and [B, E]."""
        return [self.get_submodule(f"bottleneck{TESTED[name]}")(outputs[name]) for name in self.tested]

    def scores(self, outputs: Outputs) -> list[Tensor]:
        """Scores of the identities from each tested feature, [B, C]."""
        classifiers = [self.get_submodule(f"classifier{TESTED[name]}") for name in self.tested]
        return [self._score(neck, c) for neck, c in zip(self.necks(outputs), classifiers, strict=True)]

    def losses(self, outputs: Outputs, labels: Tensor, at: Progress) -> tuple[Terms, Terms]:
        scores = self.scores(outputs)
        terms = self.criterion(scores, [outputs[name] for name in self.compared], labels)
        return terms, {"accuracy": accuracy(scores[0], labels)}

    def embed(self, outputs: Outputs) -> Tensor:
        """Image and projected feature side by side [B, D + E], or one of them, not normalised; [B, D] of others."""
        parts = self.necks(outputs) if self.neck_feat == "after" else [outputs[name] for name in self.tested]
        chosen = [part.float() for name, part in zip(self.tested, parts, strict=True) if name in self.embedded]
        return torch.cat(chosen, dim=1)

    def rate(self, name: str, stage: int, solver: CfgNode) -> Rate | None:
        if name.startswith("criterion."):  # the centers, whose gradient is that of the unweighted loss
            return Rate(solver.CENTER_LR, 0.0, "SGD", scheduled=False, momentum=0.0)
        if name.startswith("bottleneck") and name.endswith(".bias"):
            return None  # a BNNeck has no shift (Luo et al., arXiv 1903.07071)
        return super().rate(name, stage, solver)

    @classmethod
    def facts_in(cls, cfg: CfgNode, state: Mapping[str, Tensor], seen: DataFacts, known: DataFacts | None) -> DataFacts:
        facts = super().facts_in(cfg, state, seen, known)
        rows = len(state["cv_embed"]) if "cv_embed" in state else 0
        if rows and not (cfg.MODEL.SIE_CAMERA or cfg.MODEL.SIE_VIEW):
            _check_switched_off(cfg, rows, seen)
        elif cfg.MODEL.SIE_CAMERA or cfg.MODEL.SIE_VIEW:
            cameras, views = _counts_in(cfg, rows, (known or seen).views)
            facts = replace(facts, cameras=cameras, views=views)
        return facts

    def saliency(self, batch: Batch) -> Tensor:
        return self.image_encoder.saliency(batch.images, self._side_vector(batch.cameras, batch.views))

    def _score(self, feature: Tensor, classifier: nn.Linear) -> Tensor:
        if self.cosine_head:
            return F.linear(F.normalize(feature), F.normalize(classifier.weight))
        return classifier(feature)

    def _side_vector(self, cameras: Tensor | None, views: Tensor | None) -> Tensor | None:
        """Rows of the side information table [B, D], times its factor; None without labels or without a table."""
        side = self.side_information
        if side is None or (cameras is None and views is None):
            return None
        row: Tensor | int = 0
        for labels, count in ((cameras, side.cameras), (views, side.views)):
            if count:
                if labels is None:
                    raise ReIDError("The model has side information (SIE); give both cameras and views of the images.")
                row = row * count + labels
        return side.coefficient * self.cv_embed[row]


def _check_switched_off(cfg: CfgNode, rows: int, seen: DataFacts) -> None:
    """A table of another data set's cameras may be left out; one that fits this data set must be used."""
    if not cfg.MODEL.NAME.startswith("ViT"):
        return  # a published ResNet has an unused table
    if rows in (seen.cameras, seen.views, seen.cameras * seen.views) or not seen.cameras:
        raise ReIDError(
            "it was trained with side information; set MODEL.SIE_CAMERA and MODEL.SIE_VIEW as in its training."
        )
    LOGGER.warning("%s: its side information is of other cameras and is left out", cfg.TEST.WEIGHT)


def _counts_in(cfg: CfgNode, rows: int, views: int) -> tuple[int, int]:
    """Cameras and views of a table with ``rows`` rows; ``views`` are known where there are both."""
    if not rows:
        raise ReIDError("it was trained without side information; set MODEL.SIE_CAMERA and MODEL.SIE_VIEW to False.")
    if cfg.MODEL.SIE_CAMERA and cfg.MODEL.SIE_VIEW and (not views or rows % views):
        raise ReIDError(
            f"its side information cv_embed has {rows} rows, no multiple of the data set's {views} views. Set "
            "MODEL.SIE_CAMERA and MODEL.SIE_VIEW to False to test without side information."
        )
    views = (views if cfg.MODEL.SIE_CAMERA else rows) if cfg.MODEL.SIE_VIEW else 0
    return rows // max(views, 1) if cfg.MODEL.SIE_CAMERA else 0, views


def _check_losses(cfg: CfgNode, own: tuple[str, ...]) -> None:
    """Stage 2 needs a loss; which ones there are, sampler and method decide, see :func:`loss.make_loss.make_loss`."""
    model, sampler = cfg.MODEL, cfg.DATALOADER.SAMPLER
    center = "center" in model.METRIC_LOSS_TYPE or model.IF_WITH_CENTER == "yes"
    weights = {f"MODEL.{key}": model[key] for key in own}
    if sampler != "triplet":
        weights["MODEL.ID_LOSS_WEIGHT"] = model.ID_LOSS_WEIGHT
    if sampler != "softmax" and "triplet" in model.METRIC_LOSS_TYPE:
        weights["MODEL.TRIPLET_LOSS_WEIGHT"] = model.TRIPLET_LOSS_WEIGHT
    if center:
        weights["SOLVER.STAGE2.CENTER_LOSS_WEIGHT"] = cfg.SOLVER.STAGE2.CENTER_LOSS_WEIGHT
    if not any(weights.values()):
        raise ReIDError(
            f"{' = '.join(weights) or 'no weight'} = 0 leaves stage 2 without a loss (DATALOADER.SAMPLER = {sampler}, "
            f"MODEL.METHOD = {model.METHOD}, MODEL.METRIC_LOSS_TYPE = {model.METRIC_LOSS_TYPE}). Give one of them a "
            "weight above 0, or take DATALOADER.SAMPLER softmax_triplet."
        )
