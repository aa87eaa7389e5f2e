"""Parts of a normalised image that are replaced: random erasing and cutout."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from timm.data import random_erasing
from torch import Tensor


class Patch(NamedTuple):
    """A rectangle of an image and what it is filled with.

    Attributes:
        top, left, bottom, right: in pixels; the last two are not part of it.
        values: [3, height, width] or [3, 1, 1]; None for the mean of each channel of the image.
    """

    top: int
    left: int
    bottom: int
    right: int
    values: Tensor | None

    def fill(self, image: Tensor) -> None:
        """Write on a normalised image [3, H, W]."""
        values = image.mean((1, 2), keepdim=True) if self.values is None else self.values
        image[:, self.top : self.bottom, self.left : self.right] = values


class Patching(ABC):
    """A random step behind the normalisation that replaces at most one rectangle."""

    @abstractmethod
    def draw(self, height: int, width: int) -> Patch | None:
        """What is replaced in an image of this size."""

    def __call__(self, image: Tensor) -> Tensor:
        """Image [3, H, W] -> itself."""
        patch = self.draw(*image.shape[1:])
        if patch:
            patch.fill(image)
        return image


class RandomErasing(Patching, random_erasing.RandomErasing):
    """timm's random erasing of at most one rectangle (Zhong et al., arXiv 1708.04896).

    Args:
        probability: of a rectangle.
        area: its largest share of the image.
        value: ``noise``, ``mean`` of each channel of the image, or three values.
    """

    def __init__(self, probability: float, area: float, value: str | Sequence[float]) -> None:
        mode = "pixel" if value == "noise" else "const"
        random_erasing.RandomErasing.__init__(
            self, probability=probability, max_area=area, mode=mode, max_count=1, device="cpu"
        )
        self.value = value

    def draw(self, height: int, width: int) -> Patch | None:
        canvas = _Canvas(height, width)
        random_erasing.RandomErasing.__call__(self, canvas)
        if canvas.patch is None or self.value == "noise":
            return canvas.patch
        return canvas.patch._replace(
            values=None if self.value == "mean" else torch.tensor(self.value, dtype=torch.float32)[:, None, None]
        )


class _Canvas:
    """What timm takes for an image: it remembers where it is written on and what with."""

    dtype = torch.float32

    def __init__(self, height: int, width: int) -> None:
        self.shape = (3, height, width)
        self.patch: Patch | None = None

    def size(self) -> tuple[int, int, int]:
        return self.shape

    def __setitem__(self, place: tuple[slice, slice, slice], values: Tensor) -> None:
        _, rows, columns = place
        self.patch = Patch(rows.start, columns.start, rows.stop, columns.stop, values)


class Cutout(Patching):
    """With a probability, one square of zeros anywhere in an image (DeVries and Taylor, arXiv 1708.04552).

    Args:
        probability: of it.
        side: in pixels.
    """

    def __init__(self, probability: float, side: int) -> None:
        self.probability, self.side = probability, side

    def draw(self, height: int, width: int) -> Patch | None:
        if torch.rand(1) >= self.probability:
            return None
        top, left = (int(torch.randint(0, length - self.side + 1, (1,))) for length in (height, width))
        return Patch(top, left, top + self.side, left + self.side, torch.zeros(3, 1, 1))
