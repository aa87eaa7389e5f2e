"""Where the hand is in a picture, by its key points, so that nothing is matched on the background."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from datasets.fields.geometry import PointReader
from datasets.parsing.keypoints import DEFAULT_FILE, FINGERS, HAND, KeyPointFile, keypoints_of
from utils.console.logger import LOGGER
from utils.errors import ReIDError

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from datasets.bases import ReIDDataset

PALM = (0, 1, 2, 5, 9, 13, 17)
"""Wrist, base of the thumb, then the knuckles."""

_KNUCKLES = [5, 17]
_WIDTH = 0.45
"""Of a finger with a margin, as a share of the distance between the outer knuckles."""


class HandMasks:
    """Masks of pictures: the palm and wide strokes along the fingers.

    Args:
        points: in the pictures that are read.
        version: changes when any key point changes.
    """

    def __init__(self, points: PointReader, version: str) -> None:
        self.points, self.version = points, version

    def __call__(self, path: str, size: tuple[int, int]) -> np.ndarray | None:
        """True on the hand [H, W]; None where not all of its points are in the picture.

        Args:
            path: of the photograph.
            size: width and height of its picture.
        """
        if path not in self.points.file.images:
            return None
        found = self.points(path, [], size).numpy()
        if not (found[:, 2] > 0).all():
            return None
        return hand_mask(found[:, :2], size)


def hand_mask(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """True on the hand [H, W].

    Args:
        points: [21, 2] x and y in pixels, in the order of :data:`datasets.parsing.keypoints.HAND`.
        size: width and height.
    """
    width = max(1, round(_WIDTH * float(np.linalg.norm(np.diff(points[_KNUCKLES], axis=0)))))
    image = Image.new("1", size)
    draw = ImageDraw.Draw(image)
    palm = [tuple(point) for point in points[list(PALM)].tolist()]
    draw.polygon(palm, fill=1)
    for stroke in ([*palm, palm[0]], *(list(map(tuple, points[list(finger)].tolist())) for finger in FINGERS)):
        draw.line(stroke, fill=1, width=width)
        for x, y in stroke:
            draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=1)
    return np.asarray(image)


def mask_points(cfg: CfgNode, dataset: ReIDDataset) -> KeyPointFile:
    """The key points that masks are made of, ``DATASETS.KEYPOINTS``.

    Raises:
        ReIDError: there is no file of 21 points, or it names none of the images.
    """
    file = keypoints_of(cfg, dataset)
    if file.count != HAND:
        raise ReIDError(
            f"TEST.POINTS_MASK reads the {HAND} points of a hand; DATASETS.KEYPOINTS has {file.count}. Name a file of "
            "hand points, or set TEST.POINTS_MASK to False."
        )
    return file


def hand_masks(cfg: CfgNode, dataset: ReIDDataset) -> HandMasks:
    """The masks of the images of ``dataset``; images without all points are counted.

    Raises:
        ReIDError: see :func:`mask_points`.
    """
    file = mask_points(cfg, dataset)
    paths = {record.path for record in dataset.test_images}
    lost = sum(path not in file.images or not np.isfinite(file.images[path].points).all() for path in paths)
    if lost:
        LOGGER.info(
            "note: %d of %d test images have no complete key points: their whole picture counts", lost, len(paths)
        )
    source = Path(cfg.DATASETS.KEYPOINTS or Path(dataset.root) / DEFAULT_FILE)
    return HandMasks(PointReader(file, dataset.reading), f"{source.name} {source.stat().st_mtime_ns}")
