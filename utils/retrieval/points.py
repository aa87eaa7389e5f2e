"""Matched skin detail: points that two images have in common, under one similarity transform.

SIFT points (Lowe 2004) of the grey, locally equalised image, described by RootSIFT (Arandjelović and Zisserman 2012).
Two points match where each is the other's nearest and clearly nearer than the second nearest. Of the matches, those
count that one turn, scale and shift explains. The count needs no training and no learned threshold, and every point of
it can be inspected. It is no likelihood ratio.

OpenCV finds the points and is imported when they are first wanted; points that were found are compared without it.
"""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from utils.errors import ReIDError
from utils.optional import MissingPackageError, import_optional

SIDE = 512
"""Pixels of the longer side of the image in which points are found, whatever its own size."""

MOST = 400
"""Points of an image; those with the strongest response are kept."""

BORDER = 0.03
"""Share of the longer side, next to the border or to what a mask leaves out, without points: those match anywhere."""

WIDTH = 128
"""Numbers of a description."""

_SCALE = 512
"""A RootSIFT of length 1 is kept as whole numbers of 1/512; no entry exceeds a half in practice."""

_SEEDS = 32
"""Matches from whose pairs transforms are taken; all matches count for each."""

_APART = 0.04
"""Distance of two points, in units of the longer side, below which they determine no turn."""


class Points(NamedTuple):
    """Points of one image, strongest first.

    Attributes:
        places: [P, 2] float32, x and y from the upper left corner in units of the image's longer side.
        described: [P, 128] uint8, RootSIFT times 512.
    """

    places: np.ndarray
    described: np.ndarray


class Agreement(NamedTuple):
    """Points that two images have in common.

    Attributes:
        count: how many.
        left, right: [count, 2] their places in each image, in the units of :class:`Points`; row i is one point.
        turn: degrees by which the left image is turned to lie on the right one, clockwise as seen; 0 without points.
        scale: by which it is enlarged for that, both longer sides being 1; 1 without points.
    """

    count: int
    left: np.ndarray
    right: np.ndarray
    turn: float = 0.0
    scale: float = 1.0


NONE = Points(np.zeros((0, 2), np.float32), np.zeros((0, WIDTH), np.uint8))
NO_AGREEMENT = Agreement(0, NONE.places, NONE.places)


def require_opencv(wanted: str) -> ModuleType:
    """The package OpenCV.

    Args:
        wanted: the key or option that needs it, for the message.

    Raises:
        ReIDError: it is not installed.
    """
    try:
        return import_optional("cv2")
    except MissingPackageError as error:
        raise ReIDError(
            f"{wanted} needs the package OpenCV; {error}. Run `pip install opencv-python-headless` (not beside another "
            "OpenCV, such as the one that mediapipe installs: any of them will do), or leave it out."
        ) from None


def find_points(image: Image.Image | np.ndarray, mask: np.ndarray | None = None) -> Points:
    """Points of ``image``: at most :data:`MOST`, none in a uniform image.

    Args:
        image: of any size; an array is [H, W, 3] in RGB or [H, W] in grey, uint8.
        mask: [H, W], true where points may lie; the background should not be.

    Raises:
        ReIDError: OpenCV is missing, or the mask has another shape than the image.
    """
    cv2 = require_opencv("finding points")
    cv2.setNumThreads(1)  # many images are read at once, each by a process of its own
    grey = np.asarray((image if isinstance(image, Image.Image) else Image.fromarray(image)).convert("L"))
    if mask is not None and mask.shape != grey.shape:
        raise ReIDError(f"the mask is {list(mask.shape)}, the image {list(grey.shape)}: give one value for each pixel.")
    share = SIDE / max(grey.shape)
    size = tuple(max(1, round(share * side)) for side in grey.shape[::-1])
    grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA if share < 1 else cv2.INTER_CUBIC)
    grey = cv2.createCLAHE(clipLimit=3.0, tileGridSize=(8, 8)).apply(grey)
    allowed = _allowed(cv2, size, mask)
    found, vectors = cv2.SIFT_create().detectAndCompute(grey, None)
    kept = [number for number, point in enumerate(found) if allowed[_pixel(point, allowed.shape)]]
    # The place breaks ties, so that the order does not depend on how OpenCV divides its work.
    kept = sorted(kept, key=lambda number: (-found[number].response, found[number].pt, found[number].angle))[:MOST]
    if not kept:
        return NONE
    vectors = vectors[kept] / np.maximum(vectors[kept].sum(1, keepdims=True), 1e-12)
    described = (np.sqrt(vectors) * _SCALE).round().clip(0, 255).astype(np.uint8)
    # OpenCV counts from the centre of the first pixel.
    places = (np.array([found[number].pt for number in kept], np.float32) + 0.5) / np.float32(SIDE)
    return Points(places, described)


