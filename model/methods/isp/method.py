"""ISP: a classifier of pixels divides the map into parts; its labels are clusters of the network's pixel features."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loss import CenterLoss, weighted_center
from model.backbones.base import Backbone, Outputs
from model.backbones.hrnet import STRIDE, HRNet
from model.base import Batch, DataFacts, Progress, Rate, Terms, TrainingSet
from model.layers.heads import accuracy, make_classifier, make_neck
from model.layers.warp import warped_labels
from model.methods.id_triplet import IDTripletMethod
from model.methods.isp.clustering import part_labels
from model.methods.requirements import identity_pairs, loss_options, softmax_classifiers
from utils.compute.distributed import gather_objects
from utils.compute.precision import full_precision
from utils.console.logger import LOGGER
from utils.errors import ReIDError

if TYPE_CHECKING:
    from yacs.config import CfgNode

HEADS = {"part": "part", "whole": "global", "fore": "fore"}
"""The parts side by side, the whole map, the foreground: published names by own ones (`global` is a word of Python)."""

WIDTH = 256
"""Channels of the map of pixel features."""

UNKNOWN = 255
"""Label of a pixel that has not been clustered: it has no loss."""


class ISP(IDTripletMethod):
    """HRNet's map, weighed by spatial attention, is averaged whole, over the foreground and over each part.

    The parts are classes of pixels. Their labels are clusters of the pixels of each identity, renewed while the network
    trains; see :func:`model.methods.isp.clustering.part_labels`.

    Args:
        backbone: of a quarter of the image's resolution.
        identities: C.
        images: N, whose pseudo-labels are kept; 0 in a test.
        parts: K, without the background.
        enhanced, by_centre, restarts: of the clustering.
        cluster_every, cluster_until: epochs between two clusterings, and the last one that may have one.
        visible: for :meth:`embed`.
        pixel_weight: of the loss of the pixels.
        center_weight: of the center losses, which have a rate of their own; 0 for none.
        losses: see :class:`IDTripletMethod`.

    Attributes:
        pseudo_labels: a buffer [N, h, w] of uint8.
    """

    backbones: ClassVar[tuple[str, ...]] = ("hrnet",)
    resume_only: ClassVar[tuple[str, ...]] = ("pseudo_labels", "centers.")

    def __init__(
        self,
        backbone: HRNet,
        identities: int,
        images: int = 0,
        *,
        parts: int = 6,
        enhanced: bool = True,
        by_centre: bool = False,
        restarts: int = 1,
        cluster_every: int = 2,
        cluster_until: int = 101,
        visible: bool = False,
        pixel_weight: float = 0.1,
        center_weight: float = 0.0,
        **losses: float | None,
    ) -> None:
        super().__init__(backbone, **losses)
        self.parts, self.visible = parts, visible
        self.clustering = {"enhanced": enhanced, "by_centre": by_centre, "restarts": restarts}
        self.cluster_every, self.cluster_until = cluster_every, cluster_until
        self.pixel_weight, self.center_weight = pixel_weight, center_weight
        self.cls_head = nn.Sequential(nn.Conv2d(backbone.dims["map"], WIDTH, 1), nn.BatchNorm2d(WIDTH), nn.ReLU())
        self.spatial_attn = SpatialGate(WIDTH)
        self.part_cls_layer = nn.Conv2d(WIDTH, 1 + parts, 1)
        widths = dict(zip(HEADS, (parts * WIDTH, WIDTH, WIDTH), strict=True))
        self.necks = nn.ModuleDict({head: make_neck(width) for head, width in widths.items()})
        self.classifiers = nn.ModuleDict({h: make_classifier(width, identities) for h, width in widths.items()})
        if center_weight:
            self.centers = nn.ModuleDict({head: CenterLoss(identities, width) for head, width in widths.items()})
        self.register_buffer("pseudo_labels", torch.full((images, *backbone.grid), UNKNOWN, dtype=torch.uint8))

    @classmethod
    def check(cls, cfg: CfgNode) -> None:
        softmax_classifiers(cfg)
        identity_pairs(cfg)
        if "triplet" not in cfg.MODEL.METRIC_LOSS_TYPE:
            raise ReIDError(
                f"MODEL.METRIC_LOSS_TYPE = {cfg.MODEL.METRIC_LOSS_TYPE} with MODEL.METHOD = isp, which has a triplet "
                "loss. Set it to triplet or triplet_center."
            )
        size = cfg.INPUT.SIZE_TRAIN
        if any(side % STRIDE for side in size):
            raise ReIDError(
                f"INPUT.SIZE_TRAIN = {size} with MODEL.METHOD = isp: HRNet adds maps of four resolutions. Set both "
                f"sides, here and in INPUT.SIZE_TEST, to multiples of {STRIDE}."
            )
        if cfg.INPUT.FIT_TEST != cfg.INPUT.FIT_TRAIN:
            raise ReIDError(
                f"INPUT.FIT_TEST = {cfg.INPUT.FIT_TEST} with MODEL.METHOD = isp: the pixels of whole images are "
                f"clustered, as they are trained on. Set it to {cfg.INPUT.FIT_TRAIN}, as INPUT.FIT_TRAIN is."
            )
        if cfg.INPUT.CUTOUT:
            raise ReIDError(
                f"INPUT.CUTOUT = {cfg.INPUT.CUTOUT} with MODEL.METHOD = isp, whose labels follow one erased rectangle. "
                "Set it to 0, and INPUT.RE_PROB above 0."
            )
        if cfg.TEST.METRIC == "visible" and cfg.TEST.FLIP:
            raise ReIDError(
                "TEST.FLIP = True with TEST.METRIC = visible: the visibilities of an image and its mirror image cannot "
                "be summed. Set TEST.FLIP to False."
            )

    @classmethod
    def needs(cls, cfg: CfgNode, training: bool) -> frozenset[str]:
        return frozenset({"geometry", "erased"} if training else ())

    @classmethod
    def build(cls, cfg: CfgNode, backbone: Backbone, facts: DataFacts, training: bool) -> Self:
        own, model = cfg.MODEL.ISP, cfg.MODEL
        with_center = training and (model.IF_WITH_CENTER == "yes" or "center" in model.METRIC_LOSS_TYPE)
        return cls(
            backbone,
            facts.identities,
            facts.images if training else 0,
            parts=own.PARTS,
            enhanced=own.ENHANCED,
            by_centre=own.ORDER == "centre",
            restarts=own.RESTARTS,
            cluster_every=own.CLUSTER_EVERY,
            cluster_until=own.CLUSTER_UNTIL,
            visible=cfg.TEST.METRIC == "visible",
            **loss_options(cfg),
            pixel_weight=own.PIXEL_WEIGHT,
            center_weight=cfg.SOLVER.STAGE2.CENTER_LOSS_WEIGHT if with_center else 0.0,
        )

    def forward(self, batch: Batch, at: Progress | None = None) -> Outputs:
        """``part`` [B, K 256], ``whole`` and ``fore`` [B, 256].

        In training also ``pixel_loss`` and ``pixel_count`` [B], the sum of the cross-entropies of an image's pixels and
        their number; else ``visible`` [B, K] and, where pseudo-labels are kept, ``pixels`` [B, 256, h, w].
        """
        pixels = self.pixels(batch.images)
        scores = self.part_cls_layer(pixels)
        outputs = dict(zip(HEADS, pooled(pixels, scores), strict=True))
        if at is not None:
            return outputs | self.pixel_losses(scores, batch)
        outputs["visible"] = visible_parts(scores)
        return outputs | ({"pixels": pixels} if len(self.pseudo_labels) else {})

    def pixels(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] -> the map of pixel features [B, 256, H/4, W/4]."""
        x = self.cls_head(self.image_encoder.maps(images))
        return x * self.spatial_attn(x)

    def pixel_losses(self, scores: Tensor, batch: Batch) -> Outputs:
        """Sums of the pixels' cross-entropies and their numbers, [B] each."""
        labels = self.pseudo_labels[batch.index].long()
        labels = warped_labels(labels, batch.extra["geometry"], batch.extra["erased"])
        loss = F.cross_entropy(scores.float(), labels, ignore_index=UNKNOWN, reduction="none")
        return {"pixel_loss": loss.sum((1, 2)), "pixel_count": (labels != UNKNOWN).sum((1, 2)).to(loss.dtype)}

    def behind_necks(self, outputs: Outputs) -> list[Tensor]:
        """The three features behind their necks."""
        return [self.necks[head](outputs[head]) for head in HEADS]

    def logits(self, outputs: Outputs) -> list[Tensor]:
        """Scores [B, C] of each head."""
        behind = self.behind_necks(outputs)
        return [self.classifiers[head](feature) for head, feature in zip(HEADS, behind, strict=True)]

    def losses(self, outputs: Outputs, labels: Tensor, at: Progress) -> tuple[Terms, Terms]:
        """``id``, ``triplet`` and ``center``: sums over the heads; ``pixel``: mean over the pixels of the batch."""
        scores = self.logits(outputs)
        identity = torch.stack([self.cross_entropy(score, labels) for score in scores]).sum()
        triplet = torch.stack([self.triplet(outputs[head], labels) for head in HEADS]).sum()
        pixel = outputs["pixel_loss"].sum() / outputs["pixel_count"].sum().clamp_min(1)
        terms = {
            "id": self.id_weight * identity,
            "triplet": self.triplet_weight * triplet,
            "pixel": self.pixel_weight * pixel,
        }
        if self.center_weight:
            terms["center"] = torch.stack(
                [weighted_center(self.centers[h], self.center_weight, outputs[h], labels) for h in HEADS]
            ).sum()
        return terms, {"accuracy": accuracy(torch.stack(scores).sum(0), labels)}

    def embed(self, outputs: Outputs) -> Tensor:
        """The three features behind their necks side by side [B, K 256 + 512]; for ``TEST.METRIC visible`` see
        :func:`visible_feature`."""
        part, whole, fore = self.behind_necks(outputs)
        if self.visible:
            return visible_feature(part.unflatten(1, (self.parts, -1)), torch.cat([whole, fore], 1), outputs["visible"])
        return torch.cat([part, whole, fore], dim=1)

    def begin_epoch(self, data: TrainingSet, at: Progress) -> None:
        """Cluster the pixels of the training images, one identity at a time."""
        if at.epoch > self.cluster_until or (at.epoch - 1) % self.cluster_every:
            return
        LOGGER.info("clustering the pixels of %d training images", len(self.pseudo_labels))
        found = []
        for identity, rows, pixels in data.by_identity(lambda outputs: outputs["pixels"].flatten(2).transpose(1, 2)):
            generator = torch.Generator().manual_seed(hash((at.stage, at.epoch, identity)) % 2**63)
            labels = part_labels(pixels, self.image_encoder.grid, self.parts, generator=generator, **self.clustering)
            found.append((rows.cpu(), labels.cpu()))
        for rows, labels in (part for share in gather_objects(found) for part in share):
            self.pseudo_labels[rows.to(self.pseudo_labels.device)] = labels.to(self.pseudo_labels.device)

    def rate(self, name: str, stage: int, solver: CfgNode) -> Rate | None:
        """Biases of the necks stay 0; the centers follow by SGD."""
        if name.startswith("necks.") and name.endswith(".bias"):
            return None
        if name.startswith("centers."):
            return Rate(solver.CENTER_LR, 0.0, "SGD", scheduled=False, momentum=0.0)
        return super().rate(name, stage, solver)

    @classmethod
    def rename(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Names of the released code: ``base`` is HRNet and what follows it up to the classifier of pixels."""
        own, renamed = {published: name for name, published in HEADS.items()}, {}
        for name, tensor in state.items():
            first, _, rest = name.partition(".")
            kind, _, head = first.partition("_")
            if first == "base":
                name = rest if rest.startswith(_BEHIND_BACKBONE) else f"image_encoder.{rest}"
            elif head in own and kind in ("bottleneck", "classifier"):
                name = f"{'necks' if kind == 'bottleneck' else 'classifiers'}.{own[head]}.{rest}"
            renamed[name] = tensor
        return renamed


_BEHIND_BACKBONE = ("cls_head.", "spatial_attn.", "part_cls_layer.")


class SpatialGate(nn.Module):
    """A factor in (0, 1) for each pixel, from a convolution of half the resolution; names as published."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = _ConvNorm(channels, 3, stride=2)
        self.conv2 = _ConvNorm(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, h, w] -> [B, 1, h, w]."""
        half = self.conv1(x).relu()
        whole = F.interpolate(half, x.shape[2:], mode="bilinear", align_corners=True)
        return self.conv2(whole).sigmoid()


class _ConvNorm(nn.Module):
    """Convolution to one channel, and BatchNorm."""

    def __init__(self, channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 1, kernel, stride, kernel // 2)
        self.bn = nn.BatchNorm2d(1)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_in")
        nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


@full_precision
def pooled(pixels: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Means over all pixels, weighted by the shares of the parts: not divided by a part's own share, as published.

    Args:
        pixels: [B, D, h, w].
        scores: of background and parts [B, 1 + K, h, w].

    Returns:
        The parts side by side [B, K D], the whole map [B, D], the foreground [B, D].
    """
    rows, shares = pixels.flatten(2).transpose(1, 2), scores.flatten(2).softmax(1)[:, 1:]
    parts = shares @ rows / rows.shape[1]
    return parts.flatten(1), rows.mean(1), parts.sum(1)


def visible_parts(scores: Tensor) -> Tensor:
    """Whether a part is the likeliest class of some pixel: scores [B, 1 + K, h, w] -> [B, K] of 0 and 1."""
    classes = torch.arange(1, scores.shape[1], device=scores.device)[:, None]
    return (scores.argmax(1).flatten(1)[:, None] == classes).any(2).to(scores.dtype)


def visible_feature(parts: Tensor, rest: Tensor, visible: Tensor) -> Tensor:
    """Row of ``TEST.METRIC visible``, see :func:`utils.retrieval.visible.visible_chunks`.

    Args:
        parts: [B, K, D].
        rest: compared whatever is visible, [B, E].
        visible: [B, K] of 0 and 1.

    Returns:
        Parts of length 1, or 0 where they are not visible; the rest at length 1; visibilities of the parts and, always
        1, of the rest; their number K + 1. [B, K D + E + K + 2].
    """
    weighted = F.normalize(parts, dim=2) * visible[..., None]
    always = torch.ones_like(visible[:, :1])
    count = torch.full_like(always, visible.shape[1] + 1)
    return torch.cat([weighted.flatten(1), F.normalize(rest), visible, always, count], dim=1)
