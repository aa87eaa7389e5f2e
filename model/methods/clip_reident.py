"""CLIP-ReIdent (Habel, Deuser, Oswald, MMSports 2022, arXiv 2303.11855): contrastive training on pairs of images."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from loss.info_nce import info_nce
from model.backbones.base import Backbone, Outputs
from model.base import Batch, DataFacts, Method, Progress, Rate, Terms
from model.clip.model import ModifiedResNet
from model.methods.requirements import label_smoothing
from utils.errors import ReIDError

if TYPE_CHECKING:
    from yacs.config import CfgNode

EMBEDDING = ("bn", "class_embedding", "cls_token", "conv", "ln_pre", "patch_embed", "pos_embed", "positional_embedding")
"""How names of layers in front of the first block begin: OpenAI's, torchvision's, timm's."""


class CLIPReIdent(Method):
    """An image encoder trained so that two images of an identity attract each other and repel the rest of the batch.

    There are no classes, texts or prompts. Rows 2i and 2i + 1 of a batch are a pair (``DATALOADER.SAMPLER pairs``), and
    no identity occurs in two pairs. Loss: InfoNCE, whose temperature is learned.

    Args:
        backbone: CLIP's or any other.
        log_scale: where the logarithm of the factor on cosines starts.
        smoothing: of the labels.
        layer_decay: factor of the learning rate from each block of the backbone to the one before it; 1 for none.

    Outputs: ``feature`` [B, D], without CLIP's projection; of CLIP's ResNets, the attention pooling's output.
    """

    backbones = ()
    identity_bound = ()

    @classmethod
    def check(cls, cfg: CfgNode) -> None:
        if cfg.DATALOADER.SAMPLER != "pairs":
            raise ReIDError(
                f"DATALOADER.SAMPLER = {cfg.DATALOADER.SAMPLER} with MODEL.METHOD = clip_reident, which trains on "
                "pairs of images. Set it to pairs."
            )
        if cfg.MODEL.SIE_CAMERA or cfg.MODEL.SIE_VIEW:
            raise ReIDError("MODEL.SIE_CAMERA/SIE_VIEW with MODEL.METHOD = clip_reident: set both to False.")

    @classmethod
    def build(cls, cfg: CfgNode, backbone: Backbone, facts: DataFacts, training: bool) -> Self:
        log_scale = math.log(1 / 0.07) if backbone.text is None else float(backbone.text.logit_scale)
        return cls(backbone, log_scale, smoothing=label_smoothing(cfg), layer_decay=cfg.MODEL.CLIP_REIDENT.LAYER_DECAY)

    def __init__(
        self, backbone: Backbone, log_scale: float, *, smoothing: float = 0.1, layer_decay: float = 1.0
    ) -> None:
        super().__init__()
        self.image_encoder = backbone
        self.logit_scale = nn.Parameter(torch.tensor(log_scale))
        self.smoothing, self.layer_decay = smoothing, layer_decay
        self.output = "projected" if isinstance(backbone, ModifiedResNet) else "feature"

    def forward(self, batch: Batch, at: Progress | None = None) -> Outputs:
        return {"feature": self.image_encoder(batch.images)[self.output]}

    def losses(self, outputs: Outputs, labels: Tensor, at: Progress) -> tuple[Terms, Terms]:
        feature = outputs["feature"]
        loss = info_nce(feature[0::2], feature[1::2], self.logit_scale, self.smoothing)
        return {"info_nce": loss}, {"scale": self.logit_scale.detach().exp()}

    def embed(self, outputs: Outputs) -> Tensor:
        """[B, D], not normalised."""
        return outputs["feature"].float()

    def rate(self, name: str, stage: int, solver: CfgNode) -> Rate | None:
        if self.output == "feature" and name == "image_encoder.proj":
            return None
        rate = super().rate(name, stage, solver)
        if rate is None or self.layer_decay == 1 or not name.startswith("image_encoder."):
            return rate
        return rate._replace(lr=rate.lr * self.layer_decay ** self._below_top(name))

    def _below_top(self, name: str) -> int:
        """Blocks between a parameter of the backbone and the last one; what embeds the image is below the first."""
        numbers = [_block(other) for other, _ in self.named_parameters()]
        top = max((number for number in numbers if number is not None), default=0)
        number = _block(name)
        if number is not None:
            return top - number
        return top + 1 if name.removeprefix("image_encoder.").startswith(EMBEDDING) else 0


def _block(name: str) -> int | None:
    """The number of the block or stage that a parameter is in."""
    found = re.search(r"\.(?:resblocks|blocks|layers|stages)\.(\d+)\.|\.layer(\d)\.", name)
    return int(found[1] or found[2]) if found else None
