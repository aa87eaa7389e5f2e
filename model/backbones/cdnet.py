"""CDNet (Li et al., arXiv 2104.04163): the network that its architecture search found, 1.8 million parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from model.backbones.base import LoadReport, Outputs
from model.backbones.convolutional import ConvolutionalBackbone
from model.layers.light import ConvNorm, Gate, LightConv
from model.loading import copy_all
from utils.errors import ReIDError

SMALLEST_SIDE = 32
"""In pixels; it leaves maps of two rows, one for each stripe of the method."""

SQUEEZE = 4
"""The streams of a block have so many times fewer channels than its output; the gate's inner layer again."""


class Cell(NamedTuple):
    """Kernels of the two streams, repetitions, and channels of the output."""

    kernels: tuple[int, int]
    repeats: int
    out: int


class CDNetShape(NamedTuple):
    """Channels of the stem; cells before, between and behind the two transitions."""

    stem: int
    stages: tuple[tuple[Cell, ...], ...]


SHAPES = {
    "cdnet": CDNetShape(
        64,
        (
            (Cell((3, 5), 1, 256), Cell((3, 7), 2, 256)),
            (Cell((5, 7), 2, 384), Cell((5, 9), 1, 384)),
            (Cell((5, 7), 2, 512), Cell((5, 7), 1, 512)),
        ),
    ),
    "cdnet-tiny": CDNetShape(16, ((Cell((3, 5), 1, 32),), (Cell((3, 7), 1, 48),), (Cell((5, 9), 1, 64),))),
}
"""By ``MODEL.NAME``. ``cdnet-tiny`` is for tests."""


class CDNet(ConvolutionalBackbone):
    """Blocks of two streams with different receptive fields that share one gate.

    Args:
        shape: the genotype.
        image_size: height and width in pixels.

    Raises:
        ReIDError: the images are too small.
    """

    family = "cdnet"

    def __init__(self, shape: CDNetShape, image_size: tuple[int, int]) -> None:
        super().__init__()
        if min(image_size) < SMALLEST_SIDE:
            raise ReIDError(
                f"INPUT.SIZE_TRAIN = {list(image_size)} is too small: CDNet needs at least {SMALLEST_SIDE} pixels in "
                "each direction."
            )
        self.stem = ConvNorm(3, shape.stem, 7, stride=2)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.cells = nn.ModuleList()
        channels = shape.stem
        for number, stage in enumerate(shape.stages):
            if number:
                self.cells.append(nn.Sequential(ConvNorm(channels, channels), nn.AvgPool2d(2, stride=2)))
            for cell in stage:
                self.cells.append(_make_cell(channels, cell))
                channels = cell.out
        self.last_transition = len(self.cells) - len(shape.stages[-1]) - 1
        self.dims = {"middle": shape.stages[-2][-1].out, "map": channels, "feature": channels}
        self.grid = tuple(-(-side // 4) // 4 for side in image_size)
        self.initialise("fan_in")

    def forward(self, images: Tensor, side: Tensor | None = None) -> Outputs:
        """Images [B, 3, H, W] -> ``map`` [B, D, h, w], ``middle`` [B, E, h, w] and ``feature``, the mean of the map.

        ``middle`` is the map behind the second transition, three cells before the last, of the same size.
        """
        middle, last = self.maps(images)
        return {"middle": middle, "map": last, "feature": last.mean((2, 3))}

    def maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """``middle`` and ``map`` of :meth:`forward`."""
        x = self.maxpool(self.stem(images))
        for cell in self.cells[: self.last_transition + 1]:
            x = cell(x)
        middle = x
        for cell in self.cells[self.last_transition + 1 :]:
            x = cell(x)
        return middle, x

    def load(self, tensors: Mapping[str, Tensor]) -> LoadReport:
        """Weights under the published names (``base.``) or own ones; neck and classifiers are left out."""
        report, ready = LoadReport(), {}
        for name, tensor in tensors.items():
            if name.startswith("neck."):
                report.skipped[name] = "the neck of its pre-training"
            else:
                ready[own_name(name)] = tensor
        copy_all(self, ready)
        report.loaded = list(ready)
        return report


class CDBlock(nn.Module):
    """Residual block: 1x1 convolution, two gated streams, their sum, 1x1 convolution.

    A stream of kernel k has floor(k / 2) units, each with a depthwise 3x3 convolution.

    Args:
        channels, out: of input and output; the streams have a quarter of ``out``.
        kernels: of the two streams.
    """

    def __init__(self, channels: int, out: int, kernels: Sequence[int]) -> None:
        super().__init__()
        middle = out // SQUEEZE
        self.squeeze = ConvNorm(channels, middle)
        self.streams = nn.ModuleList(
            nn.Sequential(*(LightConv(middle) for _ in range(kernel // 2))) for kernel in kernels
        )
        self.gate = Gate(middle, SQUEEZE)
        self.restore = ConvNorm(middle, out, relu=False)
        self.expand = ConvNorm(channels, out, relu=False) if channels != out else nn.Identity()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        first = self.squeeze(x)
        y = self.restore(sum(self.gate(stream(first)) for stream in self.streams))
        return self.relu(y + self.expand(x))


def _make_cell(channels: int, cell: Cell) -> nn.Sequential:
    """Blocks of a cell; the first changes the width."""
    widths = [channels, *[cell.out] * (cell.repeats - 1)]
    return nn.Sequential(*(CDBlock(width, cell.out, cell.kernels) for width in widths))


def own_name(name: str) -> str:
    """A published name of a tensor of the network (``base.cells.0.ops.0.conv1.0.op.2.weight``) -> that of
    :class:`CDNet`; own names stay."""
    if not name.startswith("base."):
        return name
    for pattern, own in _NAMES:
        name = re.sub(pattern, own, name)
    return name


_UNIT = ("conv1", "conv2", "bn")
_NAMES = (
    (r"^base\.", ""),
    (r"^stem\.conv1\.", "stem."),
    (r"\.ops\.(\d+)\.", r".\1."),
    (r"\.conv1x1\.", ".0."),
    (r"\.conv([12])\.(\d+)\.op\.([012])\.", lambda m: f".streams.{int(m[1]) - 1}.{m[2]}.{_UNIT[int(m[3])]}."),
    (r"\.adaption\.", ".gate."),
    (r"(^stem|\.squeeze|\.restore|\.expand|\.0)\.op\.0\.", r"\1.conv."),
    (r"(^stem|\.squeeze|\.restore|\.expand|\.0)\.op\.1\.", r"\1.bn."),
)
