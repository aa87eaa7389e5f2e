"""MBA-Net (Baisa et al., arXiv 2108.02234): global, spatially and channel-wise attended branches, for hands."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loss import CrossEntropyLabelSmooth
from model.backbones.base import Backbone, Outputs
from model.backbones.resnet import ResNet
from model.base import Batch, DataFacts, Method, Progress, Terms
from model.layers.attention import ChannelAttention, SpatialAttention
from model.layers.heads import accuracy, make_block, make_classifier
from model.methods.requirements import id_loss_options, linear_classifiers

if TYPE_CHECKING:
    from yacs.config import CfgNode


class MBANet(Method):
    """ResNet whose map of layer3 passes one layer4 three times: plain, between spatial and between channel attention.

    Each branch is averaged over its map and has a block and a classifier of its own. Parts of the plain branch, a grid
    of ``parts`` rows and columns, may be averaged likewise, as in GPA-Net and LAGA-Net.

    Args:
        backbone: with last stride 1.
        identities: C.
        parts: rows and columns of the grid; (1, 1) for no parts.
        attention: whether there are the two attended branches.
        positions: positional terms of spatial attention, see :class:`SpatialAttention`.
        dropout: in front of the classifiers.
        smoothing: of the labels.
        id_weight: of the loss.

    Attributes:
        heads: their names in order: parts ``p0``.. row by row, then ``g``, ``s``, ``c``.
    """

    backbones: ClassVar[tuple[str, ...]] = ("resnet",)
    identity_bound: ClassVar[tuple[str, ...]] = ("classifiers.",)

    def __init__(
        self,
        backbone: ResNet,
        identities: int,
        *,
        parts: tuple[int, int] = (1, 1),
        attention: bool = True,
        positions: str = "value",
        dropout: float = 0.5,
        smoothing: float = 0.1,
        id_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.image_encoder = backbone
        self.grid, self.attention, self.dropout, self.id_weight = parts, attention, dropout, id_weight
        width = backbone.dims["map"]
        if attention:
            self.sam_att3 = SpatialAttention(width // 2, backbone.grid, positions)
            self.sam_att4 = SpatialAttention(width, backbone.grid, positions)
            self.cam_att3, self.cam_att4 = ChannelAttention(), ChannelAttention()
        count = parts[0] * parts[1]
        self.parts = [f"p{i}" for i in range(count)] if count > 1 else []
        self.heads = [*self.parts, "g", *("sc" if attention else "")]
        self.blocks = nn.ModuleDict({head: make_block(width, width) for head in self.heads})
        self.classifiers = nn.ModuleDict({head: make_classifier(width, identities, bias=True) for head in self.heads})
        self.cross_entropy = CrossEntropyLabelSmooth(smoothing)

    @classmethod
    def check(cls, cfg: CfgNode) -> None:
        linear_classifiers(cfg)

    @classmethod
    def build(cls, cfg: CfgNode, backbone: Backbone, facts: DataFacts, training: bool) -> Self:
        own = cfg.MODEL.MBA_NET
        return cls(
            backbone,
            facts.identities,
            positions=own.POSITIONS,
            dropout=own.DROPOUT,
            **id_loss_options(cfg),
        )

    def forward(self, batch: Batch, at: Progress | None = None) -> Outputs:
        """One vector [B, D] for each of :attr:`heads`.

        The running statistics of layer4 depend on the order of its three passes, which is that of the released code.
        """
        encoder = self.image_encoder
        third = encoder.third(batch.images)
        plain = encoder.layer4(third)
        outputs = {"g": plain.mean((2, 3))}
        if self.parts:
            grid = F.adaptive_avg_pool2d(plain, self.grid).flatten(2)
            outputs |= {part: grid[:, :, i] for i, part in enumerate(self.parts)}
        if self.attention:
            outputs["s"] = self.sam_att4(encoder.layer4(self.sam_att3(third))).mean((2, 3))
            outputs["c"] = self.cam_att4(encoder.layer4(self.cam_att3(third))).mean((2, 3))
        return outputs

    def logits(self, outputs: Outputs) -> list[Tensor]:
        """Scores [B, C] of each head, in their order."""
        hidden = (self.blocks[head](outputs[head]) for head in self.heads)
        dropped = (F.dropout(h, self.dropout, self.training) for h in hidden)
        return [self.classifiers[head](h) for head, h in zip(self.heads, dropped, strict=True)]

    def losses(self, outputs: Outputs, labels: Tensor, at: Progress) -> tuple[Terms, Terms]:
        r"""``id``: :math:`\sum_h L_{CE}(z_h)` with label smoothing over the heads."""
        scores = self.logits(outputs)
        total = torch.stack([self.cross_entropy(score, labels) for score in scores]).sum()
        right = accuracy(torch.stack(scores).softmax(-1).sum(0), labels)
        return {"id": self.id_weight * total}, {"accuracy": right}

    def embed(self, outputs: Outputs) -> Tensor:
        """The pooled vectors side by side: parts channel by channel, then global, spatial, channel."""
        parts = [torch.stack([outputs[part] for part in self.parts], dim=2).flatten(1)] if self.parts else []
        return torch.cat([*parts, *(outputs[head] for head in self.heads if head not in self.parts)], dim=1)

    @classmethod
    def rename(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The released code keeps layer2 to layer4 up to five times under other names; they are one tensor each."""
        renamed = {}
        for name, tensor in state.items():
            first, _, rest = name.partition(".")
            if first == "backbone" and rest.partition(".")[0] not in _ALIASES:
                renamed[f"image_encoder.{rest}"] = tensor
            elif first.startswith("reduction_"):
                rest = rest.replace("add_block", "blocks").replace("classifier.0", "classifiers")
                kind, _, leaf = rest.partition(".")
                renamed[f"{kind}.{first.removeprefix('reduction_')}.{leaf}"] = tensor
            elif first not in _ALIASES and first != "backbone":
                renamed[name] = tensor
        return renamed


_ALIASES = tuple(f"layer{number}{branch}" for number in (2, 3, 4) for branch in "sc")
