"""ResNets as re-identification uses them: torchvision's names, last stride 1, ImageNet weights from a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from model.backbones.base import LoadReport, Outputs
from model.backbones.convolutional import ConvolutionalBackbone
from utils.errors import ReIDError


class ResNetShape(NamedTuple):
    """Blocks of each stage and channels of the stem; stage s ends with 4 * width * 2^(s-1) channels."""

    blocks: tuple[int, int, int, int]
    width: int = 64


SHAPES = {
    "resnet50": ResNetShape((3, 4, 6, 3)),
    "resnet-tiny": ResNetShape((1, 1, 1, 1), width=8),
}
"""By ``MODEL.NAME``. ``resnet-tiny`` is for tests and has no pre-training."""


class ResNet(ConvolutionalBackbone):
    """ResNet of bottleneck blocks (He et al., arXiv 1512.03385), stride in the 3x3 convolution of a block.

    Children ``conv1``, ``bn1``, ``relu``, ``maxpool``, ``layer1`` .. ``layer4`` are those of torchvision.

    Args:
        shape: blocks and channels.
        image_size: height and width in pixels.
        last_stride: 1 keeps the resolution of layer3 in layer4, as in re-identification; 2 as in ImageNet's.
    """

    family = "resnet"

    def __init__(self, shape: ResNetShape, image_size: tuple[int, int], last_stride: int = 1) -> None:
        super().__init__()
        width = shape.width
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = width
        for number, (blocks, stride) in enumerate(zip(shape.blocks, (1, 2, 2, last_stride), strict=True)):
            planes = width * 2**number
            setattr(self, f"layer{number + 1}", make_stage(channels, planes, blocks, stride))
            channels = planes * Bottleneck.expansion
        self.dims = {"map": channels, "feature": channels}
        self.grid = tuple(-(-side // (16 * last_stride)) for side in image_size)
        self.initialise()

    def forward(self, images: Tensor, side: Tensor | None = None) -> Outputs:
        """Images [B, 3, H, W] -> ``map`` of layer4 [B, D, h, w] and ``feature``, its mean [B, D]."""
        last = self.layer4(self.third(images))
        return {"map": last, "feature": last.mean((2, 3))}

    def stem(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] -> [B, C, H/4, W/4]: convolution, BatchNorm, ReLU, max-pooling."""
        return self.maxpool(self.relu(self.bn1(self.conv1(images))))

    def third(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] -> map of layer3 [B, D/2, H/16, W/16], where several methods branch off."""
        return self.layer3(self.layer2(self.layer1(self.stem(images))))

    def load(self, tensors: Mapping[str, Tensor]) -> LoadReport:
        """Weights under torchvision's or timm's names, which are the same; the classifier ``fc`` is left out."""
        report = LoadReport()
        own = self.state_dict()
        for name, tensor in tensors.items():
            if name.startswith("fc."):
                report.skipped[name] = "the classifier of its pre-training"
            elif name not in own or own[name].shape != tensor.shape:
                expected = list(own[name].shape) if name in own else "no such tensor"
                raise ReIDError(
                    f"MODEL.PRETRAIN_PATH: tensor {name} {list(tensor.shape)} does not fit MODEL.NAME, which has "
                    f"{expected}. Name a file of the same ResNet under torchvision's or timm's names."
                )
            else:
                report.loaded.append(name)
        # torchvision's oldest files were saved before BatchNorm counted its batches.
        missing = [n for n in own if n not in tensors and not n.endswith("num_batches_tracked")]
        if missing:
            raise ReIDError(
                f"MODEL.PRETRAIN_PATH: {len(missing)} of {len(own)} tensors are missing, first {missing[0]}. "
                "Name a file of the same ResNet under torchvision's or timm's names."
            )
        self.load_state_dict({name: tensors[name] for name in report.loaded}, strict=False)
        return report


def make_stage(channels: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
    """Bottleneck blocks from ``channels`` to 4 * ``planes``; the first has the stride and a projection."""
    out = planes * Bottleneck.expansion
    projection = nn.Sequential(nn.Conv2d(channels, out, 1, stride=stride, bias=False), nn.BatchNorm2d(out))
    first = Bottleneck(channels, planes, stride, projection)
    return nn.Sequential(first, *(Bottleneck(out, planes) for _ in range(blocks - 1)))


def set_stride(stage: nn.Sequential, stride: int) -> nn.Sequential:
    """The stage with another stride of its first block; its weights stay."""
    first = stage[0]
    first.conv2.stride = first.downsample[0].stride = (stride, stride)
    first.stride = stride
    return stage