def _allowed(cv2: ModuleType, size: tuple[int, int], mask: np.ndarray | None) -> np.ndarray:
    """Where points may lie, [h, w]: not near the border, nor near what ``mask`` leaves out."""
    given = np.ones(size[::-1], np.uint8) if mask is None else mask.astype(np.uint8)
    allowed = cv2.resize(given, size, interpolation=cv2.INTER_NEAREST)
    margin = round(BORDER * SIDE)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * margin + 1, 2 * margin + 1))
    return cv2.erode(allowed, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0


def _pixel(point: object, shape: tuple[int, int]) -> tuple[int, int]:
    x, y = point.pt
    return min(max(round(y), 0), shape[0] - 1), min(max(round(x), 0), shape[1] - 1)


def agreeing_points(
    a: Points,
    b: Points,
    *,
    ratio: float = 0.9,
    tolerance: float = 0.02,
    turn: float = 40.0,
    scale: float = 1.6,
) -> Agreement:
    """Matches of ``a`` and ``b`` that one similarity transform explains; the count is the same for (b, a).

    Every pair of the best matches gives a transform, and the one that explains most matches is fitted to them once
    more. Nothing is drawn at random.

    Args:
        a, b: points of two images.
        ratio: largest distance to the nearest point, as a share of that to the second nearest (Lowe's test), both ways.
        tolerance: largest distance of a point from where the transform puts it, in units of the longer side.
        turn: largest turn in degrees.
        scale: largest enlargement, and its inverse the smallest.
    """
    left, right = _matches(a, b, ratio)
    if len(left) < 2:
        return NO_AGREEMENT
    one, other = _complex(a.places[left]), _complex(b.places[right])
    factor, shift = _transforms(one[:_SEEDS], other[:_SEEDS], turn, scale)
    if not len(factor):
        return NO_AGREEMENT
    inside = _explained(one, other, factor, shift, tolerance)
    best = inside[inside.sum(1).argmax()]
    fitted = _fit(one[best], other[best])
    again = _explained(one, other, *(np.array([part]) for part in fitted), tolerance)[0]
    if again.sum() >= best.sum() and _within(fitted[0], turn, scale):
        best = again
    factor = _fit(one[best], other[best])[0]
    chosen = np.flatnonzero(best)
    places = a.places[left[chosen]], b.places[right[chosen]]
    return Agreement(len(chosen), *places, float(np.degrees(np.angle(factor))), float(abs(factor)))


def _matches(a: Points, b: Points, ratio: float) -> tuple[np.ndarray, np.ndarray]:
    """Points [M] of each image that are nearest to each other and pass Lowe's test both ways, most similar first."""
    if min(len(a.places), len(b.places)) < 2:
        return np.zeros(0, int), np.zeros(0, int)
    # torch multiplies: its number of threads is set, NumPy's is not.
    similar = (torch.from_numpy(_unit(a.described)) @ torch.from_numpy(_unit(b.described)).T).numpy()
    rows = np.arange(len(similar))
    best = similar.argmax(1)
    nearest = similar[rows, best]
    similar[rows, best] = -1
    second = similar.max(1)
    similar[rows, best] = nearest
    # Squared distances of unit vectors are 2 (1 - cosine).
    left = np.flatnonzero(1 - nearest < ratio**2 * (1 - second))
    columns = similar[:, best[left]]
    mutual = columns.argmax(0) == left
    columns[left, np.arange(len(left))] = -1
    clear = 1 - nearest[left] < ratio**2 * (1 - columns.max(0, initial=-1))
    left = left[mutual & clear]
    left = left[np.argsort(-nearest[left], kind="stable")]
    return left, best[left]


def _unit(described: np.ndarray) -> np.ndarray:
    vectors = described.astype(np.float32)
    return vectors / np.maximum(np.sqrt(np.einsum("ij,ij->i", vectors, vectors)), 1e-12)[:, None]


def _complex(places: np.ndarray) -> np.ndarray:
    """x + iy: a similarity transform of the plane is then a product and a sum."""
    return places[:, 0].astype(np.float64) + 1j * places[:, 1]


def _transforms(one: np.ndarray, other: np.ndarray, turn: float, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Factor and shift [T] of the transforms that put two matches each on one another, within the limits."""
    first, second = np.triu_indices(len(one), 1)
    across, beyond = one[first] - one[second], other[first] - other[second]
    kept = (abs(across) > _APART) & (abs(beyond) > _APART)
    factor = beyond[kept] / across[kept]
    within = _within(factor, turn, scale)
    factor, first = factor[within], first[kept][within]
    return factor, other[first] - factor * one[first]


def _within(factor: np.ndarray | complex, turn: float, scale: float) -> np.ndarray:
    return (abs(np.log(abs(factor))) <= np.log(scale)) & (abs(np.degrees(np.angle(factor))) <= turn)


def _explained(
    one: np.ndarray, other: np.ndarray, factor: np.ndarray, shift: np.ndarray, tolerance: float
) -> np.ndarray:
    """Which matches [T, M] each transform explains; the error is halfway between those in the two images."""
    error = abs(factor[:, None] * one + shift[:, None] - other)
    return error <= tolerance * np.sqrt(abs(factor))[:, None]


def _fit(one: np.ndarray, other: np.ndarray) -> tuple[complex, complex]:
    """The least-squares transform with the scale that treats both images alike (Horn 1987)."""
    p, q = one - one.mean(), other - other.mean()
    direction = (p.conj() * q).sum()
    size = np.sqrt((abs(q) ** 2).sum() / max((abs(p) ** 2).sum(), 1e-300))
    factor = size * direction / max(abs(direction), 1e-300)
    return factor, other.mean() - factor * one.mean()
