"""The image half of CLIP-ReID, which is also the paper's baseline: encoder, BNNecks, classifiers, side information."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.backbones.registry import make_encoder
from model.backbones.saliency import saliency
from model.backbones.timm_backbone import PooledFeature, TimmShape
from model.clip.model import ImageFeatures
from model.clip.shapes import CLIPShape
from model.execution import encode_in_parts
from utils.distributed import gather_batch
from utils.errors import ReIDError

if TYPE_CHECKING:
    from yacs.config import CfgNode

Collect = Callable[..., tuple[Tensor, Tensor]]
"""Features [N, E] of all training images, without augmentation, and their labels [N].

It may be given what to compute of a batch: images [B, 3, H, W], cameras [B], views [B] -> [B, F]. Otherwise that is the
projected feature without side information.
"""


class Guidance(NamedTuple):
    """What a method compares the features of a batch with, besides classifiers and each other.

    Attributes:
        logits: [B, C] similarity to something that stands for each identity, for the cross-entropy of weight
            ``MODEL.I2T_LOSS_WEIGHT``; None for a method without.
        terms: further losses by name, weighted; None for none.
    """

    logits: Tensor | None = None
    terms: dict[str, Tensor] | None = None


class TrainOutput(NamedTuple):
    """What one training step of stage 2 needs: two scores [B, C], the three raw features, the method's own part.

    Where several processes train, it is of the images of all, and ``labels`` [B] are theirs.
    A backbone of timm has one score and one feature.
    """

    scores: list[Tensor]
    features: ImageFeatures | PooledFeature
    guidance: Guidance
    labels: Tensor


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


class ImageReID(nn.Module):
    """Re-identification from images alone (the baselines of CLIP-ReID, Table 1), and the base of every method.

    A method is a subclass in a file of its own and a line in :data:`model.methods.registry.METHODS`. It says in class
    attributes what it is, and overrides, as far as it differs: :meth:`options`, :meth:`check`, :meth:`stage1_loss`,
    :meth:`prepare`, :meth:`begin_epoch`, :meth:`texts`, :meth:`guide`, :meth:`heads` (docs/methods.md).

    Letters in shapes: B images, C identities, D image width, E width of the shared space.

    Args:
        shape: sizes of the CLIP network, or a backbone of timm.
        num_classes: C, the training identities.
        image_size: height and width in pixels.
        stride: step between a ViT's patches; None for the patch itself.
        side_information: camera/view embedding, None for none.
        cosine_head: classifiers score the cosine, as margin losses want it, in place of the inner product.
        neck_feat: ``before`` or ``after`` the BNNeck, for :meth:`embed`.

    Attributes:
        stages: values of ``SOLVER.STAGES`` that make sense.
        reads_text: whether it needs CLIP's text encoder and a sentence.
        takes_embeddings: whether it takes CLIP's token embeddings for texts of its own.
        takes_names: whether it takes the names of the identities.
        learnable: what stands for the learnable tokens in the data set's own sentence.
        parts: in how many parts the encoder goes through a training batch; see :mod:`model.execution`.
    """

    stages: ClassVar[tuple[list[int], ...]] = ([2],)
    reads_text: ClassVar[bool] = False
    takes_embeddings: ClassVar[bool] = False
    takes_names: ClassVar[bool] = False
    learnable: ClassVar[str] = "X X X X"

    @classmethod
    def check(cls, cfg: CfgNode) -> None:
        """Refuse what this method cannot do, before any data is read.

        Raises:
            ReIDError: naming the key, the value and a valid one.
        """

    @classmethod
    def own_losses(cls, cfg: CfgNode) -> tuple[str, ...]:
        """Keys in ``MODEL`` of the weights of its own losses in stage 2, as far as these are on."""
        return ()

    @classmethod
    def options(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments of the constructor that only this method has."""
        return {}

    def __init__(
        self,
        shape: CLIPShape | TimmShape,
        num_classes: int,
        image_size: tuple[int, int],
        stride: tuple[int, int] | None = None,
        *,
        side_information: SideInformation | None = None,
        cosine_head: bool = False,
        neck_feat: str = "before",
    ) -> None:
        super().__init__()
        image_encoder = make_encoder(shape, image_size, stride)
        widths = image_encoder.widths
        self.side_information = side_information
        self.cosine_head = cosine_head
        self.neck_feat = neck_feat
        self.parts = 1
        self.feature_width = widths.feature
        if side_information is not None:
            self.cv_embed = nn.Parameter(torch.zeros(side_information.rows, widths.feature))
            nn.init.trunc_normal_(self.cv_embed, std=0.02)
        self.classifier = nn.Linear(widths.feature, num_classes, bias=False)
        if widths.projected:
            self.classifier_proj = nn.Linear(widths.projected, num_classes, bias=False)
        self.bottleneck = nn.BatchNorm1d(widths.feature)
        if widths.projected:
            self.bottleneck_proj = nn.BatchNorm1d(widths.projected)
        self.image_encoder = image_encoder
        for classifier in self.classifiers:
            nn.init.normal_(classifier.weight, std=0.001)
        for neck in self.necks:
            neck.bias.requires_grad_(False)

    @property
    def classifiers(self) -> list[nn.Linear]:
        """One for each feature that is tested."""
        return [part for name, part in self.named_children() if name in ("classifier", "classifier_proj")]

    @property
    def necks(self) -> list[nn.BatchNorm1d]:
        """The BNNecks in front of the classifiers."""
        return [part for name, part in self.named_children() if name in ("bottleneck", "bottleneck_proj")]

    @property
    def num_classes(self) -> int:
        """C, the identities the classifiers know."""
        return self.classifier.out_features

    def encode_image(
        self, images: Tensor, camids: Tensor | None = None, viewids: Tensor | None = None
    ) -> ImageFeatures | PooledFeature:
        """Images [B, 3, H, W] -> raw features; with camera or view labels [B] the side information joins in."""
        return self.image_encoder(images, self._side_vector(camids, viewids))

    def stage1_loss(self, features: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of stage 1 and its named parts, from image features [B, E] that no longer change, and labels [B]."""
        raise NotImplementedError(f"{type(self).__name__} has no stage 1")

    def prepare(self, collect: Collect, chunk: int) -> None:
        """Compute what stays as it is during stage 2; called before it, and again when a run goes on.

        Args:
            collect: for methods that start from the features of the training images.
            chunk: identities to go through the text encoder at a time.
        """

    def begin_epoch(self, collect: Collect) -> None:
        """Compute what is made anew for each epoch of stage 2, in eval mode; not called in the middle of one."""

    def texts(self, features: ImageFeatures, labels: Tensor) -> Tensor | None:
        """A text feature [B, E] for each image of a batch, for methods whose texts change during stage 2.

        Several processes divide the text encoder's work by :func:`~utils.distributed.sharded`.
        """
        return None

    def guide(self, features: ImageFeatures, texts: Tensor | None, labels: Tensor) -> Guidance:
        """Compare the features of a whole batch, in float32."""
        return Guidance()

    def heads(self, features: ImageFeatures, texts: Tensor | None, labels: Tensor) -> tuple[list[Tensor], Guidance]:
        """All that is behind the encoders, in float32: the classifiers' scores and what the method compares with."""
        scores = [
            self._score(neck(feature), classifier)
            for neck, feature, classifier in zip(self.necks, features.tested, self.classifiers, strict=True)
        ]
        return scores, self.guide(features, texts, labels)

    def forward(self, images: Tensor, camids: Tensor, viewids: Tensor, labels: Tensor) -> TrainOutput:
        """One training step of stage 2; all behind the encoders computes in float32, on the whole batch.

        Several processes encode a share of the images each; what is behind the image encoder, all of them compute on
        the whole batch, but for what :func:`~utils.distributed.sharded` divides.
        """
        features = encode_in_parts(self.encode_image, self.parts, images, camids, viewids)
        labels, *rows = gather_batch(labels, *(f.float() for f in features))
        features = type(features)(*rows)
        texts = self.texts(features, labels)
        with torch.autocast(images.device.type, enabled=False):
            scores, guidance = self.heads(features, texts, labels)
            return TrainOutput(scores, features, guidance, labels)

    def embed(self, images: Tensor, camids: Tensor, viewids: Tensor) -> Tensor:
        """The test feature [B, D + E]: image and projected feature side by side, not normalised; [B, D] of timm's."""
        features = self.encode_image(images, camids, viewids)
        parts = [feature.float() for feature in features.tested]
        if self.neck_feat == "after":
            parts = [neck(part) for neck, part in zip(self.necks, parts, strict=True)]
        return torch.cat(parts, dim=1)

    def saliency(self, images: Tensor, camids: Tensor | None = None, viewids: Tensor | None = None) -> Tensor:
        """Where the image encoder looks, [B, h, w] in [0, 1]; see :mod:`model.backbones.saliency`."""
        return saliency(self.image_encoder, images, self._side_vector(camids, viewids))

    def _score(self, feature: Tensor, classifier: nn.Linear) -> Tensor:
        if self.cosine_head:
            return F.linear(F.normalize(feature), F.normalize(classifier.weight))
        return classifier(feature)

    def _side_vector(self, camids: Tensor | None, viewids: Tensor | None) -> Tensor | None:
        """Rows of the side information table [B, D], times its factor; None without labels or without a table."""
        side = self.side_information
        if side is None or (camids is None and viewids is None):
            return None
        row: Tensor | int = 0
        for labels, count in ((camids, side.cameras), (viewids, side.views)):
            if count:
                if labels is None:
                    raise ReIDError("The model has side information (SIE); give both cameras and views of the images.")
                row = row * count + labels
        return side.coefficient * self.cv_embed[row]
