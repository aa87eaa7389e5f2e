"""Image transforms of CLIP-ReID: bicubic with augmentation for training, bilinear without for everything else."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PIL import Image
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torchvision import transforms
from torchvision.transforms.functional import center_crop, resize

Transform = Callable[[Image.Image], Tensor]
"""An RGB picture to a normalised tensor [3, H, W]."""


class CoverCrop:
    """Scale a picture until it covers ``size``, then cut out its centre; the longer side loses its ends.

    For a square this is CLIP's own preprocessing, ``Resize(side)`` and ``CenterCrop(side)``.

    Args:
        size: height and width in pixels.
        interpolation: name of a Pillow filter.
    """

    def __init__(self, size: Sequence[int], interpolation: str) -> None:
        self.size = (size[0], size[1])
        self.interpolation = transforms.InterpolationMode(interpolation)

    def __call__(self, image: Image.Image) -> Image.Image:
        """The part of ``image`` that is kept, of :attr:`size`."""
        (height, width), (columns, rows) = self.size, image.size
        if height * columns >= width * rows:  # wider than wanted: the height decides
            scaled = (height, height * columns // rows)
        else:
            scaled = (width * rows // columns, width)
        return center_crop(resize(image, list(scaled), self.interpolation), list(self.size))


def fitting(size: Sequence[int], interpolation: str, fit: str = "stretch") -> Callable[[Image.Image], Image.Image]:
    """From a picture of any size to one of ``size``: ``stretch`` it, or ``crop`` its centre (``INPUT.FIT_TEST``)."""
    if fit == "crop":
        return CoverCrop(size, interpolation)
    return transforms.Resize(tuple(size), transforms.InterpolationMode(interpolation))


def train_transform(
    size: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    *,
    resize: Sequence[int] | None = None,
    interpolation: str = "bicubic",
    flip: float = 0.5,
    rotation: float = 0.0,
    jitter: float = 0.0,
    padding: int = 10,
    erasing: float = 0.5,
) -> Transform:
    """Resize, flip, rotate, change colours, pad, crop, normalise, erase; without rotation and colours as published.

    Args:
        size: height and width in pixels.
        mean, std: per channel, of images in [0, 1].
        resize: height and width before the crop; ``size`` when None.
        interpolation: name of a Pillow filter.
        flip: probability of the mirror image.
        rotation: largest angle in degrees either way; corners become black.
        jitter: largest change of brightness, contrast and saturation, as a share.
        padding: black border in pixels in front of the random crop.
        erasing: probability that one rectangle is filled with noise (Zhong et al., arXiv 1708.04896).
    """
    # Left out where they are off: they would draw random numbers all the same.
    rotate = [transforms.RandomRotation(rotation, transforms.InterpolationMode.BILINEAR)] if rotation else []
    colours = [transforms.ColorJitter(jitter, jitter, jitter)] if jitter else []
    return transforms.Compose(
        [
            transforms.Resize(tuple(resize or size), transforms.InterpolationMode(interpolation)),
            transforms.RandomHorizontalFlip(flip),
            *rotate,
            *colours,
            transforms.Pad(padding),
            transforms.RandomCrop(tuple(size)),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
            # Behind the normalisation, so that the noise has the statistics of the images.
            RandomErasing(probability=erasing, mode="pixel", max_count=1, device="cpu"),
        ]
    )


def test_transform(
    size: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    *,
    interpolation: str = "bilinear",
    fit: str = "stretch",
) -> Transform:
    """Resize or crop (:func:`fitting`) and normalise; stage 1 takes its image features from these too."""
    return transforms.Compose(
        [fitting(size, interpolation, fit), transforms.ToTensor(), transforms.Normalize(mean, std)]
    )


test_transform.__test__ = False  # pytest would take it for a test
