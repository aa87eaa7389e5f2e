"""Image transforms of CLIP-ReID: bicubic with augmentation for training, bilinear without for everything else."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms
from torchvision.transforms.functional import center_crop, crop, resize

from datasets.erasing import Cutout, RandomErasing
from utils.windows import contained

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


class Letterbox:
    """Scale a picture to its largest within ``size`` and put it in the middle of black: its shape stays (CLIP-ReIdent).

    Args:
        size: height and width in pixels.
        interpolation: name of a Pillow filter.
    """

    def __init__(self, size: Sequence[int], interpolation: str) -> None:
        self.size = (size[0], size[1])
        self.interpolation = transforms.InterpolationMode(interpolation)

    def place(self, width: float, height: float) -> tuple[tuple[int, int], int, int]:
        """Height and width of the scaled picture, and the first row and column that it has."""
        scaled = contained((width, height), self.size)
        top, left = ((whole - part) // 2 for whole, part in zip(self.size, scaled, strict=True))
        return scaled, top, left

    def __call__(self, image: Image.Image) -> Image.Image:
        """``image`` with its border, of :attr:`size`; one of this size stays as it is."""
        scaled, top, left = self.place(*image.size)
        picture = resize(image, list(scaled), self.interpolation)
        if scaled == self.size:
            return picture
        framed = Image.new(picture.mode, self.size[::-1])
        framed.paste(picture, (left, top))
        return framed


def fitting(size: Sequence[int], interpolation: str, fit: str = "stretch") -> Callable[[Image.Image], Image.Image]:
    """From a picture of any size to one of ``size``: a value of ``INPUT.FIT_TEST`` or ``INPUT.FIT_TRAIN``."""
    if fit == "crop":
        return CoverCrop(size, interpolation)
    if fit == "letterbox":
        return Letterbox(size, interpolation)
    return transforms.Resize(tuple(size), transforms.InterpolationMode(interpolation))


ENLARGED = 1.125
"""Height and width before the crop of :class:`RandomTranslation`, in units of the crop's."""


class RandomTranslation:
    """Resize a picture to ``size``; or, with a probability, to an eighth more and cut out ``size`` anywhere.

    Args:
        size: height and width in pixels.
        interpolation: name of a Pillow filter.
        probability: of the larger size.
    """

    def __init__(self, size: Sequence[int], interpolation: str, probability: float) -> None:
        self.size = (size[0], size[1])
        self.interpolation = transforms.InterpolationMode(interpolation)
        self.probability = probability

    def draw(self) -> tuple[tuple[int, int], int, int]:
        """Height and width of the resized picture, and the first row and column that are kept."""
        if torch.rand(1) >= self.probability:
            return self.size, 0, 0
        larger = (round(self.size[0] * ENLARGED), round(self.size[1] * ENLARGED))
        top, left = (int(torch.randint(0, a - b + 1, (1,))) for a, b in zip(larger, self.size, strict=True))
        return larger, top, left

    def __call__(self, image: Image.Image) -> Image.Image:
        """A part of ``image``, of :attr:`size`."""
        larger, top, left = self.draw()
        return crop(resize(image, list(larger), self.interpolation), top, left, *self.size)


def train_transform(
    size: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    *,
    resize: Sequence[int] | None = None,
    interpolation: str = "bicubic",
    fit: str = "stretch",
    flip: float = 0.5,
    translation: float = 0.0,
    rotation: float = 0.0,
    grey: float = 0.0,
    jitter: float | Sequence[float] = 0.0,
    jitter_probability: float = 1.0,
    jitter_first: bool = False,
    padding: int = 10,
    erasing: float = 0.5,
    erasing_area: float = 1 / 3,
    erasing_value: str | Sequence[float] = "noise",
    cutout: float = 0.0,
    cutout_side: int = 64,
    augmix: float = 0.0,
) -> Transform:
    """Resize, flip, rotate, change colours, pad, crop, normalise, erase; without what is off by default as published.

    Args:
        size: height and width in pixels.
        mean, std: per channel, of images in [0, 1].
        resize: height and width before the crop; ``size`` when None.
        interpolation: name of a Pillow filter.
        fit: how a picture gets the size in front of the crop, see :func:`fitting`.
        flip: probability of the mirror image.
        translation: probability of :class:`RandomTranslation`, which then takes the place of the resize.
        rotation: largest angle in degrees either way; corners become black.
        grey: probability of a grey picture, in front of all else.
        jitter: largest change of brightness, contrast and saturation, as a share; or of each of these and of the hue,
            in turns.
        jitter_probability: of that change.
        jitter_first: change colours in front of the resize.
        padding: black border in pixels in front of the random crop.
        erasing: probability that one rectangle is filled (Zhong et al., arXiv 1708.04896).
        erasing_area: its largest share of the image.
        erasing_value: ``noise``, ``mean`` of each channel of the image, or three values of the normalised image.
        cutout, cutout_side: probability and side of :class:`~datasets.erasing.Cutout`.
        augmix: probability of AugMix (Hendrycks et al., arXiv 1912.02781).
    """
    resized = tuple(resize or size)
    scale = (
        RandomTranslation(resized, interpolation, translation) if translation else fitting(resized, interpolation, fit)
    )
    # Left out where they are off: they would draw random numbers all the same.
    rotate = [transforms.RandomRotation(rotation, transforms.InterpolationMode.BILINEAR)] if rotation else []
    colours = _colours(jitter, jitter_probability)
    return transforms.Compose(
        [
            *([transforms.RandomGrayscale(grey)] if grey else []),
            *(colours if jitter_first else []),
            scale,
            transforms.RandomHorizontalFlip(flip),
            *rotate,
            *([] if jitter_first else colours),
            transforms.Pad(padding),
            transforms.RandomCrop(tuple(size)),
            *([transforms.RandomApply([augmix_of_the_paper()], augmix)] if augmix else []),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
            # Behind the normalisation, so that the noise has the statistics of the images.
            RandomErasing(erasing, erasing_area, erasing_value),
            *([Cutout(cutout, cutout_side)] if cutout else []),
        ]
    )


def _colours(jitter: float | Sequence[float], probability: float) -> list[Callable[[Image.Image], Image.Image]]:
    ranges = (jitter, jitter, jitter) if isinstance(jitter, (int, float)) else jitter
    if not any(ranges) or not probability:
        return []
    change = transforms.ColorJitter(*ranges)
    return [change] if probability == 1 else [transforms.RandomApply([change], probability)]


def augmix_of_the_paper() -> transforms.AugMix:
    """AugMix's published settings with torchvision's operations: three chains of one to three operations of severity 3,
    weights from Dirichlet and Beta distributions of parameter 1, no change of brightness, contrast, colour, sharpness.

    It draws from torch's generator alone.
    """
    return transforms.AugMix(severity=3, mixture_width=3, chain_depth=-1, alpha=1.0, all_ops=False)


def test_transform(
    size: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    *,
    interpolation: str = "bilinear",
    fit: str = "stretch",
) -> Transform:
    """Fit (:func:`fitting`) and normalise; stage 1 takes its image features from these too."""
    return transforms.Compose(
        [fitting(size, interpolation, fit), transforms.ToTensor(), transforms.Normalize(mean, std)]
    )


test_transform.__test__ = False  # keeps pytest from collecting it as a test
