"""OSNet (Zhou et al., arXiv 1905.00953) with its IBN and AIN forms (arXiv 1910.06827), small networks of their own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn

from model.backbones.base import LoadReport, Outputs
from model.backbones.convolutional import ConvolutionalBackbone
from model.layers.light import ConvNorm, Gate, LightConv
from model.loading import copy_pretrained
from utils.errors import ReIDError

PLAIN, BEHIND, INSIDE = "plain", "behind", "inside"
"""Instance norm of a block: none, behind the addition (IBN), or inside the residual in place of a BatchNorm (AIN)."""

FEATURE = 512
SMALLEST_SIDE = 32
"""In pixels; smaller images leave a map of one place, which instance norms cannot normalise."""


class OSNetShape(NamedTuple):
    """Channels of the stem and the three stages; instance norms of the stem and of each stage's two blocks."""

    channels: tuple[int, int, int, int]
    norms: tuple[tuple[str, str], ...] = ((PLAIN, PLAIN),) * 3
    stem_instance: bool = False


_WHOLE = (64, 256, 384, 512)
SHAPES = {
    "osnet_x1_0": OSNetShape(_WHOLE),
    "osnet_x0_75": OSNetShape((48, 192, 288, 384)),
    "osnet_x0_5": OSNetShape((32, 128, 192, 256)),
    "osnet_x0_25": OSNetShape((16, 64, 96, 128)),
    "osnet_ibn_x1_0": OSNetShape(_WHOLE, ((BEHIND, BEHIND), (PLAIN, PLAIN), (PLAIN, PLAIN)), stem_instance=True),
    "osnet_ain_x1_0": OSNetShape(_WHOLE, ((INSIDE, INSIDE), (PLAIN, INSIDE), (INSIDE, PLAIN)), stem_instance=True),
}
"""By ``MODEL.NAME``."""


class OSNet(ConvolutionalBackbone):
    """Omni-scale network: each block has four streams with receptive fields of 3, 5, 7 and 9, mixed by one gate.

    Names are those of torchreid, except that its two names of the streams (``conv2a`` .. ``conv2d``; ``conv2.t.layers``
    in AIN) are ``streams``, and both names of the transitions are ``pool2`` and ``pool3``; see :func:`own_names`.

    Args:
        shape: channels and norms.
        image_size: height and width in pixels.

    Raises:
        ReIDError: the images are too small.
    """

    family = "osnet"

    def __init__(self, shape: OSNetShape, image_size: tuple[int, int]) -> None:
        super().__init__()
        if min(image_size) < SMALLEST_SIDE:
            raise ReIDError(
                f"INPUT.SIZE_TRAIN = {list(image_size)} is too small: OSNet needs at least {SMALLEST_SIDE} pixels in "
                "each direction."
            )
        stem, *stages = shape.channels
        self.conv1 = ConvNorm(3, stem, 7, stride=2, instance=shape.stem_instance)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.conv2, self.conv3, self.conv4 = (
            nn.Sequential(OSBlock(before, out, first), OSBlock(out, out, second))
            for before, out, (first, second) in zip(shape.channels, stages, shape.norms, strict=False)
        )
        self.pool2, self.pool3 = (nn.Sequential(ConvNorm(out, out), nn.AvgPool2d(2, stride=2)) for out in stages[:2])
        self.conv5 = ConvNorm(stages[-1], stages[-1])
        self.fc = nn.Sequential(nn.Linear(stages[-1], FEATURE), nn.BatchNorm1d(FEATURE), nn.ReLU())
        self.dims = {"map": stages[-1], "feature": FEATURE}
        self.grid = tuple(-(-side // 4) // 4 for side in image_size)
        self.initialise()
        nn.init.normal_(self.fc[0].weight, std=0.01)
        nn.init.zeros_(self.fc[0].bias)

    def forward(self, images: Tensor, side: Tensor | None = None) -> Outputs:
        """Images [B, 3, H, W] -> ``map`` [B, D, h, w] and ``feature`` [B, 512], which is never negative."""
        last = self.maps(images)
        return {"map": last, "feature": self.pooled(last)}

    def pooled(self, maps: Tensor) -> Tensor:
        """Maps [B, D, h, w] -> ``feature`` [B, 512]."""
        return self.fc(maps.mean((2, 3)))

    def maps(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] -> the last map [B, D, H/16, W/16]."""
        x = self.pool2(self.conv2(self.maxpool(self.conv1(images))))
        return self.conv5(self.conv4(self.pool3(self.conv3(x))))

    def load(self, tensors: Mapping[str, Tensor]) -> LoadReport:
        """Weights under torchreid's names (``osnet_x1_0_imagenet.pth`` and kin) or own ones."""
        return copy_pretrained(self, own_names(tensors), "classifier.")


class OSBlock(nn.Module):
    """Residual block: 1x1 convolution, four gated streams, their sum, 1x1 convolution (figure 4 of the paper).

    Args:
        channels, out: of input and output; the streams have a quarter of ``out``.
        norm: one of PLAIN, BEHIND and INSIDE.
    """

    def __init__(self, channels: int, out: int, norm: str = PLAIN) -> None:
        super().__init__()
        middle = out // 4
        self.conv1 = ConvNorm(channels, middle)
        self.streams = nn.ModuleList(
            nn.Sequential(*(LightConv(middle) for _ in range(length))) for length in (1, 2, 3, 4)
        )
        self.gate = Gate(middle)
        self.conv3 = ConvNorm(middle, out, relu=False, norm=norm != INSIDE)
        self.downsample = ConvNorm(channels, out, relu=False) if channels != out else nn.Identity()
        self.norm = norm
        if norm != PLAIN:
            self.IN = nn.InstanceNorm2d(out, affine=True)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        first = self.conv1(x)
        y = self.conv3(sum(self.gate(stream(first)) for stream in self.streams))
        if self.norm == INSIDE:
            y = self.IN(y)
        y = y + self.downsample(x)
        return self.relu(self.IN(y) if self.norm == BEHIND else y)


def own_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under torchreid's names -> the same under the names of :class:`OSNet`; own names stay."""
    return {_own_name(name): tensor for name, tensor in tensors.items()}


def _own_name(name: str) -> str:
    for pattern, own in _NAMES:
        name = re.sub(pattern, own, name)
    return name


_NAMES = (
    (r"(^|\.)conv2\.(\d)\.layers\.", r"\1streams.\2."),
    (r"(^|\.)conv2a\.", r"\1streams.0.0."),
    (r"(^|\.)conv2b\.", r"\1streams.1."),
    (r"(^|\.)conv2c\.", r"\1streams.2."),
    (r"(^|\.)conv2d\.", r"\1streams.3."),
    (r"(^|\.)conv([23])\.2\.", r"\1pool\2."),
)
"""The streams of OSNet and IBN, and of AIN, and the transitions of the former."""
