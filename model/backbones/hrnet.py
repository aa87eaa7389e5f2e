"""HRNet (Sun et al., arXiv 1902.09212): four resolutions side by side, joined at a quarter of the image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from model.backbones.base import LoadReport, Outputs
from model.backbones.convolutional import ConvolutionalBackbone
from model.backbones.resnet import make_stage
from model.loading import copy_pretrained
from utils.errors import ReIDError

HEAD = ("downsamp_modules.", "final_layer.", "classifier.")
"""Of the pre-training, behind the four maps."""

STRIDE = 32
"""Of the coarsest map, in pixels."""


class HRNetShape(NamedTuple):
    """Channels of the finest branch, which double from branch to branch; blocks of a branch; modules of stages 2 to 4;
    channels of the stem; a quarter of the channels that the first map is widened to."""

    width: int
    blocks: int = 4
    modules: tuple[int, int, int] = (1, 4, 3)
    stem: int = 64
    widened: int = 32


SHAPES = {
    "hrnet_w32": HRNetShape(32),
    "hrnet-tiny": HRNetShape(4, blocks=1, modules=(1, 1, 1), stem=8, widened=4),
}
"""By ``MODEL.NAME``. ``hrnet-tiny`` is for tests."""


class HRNet(ConvolutionalBackbone):
    """HRNet with the widening blocks of its classification; names are those of the authors' files and timm's.

    Args:
        shape: sizes.
        image_size: height and width in pixels.

    Raises:
        ReIDError: a side is no multiple of 32.
    """

    family = "hrnet"

    def __init__(self, shape: HRNetShape, image_size: tuple[int, int]) -> None:
        super().__init__()
        if any(side % STRIDE for side in image_size):
            fits = [max(STRIDE, round(side / STRIDE) * STRIDE) for side in image_size]
            raise ReIDError(
                f"INPUT.SIZE_TRAIN = {list(image_size)}: HRNet adds maps of four resolutions, so both sides must be "
                f"multiples of {STRIDE}. Set it and INPUT.SIZE_TEST to {fits}."
            )
        stem = shape.stem
        self.conv1, self.bn1 = nn.Conv2d(3, stem, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(stem)
        self.conv2, self.bn2 = nn.Conv2d(stem, stem, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(stem)
        self.layer1 = make_stage(stem, stem, 4 if shape.blocks > 1 else 1, 1)
        widths = [shape.width * 2**branch for branch in range(4)]
        before = [stem * Bottleneck.expansion]
        for number, modules in enumerate(shape.modules, 2):
            now = widths[:number]
            setattr(self, f"transition{number - 1}", _transition(before, now))
            setattr(self, f"stage{number}", nn.Sequential(*(Exchange(now, shape.blocks) for _ in range(modules))))
            before = now
        planes = [shape.widened * 2**branch for branch in range(4)]
        self.incre_modules = nn.ModuleList(make_stage(*sizes, 1, 1) for sizes in zip(widths, planes, strict=True))
        channels = sum(planes) * Bottleneck.expansion
        self.dims = {"map": channels, "feature": channels}
        self.grid = tuple(side // 4 for side in image_size)
        self.initialise()

    def forward(self, images: Tensor, side: Tensor | None = None) -> Outputs:
        """Images [B, 3, H, W] -> ``map`` [B, D, H/4, W/4], finest resolution first, and ``feature``, its mean."""
        joined = self.maps(images)
        return {"map": joined, "feature": joined.mean((2, 3))}

    def maps(self, images: Tensor) -> Tensor:
        """``map`` of :meth:`forward`."""
        x = self.bn2(self.conv2(self.bn1(self.conv1(images)).relu())).relu()
        maps = [self.layer1(x)]
        for number in (2, 3, 4):
            transition = getattr(self, f"transition{number - 1}")
            # A new branch is made of the coarsest map so far.
            sources = [*maps, maps[-1]][: len(transition)]
            maps = [layer(source) for layer, source in zip(transition, sources, strict=True)]
            maps = getattr(self, f"stage{number}")(maps)
        wide = [widen(one) for widen, one in zip(self.incre_modules, maps, strict=True)]
        size = wide[0].shape[2:]
        coarse = (F.interpolate(one, size, mode="bilinear", align_corners=True) for one in wide[1:])
        return torch.cat([wide[0], *coarse], dim=1)

    def load(self, tensors: Mapping[str, Tensor]) -> LoadReport:
        """Weights under the authors' or timm's names; what stands behind the four maps is left out."""
        return copy_pretrained(self, tensors, HEAD)


class Exchange(nn.Module):
    """Blocks on each branch, then each branch's map becomes the sum of all, brought to its resolution.

    Args:
        widths: channels of the branches, finest first.
        blocks: of each branch.
    """

    def __init__(self, widths: list[int], blocks: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(BasicBlock(width, width) for _ in range(blocks))) for width in widths
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_bridge(widths, source, target) for source in range(len(widths)))
            for target in range(len(widths))
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        maps = [branch(one) for branch, one in zip(self.branches, maps, strict=True)]
        return [
            sum(bridge(one) for bridge, one in zip(bridges, maps, strict=True)).relu() for bridges in self.fuse_layers
        ]


def _bridge(widths: list[int], source: int, target: int) -> nn.Module:
    """From one branch's resolution and channels to another's."""
    if source == target:
        return nn.Identity()
    if source > target:
        convolution = nn.Conv2d(widths[source], widths[target], 1, bias=False)
        up = nn.Upsample(scale_factor=2 ** (source - target), mode="nearest")
        return nn.Sequential(convolution, nn.BatchNorm2d(widths[target]), up)
    steps = []
    for step in range(target - source):
        last = step == target - source - 1
        out = widths[target] if last else widths[source]
        layers = [nn.Conv2d(widths[source], out, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(out)]
        steps.append(nn.Sequential(*layers, *([] if last else [nn.ReLU()])))
    return nn.Sequential(*steps)


def _transition(before: list[int], now: list[int]) -> nn.ModuleList:
    """Branches that keep their channels pass; another first one is adapted; the new one has half the resolution."""

    def layers(channels: int, out: int, stride: int) -> nn.Sequential:
        convolution = nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(out), nn.ReLU())

    kept = [nn.Identity() if old == new else layers(old, new, 1) for old, new in zip(before, now, strict=False)]
    return nn.ModuleList([*kept, nn.Sequential(layers(before[-1], now[-1], 2))])
