"""HOReID as a method: features at key points, two sets of classifiers, graph convolution and graph matching."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loss.triplet_loss import cosine_dist, hard_example_mining
from model.backbones.base import Backbone, Outputs
from model.backbones.resnet import ResNet
from model.base import Batch, DataFacts, Progress, Rate, Terms
from model.layers.heads import accuracy, make_classifier, make_neck
from model.methods.horeid.graphs import DirectedGraph, Matching, Verifier, permutation_loss
from model.methods.horeid.skeletons import SKELETONS
from model.methods.id_triplet import IDTripletMethod
from model.methods.renaming import by_patterns
from model.methods.requirements import loss_options
from utils.compute.precision import full_precision
from utils.errors import ReIDError

if TYPE_CHECKING:
    from yacs.config import CfgNode

HEAT_STRIDE = 4
"""Heat maps have a quarter of the image's height and width, as a pose network's."""

SIGMA = 2.0
"""Of the Gaussians, in cells of the heat map."""

SHARPNESS = 10.0
"""On the heat maps, in the softmax over the positions."""


class HOReID(IDTripletMethod):
    """The last map is pooled at each key point and as a whole; these nodes pass messages in a graph.

    The nodes before and behind the graph convolution have a neck and a classifier each, weighted by the certainty of
    their key points, and the global node a triplet loss. A test compares the nodes behind the second necks.

    Args:
        backbone: with last stride 1; its first ReLU is left out, as in the published code.
        identities: C.
        points: J, key points of an image: 17 of a person or 21 of a hand.
        matching: train the matching network and the verifier too. They read detached features, so nothing else
            changes, and no test reads them.
        matching_epoch: first epoch with their losses.
        permutation_weight, verification_weight: of the matching network's losses.
        graph_lr: factor on the rate of the graph convolution.
        losses: see :class:`IDTripletMethod`; of each set of classifiers.
    """

    identity_bound: ClassVar[tuple[str, ...]] = ("classifiers.", "graph_classifiers.")
    train_only: ClassVar[tuple[str, ...]] = ("matching.", "verifier.")
    note = "a test does not score its best pairs again with the verifier, as the published one does"

    def __init__(
        self,
        backbone: ResNet,
        identities: int,
        *,
        points: int = 17,
        matching: bool = True,
        matching_epoch: int = 20,
        permutation_weight: float = 1.0,
        verification_weight: float = 0.1,
        graph_lr: float = 0.1,
        **losses: float | None,
    ) -> None:
        super().__init__(backbone, **losses)
        self.skeleton = SKELETONS[points]
        self.matching_epoch, self.graph_lr = matching_epoch, graph_lr
        self.permutation_weight, self.verification_weight = permutation_weight, verification_weight
        width, nodes = backbone.dims["map"], len(self.skeleton.groups) + 1
        self.necks, self.graph_necks = (nn.ModuleList(make_neck(width) for _ in range(nodes)) for _ in range(2))
        self.classifiers, self.graph_classifiers = (
            nn.ModuleList(make_classifier(width, identities) for _ in range(nodes)) for _ in range(2)
        )
        self.graph = nn.Sequential(*(DirectedGraph(width, nodes, self.skeleton.edges) for _ in range(2)))
        self.matching = Matching(width) if matching else None
        self.verifier = Verifier(width, nodes) if matching else None

    @classmethod
    def check(cls, cfg: CfgNode) -> None:
        super().check(cfg)
        if cfg.MODEL.HOREID.POINTS not in SKELETONS:
            raise ReIDError(
                f"MODEL.HOREID.POINTS = {cfg.MODEL.HOREID.POINTS}: expected {' or '.join(map(str, SKELETONS))}, a "
                "person's or a hand's."
            )
        fit = cfg.INPUT.FIT_TRAIN  # stretch or letterbox
        for key, works, why in (
            ("TEST.FLIP", False, "key points of mirror images are not summed"),
            ("INPUT.FIT_TEST", fit, "key points are not cropped with test images, which are fitted as in training"),
            ("INPUT.EXIF", True, "key points are those of the upright picture"),
        ):
            group, leaf = key.split(".")
            if cfg[group][leaf] != works:
                raise ReIDError(f"{key} = {cfg[group][leaf]} with MODEL.METHOD = horeid: {why}. Set it to {works}.")

    @classmethod
    def needs(cls, cfg: CfgNode, training: bool) -> frozenset[str]:
        return frozenset({"keypoints"})

    @classmethod
    def build(cls, cfg: CfgNode, backbone: Backbone, facts: DataFacts, training: bool) -> Self:
        own = cfg.MODEL.HOREID
        return cls(
            backbone,
            facts.identities,
            points=own.POINTS,
            matching=own.MATCHING and training,
            matching_epoch=own.MATCHING_EPOCH,
            **loss_options(cfg),
            permutation_weight=own.PERMUTATION_WEIGHT,
            verification_weight=own.VERIFICATION_WEIGHT,
            graph_lr=own.GRAPH_LR_FACTOR,
        )

    def forward(self, batch: Batch, at: Progress | None = None) -> Outputs:
        """``nodes`` [B, n, D], the global one last, and ``confidence`` [B, n]."""
        maps = self.maps(batch.images)
        scores, responses = self.score_maps(self.heatmaps(batch), (maps.shape[2], maps.shape[3]))
        return {"nodes": nodes_of(maps, scores), "confidence": confidences(responses)}

    def maps(self, images: Tensor) -> Tensor:
        """The last map [B, D, h, w]; there is no ReLU behind the first BatchNorm, as published."""
        encoder = self.image_encoder
        x = encoder.maxpool(encoder.bn1(encoder.conv1(images)))
        return encoder.layer4(encoder.layer3(encoder.layer2(encoder.layer1(x))))

    def heatmaps(self, batch: Batch) -> Tensor:
        """Of the batch's key points, [B, J, H/4, W/4]."""
        height, width = batch.images.shape[2:]
        size = (-(-height // HEAT_STRIDE), -(-width // HEAT_STRIDE))
        return draw_heatmaps(batch.extra["keypoints"], size, HEAT_STRIDE)

    @torch.no_grad()
    @full_precision
    def score_maps(self, heatmaps: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Heat maps [B, J, h', w'] -> where each local node looks [B, n-1, h, w], which sums to 1, and its response
        [B, n-1], the mean over its points of the largest value."""
        small = F.interpolate(heatmaps, size, mode="bilinear", align_corners=False)
        largest = small.amax((2, 3))
        groups = [list(group) for group in self.skeleton.groups]
        heat = torch.stack([small[:, group].sum(1) for group in groups], 1)
        responses = torch.stack([largest[:, group].mean(1) for group in groups], 1)
        return (SHARPNESS * heat.flatten(2)).softmax(2).view_as(heat), responses

    def losses(self, outputs: Outputs, labels: Tensor, at: Progress) -> tuple[Terms, Terms]:
        """``id`` and ``triplet`` before the graph convolution, ``graph_id`` and ``graph_triplet`` behind it; from the
        epoch of the matching on ``permutation`` and ``verification``."""
        nodes, confidence = outputs["nodes"], outputs["confidence"]
        passed = self.graph(nodes)
        terms, scores, feature, smoothing = {}, nodes, nodes, self.cross_entropy.epsilon
        for prefix, x in (("", nodes), ("graph_", passed)):
            feature, scores = self.classify(prefix, x)
            terms[f"{prefix}id"] = self.id_weight * weighted_cross_entropy(scores, confidence, labels, smoothing)
            terms[f"{prefix}triplet"] = self.triplet_weight * self.triplet(x[:, -1], labels)
        if self.matching is not None and at.epoch >= self.matching_epoch:
            terms |= self.match(feature.detach(), labels)
        return terms, {"accuracy": accuracy(scores[-1], labels)}

    def classify(self, prefix: str, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Nodes [B, n, D] -> those behind the necks [B, n, D] and scores [n, B, C]."""
        necks, classifiers = getattr(self, f"{prefix}necks"), getattr(self, f"{prefix}classifiers")
        behind = [neck(x) for neck, x in zip(necks, nodes.unbind(1), strict=True)]
        scores = [classifier(x) for classifier, x in zip(classifiers, behind, strict=True)]
        return torch.stack(behind, 1), torch.stack(scores)

    def match(self, feature: Tensor, labels: Tensor) -> Terms:
        """Losses of each image and its hardest positive and negative, from features [B, n, D] without gradient."""
        hardest = hard_example_mining(cosine_dist(feature[:, -1], feature[:, -1]), labels)
        first, second, assigned = self.matching(feature, feature[hardest.p_inds])
        positive = self.verifier(first, second)
        first, second, _ = self.matching(feature, feature[hardest.n_inds])
        negative = self.verifier(first, second)
        verification = F.binary_cross_entropy(positive, torch.ones_like(positive))
        verification = verification + F.binary_cross_entropy(negative, torch.zeros_like(negative))
        return {
            "permutation": self.permutation_weight * permutation_loss(assigned),
            "verification": self.verification_weight * verification,
        }

    def embed(self, outputs: Outputs) -> Tensor:
        """sqrt(confidence) times the nodes behind the second necks [B, n D], to be compared by cosine."""
        passed = self.graph(outputs["nodes"])
        behind = torch.stack([neck(x) for neck, x in zip(self.graph_necks, passed.unbind(1), strict=True)], 1)
        return (outputs["confidence"].sqrt()[..., None] * behind).flatten(1)

    def rate(self, name: str, stage: int, solver: CfgNode) -> Rate | None:
        """The necks' biases stay; the graph convolution has a rate of its own."""
        if name.endswith(".bias") and name.startswith(("necks.", "graph_necks.")):
            return None
        rate = super().rate(name, stage, solver)
        return rate._replace(lr=rate.lr * self.graph_lr) if name.startswith("graph.") else rate

    @classmethod
    def rename(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Names of the released code; its unused tensors are dropped."""
        return by_patterns(state, _NAMES, _UNUSED)


_UNUSED = r"verificator\.bn\.|gcn\.adgcn[12]\.weight$"
_NAMES = (
    (r"^encoder\.resnet_conv\.0\.", "image_encoder.conv1."),
    (r"^encoder\.resnet_conv\.1\.", "image_encoder.bn1."),
    (r"^encoder\.resnet_conv\.(\d)\.", lambda m: f"image_encoder.layer{int(m[1]) - 2}."),
    (r"^bnclassifiers\.classifier_(\d+)\.bn\.", r"necks.\1."),
    (r"^bnclassifiers\.classifier_(\d+)\.classifier\.", r"classifiers.\1."),
    (r"^bnclassifiers2\.classifier_(\d+)\.bn\.", r"graph_necks.\1."),
    (r"^bnclassifiers2\.classifier_(\d+)\.classifier\.", r"graph_classifiers.\1."),
    (r"^gcn\.adgcn([12])\.", lambda m: f"graph.{int(m[1]) - 1}."),
    (r"^gmnet\.gnn_layer_(\d)\.gconv\.", r"matching.layers.\1."),
    (r"^gmnet\.affinity_(\d)\.", r"matching.affinities.\1."),
    (r"^gmnet\.cross_graph_0\.", "matching.cross."),
    (r"^verificator\.", "verifier."),
)


def draw_heatmaps(points: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    """A Gaussian at each key point, whose peak is the point's score.

    Args:
        points: x and y in pixels of the image and score [B, J, 3]; a score of 0 draws nothing.
        size: height and width of the maps.
        stride: pixels of a cell.

    Returns:
        [B, J, h, w].
    """
    x, y, score = points[..., None].unbind(2)
    column, row = (torch.arange(length, device=points.device) + 0.5 for length in (size[1], size[0]))
    across = (-((x / stride - column).square()) / (2 * SIGMA**2)).exp()
    down = (-((y / stride - row).square()) / (2 * SIGMA**2)).exp()
    return score[..., None] * down[..., None] * across[..., None, :]


def nodes_of(maps: Tensor, scores: Tensor) -> Tensor:
    """Maps [B, D, h, w] and score maps [B, n-1, h, w] -> nodes [B, n, D]: weighted sums, and mean plus maximum."""
    local = scores.to(maps).flatten(2) @ maps.flatten(2).transpose(1, 2)
    whole = maps.mean((2, 3)) + maps.amax((2, 3))
    return torch.cat([local, whole[:, None]], 1)


def confidences(responses: Tensor) -> Tensor:
    """Responses [B, n-1] -> [B, n]: their shares of an image's sum, or 0 without any key point; 1 for the whole."""
    shares = responses / responses.sum(1, keepdim=True).clamp_min(torch.finfo(responses.dtype).tiny)
    return torch.cat([shares, torch.ones_like(shares[:, :1])], 1)


def weighted_cross_entropy(scores: Tensor, weights: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Sum over the nodes of the mean over the batch of weight times cross-entropy.

    Args:
        scores: [n, B, C].
        weights: [B, n].
        labels: [B].
        smoothing: of the labels.
    """
    each = F.cross_entropy(
        scores.flatten(0, 1), labels.repeat(len(scores)), label_smoothing=smoothing, reduction="none"
    )
    return (weights.T * each.view(scores.shape[:2])).mean(1).sum()
