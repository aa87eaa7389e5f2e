"""Auto-ReID (Quan et al., arXiv 1903.09776): the published cells in a frame of ours.

Published are the cells and the part-aware module. Stem, number of cells, channels and head are not: the frame here has
the layout of ResNet-50 and is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn

from model.backbones.base import LoadReport, Outputs
from model.backbones.convolutional import ConvolutionalBackbone
from model.layers.cells import Cell, Genotype
from model.loading import copy_all
from utils.errors import ReIDError

SEP, DIL, MAX, AVG, SKIP, PART = (
    "sep_conv_3x3",
    "dil_conv_3x3",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "part_aware",
)

SEARCHED = Genotype(
    normal=(((SEP, 0), (SKIP, 1)), ((DIL, 2), (DIL, 0)), ((DIL, 3), (SEP, 2)), ((DIL, 4), (DIL, 3))),
    reduction=(((MAX, 0), (PART, 1)), ((SEP, 0), (DIL, 2)), ((DIL, 2), (MAX, 0)), ((DIL, 4), (DIL, 3))),
)
"""Searched with the triplet loss among operations with the part-aware module: the published result."""

WITHOUT_TRIPLET = Genotype(
    normal=(((DIL, 0), (SKIP, 1)), ((MAX, 2), (SEP, 0)), ((MAX, 3), (SEP, 1)), ((SEP, 2), (DIL, 3))),
    reduction=(((SKIP, 1), (PART, 0)), ((AVG, 2), (PART, 0)), ((SEP, 1), (AVG, 2)), ((SKIP, 4), (MAX, 3))),
)
"""Searched without the triplet loss."""

WITHOUT_PARTS = Genotype(
    normal=(((DIL, 1), (DIL, 0)), ((DIL, 1), (SEP, 2)), ((DIL, 2), (SEP, 1)), ((SEP, 2), (SEP, 3))),
    reduction=(((SEP, 1), (SKIP, 0)), ((MAX, 2), (DIL, 1)), ((MAX, 0), (DIL, 2)), ((SKIP, 0), (DIL, 4))),
)
"""Searched without the triplet loss and without the part-aware module."""

SMALLEST_SIDE = 64
"""In pixels; it leaves four rows, one for each part, to the last cell with the part-aware module."""


class AutoReIDShape(NamedTuple):
    """The cells, channels of the stem and of a node in the first stage, and cells of each stage."""

    cells: Genotype
    stem: int = 64
    channels: int = 52
    stages: tuple[int, ...] = (3, 4, 6, 3)


SHAPES = {
    "autoreid": AutoReIDShape(SEARCHED),
    "autoreid_without_triplet": AutoReIDShape(WITHOUT_TRIPLET),
    "autoreid_without_parts": AutoReIDShape(WITHOUT_PARTS),
    "autoreid-tiny": AutoReIDShape(SEARCHED, 16, 8, (1, 2, 1, 1)),
}
"""By ``MODEL.NAME``. ``autoreid-tiny`` is for tests."""


class AutoReIDNet(ConvolutionalBackbone):
    """ResNet's stem, then stages of cells; all but the first start with a reduction cell and double the channels.

    Args:
        shape: cells and sizes.
        image_size: height and width in pixels.

    Raises:
        ReIDError: the images are too small.
    """

    family = "autoreid"

    def __init__(self, shape: AutoReIDShape, image_size: tuple[int, int]) -> None:
        super().__init__()
        if min(image_size) < SMALLEST_SIDE:
            raise ReIDError(
                f"INPUT.SIZE_TRAIN = {list(image_size)} is too small: Auto-ReID's four parts need images of at least "
                f"{SMALLEST_SIDE} pixels in each direction."
            )
        self.conv1 = nn.Conv2d(3, shape.stem, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(shape.stem)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.cells = nn.ModuleList()
        older, last, behind = shape.stem, shape.stem, False
        for stage, count in enumerate(shape.stages):
            channels = shape.channels * 2**stage
            for number in range(count):
                reduction = stage > 0 and number == 0
                nodes = shape.cells.reduction if reduction else shape.cells.normal
                self.cells.append(Cell(nodes, (older, last), channels, reduction=reduction, behind_reduction=behind))
                older, last, behind = last, channels * len(nodes), reduction
        self.dims = {"map": last, "feature": last}
        stride = 4 * 2 ** (len(shape.stages) - 1)
        self.grid = tuple(-(-side // stride) for side in image_size)
        self.initialise()

    def forward(self, images: Tensor, side: Tensor | None = None) -> Outputs:
        """Images [B, 3, H, W] -> ``map`` of the last cell [B, D, H/32, W/32] and ``feature``, its mean [B, D]."""
        last = self.maps(images)
        return {"map": last, "feature": last.mean((2, 3))}

    def maps(self, images: Tensor) -> Tensor:
        """``map`` of :meth:`forward`."""
        older = last = self.maxpool(self.bn1(self.conv1(images)).relu())
        for cell in self.cells:
            older, last = last, cell(older, last)
        return last

    def load(self, tensors: Mapping[str, Tensor]) -> LoadReport:
        """Weights under own names: none are published."""
        copy_all(self, tensors)
        return LoadReport(list(tensors))
