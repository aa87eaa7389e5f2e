"""Upright parts of pictures: a rectangle that may be turned is cut out, turned and resized in one interpolation."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from PIL import Image

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
"""Filters that can turn a picture, by their names in ``INPUT.INTERPOLATION_*``."""


class Window(NamedTuple):
    """A part of a picture in pixels of the whole upright picture, from its top left corner.

    Attributes:
        turn: degrees, clockwise, from the picture's right to the window's.
        centre: x and y; None: those of the picture.
        size: width and height; None: those of the picture.
        of: width and height of the picture that this holds for; None: not known.
    """

    turn: float
    centre: tuple[float, float] | None = None
    size: tuple[float, float] | None = None
    of: tuple[int, int] | None = None


class Target(NamedTuple):
    """What a picture becomes: height and width in pixels, the name of a filter, and ``stretch``, ``crop`` or
    ``letterbox``, of which the picture is cut without its black border.
    """

    size: tuple[int, int]
    interpolation: str
    fit: str = "stretch"


class Frame(NamedTuple):
    """A :class:`Window` of which all is known."""

    turn: float
    centre: tuple[float, float]
    size: tuple[float, float]


def frame_of(window: Window, whole: tuple[float, float, float, float]) -> Frame:
    """``window``; what it leaves open is that of the part ``whole`` (left, top, width, height) of the picture."""
    left, top, width, height = whole
    return Frame(window.turn, window.centre or (left + width / 2, top + height / 2), window.size or (width, height))


def covering(frame: Frame, size: tuple[int, int]) -> Frame:
    """The largest part of ``frame`` around its centre with the shape of ``size`` (height, width)."""
    share = min(frame.size[0] / size[1], frame.size[1] / size[0])
    return frame._replace(size=(share * size[1], share * size[0]))


def contained(shape: tuple[float, float], size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a picture of ``shape`` (width, height) at its largest within ``size`` (height, width)."""
    share = min(size[0] / shape[1], size[1] / shape[0])
    return max(1, round(share * shape[1])), max(1, round(share * shape[0]))


def to_picture(frame: Frame, size: tuple[int, int]) -> np.ndarray:
    """The matrix [2, 3] from pixels of a result of ``size`` (height, width) to those of the picture."""
    cos, sin = math.cos(math.radians(frame.turn)), math.sin(math.radians(frame.turn))
    step = np.array([[cos, -sin], [sin, cos]]) * [frame.size[0] / size[1], frame.size[1] / size[0]]
    start = np.array(frame.centre) - step @ [size[1] / 2, size[0] / 2]
    return np.concatenate([step, start[:, None]], 1)


def cut(picture: Image.Image, frame: Frame, scale: float = 1.0, target: Target | None = None) -> Image.Image:
    """The part ``frame`` of ``picture``, upright.

    Whole pixels are averaged first where the result is much smaller, as JPEG's draft does; the rest is one
    interpolation. Outside the picture lies the median colour of its border.

    Args:
        picture: in RGB.
        frame: in pixels of the whole picture.
        scale: of ``picture`` in that measure; below 1 where it was decoded smaller.
        target: of the result; None: as many pixels as the part has, but no longer side than ``picture``.
    """
    if target is None:
        share = min(scale, max(picture.size) / max(frame.size))
        target = Target((max(1, round(share * frame.size[1])), max(1, round(share * frame.size[0]))), "bilinear")
    if target.fit == "crop":
        frame = covering(frame, target.size)
    elif target.fit == "letterbox":
        target = target._replace(size=contained(frame.size, target.size))
    matrix = scale * to_picture(frame, target.size)
    whole = max(1, round(min(np.hypot(*matrix[:, 0]), np.hypot(*matrix[:, 1]))))
    colour = border_colour(picture)
    reduced = picture.reduce(whole) if whole > 1 else picture
    (height, width), coefficients = target.size, (matrix / whole).ravel().tolist()
    how = RESAMPLING[target.interpolation]
    return reduced.transform((width, height), Image.Transform.AFFINE, coefficients, how, fillcolor=colour)


def border_colour(picture: Image.Image) -> tuple[int, int, int]:
    """The median colour of the outermost pixels of an RGB picture."""
    width, height = picture.size
    strips = ((0, 0, width, 1), (0, height - 1, width, height), (0, 0, 1, height), (width - 1, 0, width, height))
    pixels = np.concatenate([np.asarray(picture.crop(strip)).reshape(-1, 3) for strip in strips])
    red, green, blue = np.median(pixels, 0).astype(int).tolist()
    return red, green, blue
