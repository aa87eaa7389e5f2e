"""Upright hands: from key points to the part of a picture that the model sees (``INPUT.ALIGN``).

- ``rotate``: the whole picture, turned about its centre until the wrist is straight below the middle knuckle;
- ``crop``: the box around the points, turned likewise, with a margin;
- ``palm``: the square of the palm (or of the back of the hand) below the knuckles, as palmprint work takes its region
  of interest from the valleys beside the middle and the ring finger (Zhang et al., IEEE TPAMI 2003).

A window never mirrors: left hands stay left hands. Images without the points it needs are used as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from datasets.bases import WARNING, some
from datasets.parsing.keypoints import (
    DEFAULT_FILE,
    HAND,
    KeyPointFile,
    KeyPoints,
    keypoints_of,
    read_keypoints,
    relative_name,
)
from utils.errors import ReIDError
from utils.windows import Window
from utils.words import number_of

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from datasets.bases import ReIDDataset

MARGIN = 0.15
"""Of ``crop``, on each side, as a share of the longer side of the box: finger tips reach beyond their points."""
PALM_SIDE = 1.6
"""Of ``palm``, in distances of the two valleys."""

WRIST, INDEX, MIDDLE, RING, LITTLE = 0, 5, 9, 13, 17
"""Points of the hand: the wrist and the knuckles of four fingers."""

Points = npt.NDArray[np.float64]

Windows = Mapping[str, Window | None]
"""By name; None where the hand was not found."""


def downwards(points: Points) -> float:
    """Degrees, clockwise, by which a hand with these ``points`` [21, 2] is turned: 0 upright, 180 with fingers down.

    NaN where its wrist or its middle knuckle was not found, or where both are one place.
    """
    x, y = points[WRIST] - points[MIDDLE]
    return math.degrees(math.atan2(-x, y)) if math.hypot(x, y) > 1 else math.nan


def window_of(align: str, found: KeyPoints, size: Sequence[int]) -> Window | None:
    """The part of a picture with these key points that is used; None for the whole picture.

    Args:
        align: ``rotate``, ``crop`` or ``palm``.
        found: in the picture.
        size: height and width of the model's input, whose shape ``crop`` has.
    """
    turn = downwards(found.points)
    if math.isnan(turn):
        return None
    if align == "rotate":
        return Window(turn, of=found.size)
    return _crop(found, turn, size) if align == "crop" else _palm(found)


def _axes(turn: float) -> Points:
    """The window's axes [2, 2] in the picture: to the right, and down."""
    cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    return np.array([[cos, sin], [-sin, cos]])


def _crop(found: KeyPoints, turn: float, size: Sequence[int]) -> Window:
    axes = _axes(turn)
    turned = found.points[np.isfinite(found.points).all(-1)] @ axes.T
    low, high = turned.min(0), turned.max(0)
    width, height = high - low + 2 * MARGIN * (high - low).max()
    width = max(width, height * size[1] / size[0])
    x, y = ((low + high) / 2 @ axes).tolist()
    return Window(turn, (x, y), (float(width), float(width * size[0] / size[1])), found.size)


def _palm(found: KeyPoints) -> Window | None:
    first, second = (found.points[[one, other]].mean(0) for one, other in ((INDEX, MIDDLE), (RING, LITTLE)))
    across = second - first
    length = float(np.hypot(*across))
    if not length > 1:  # NaN: a knuckle was not found
        return None
    down = np.array([-across[1], across[0]]) / length
    middle = (first + second) / 2
    down = down if down @ (found.points[WRIST] - middle) > 0 else -down
    side = PALM_SIDE * length
    x, y = (middle + down * side / 2).tolist()
    return Window(math.degrees(math.atan2(-down[0], down[1])), (x, y), (side, side), found.size)


def aligned_images(cfg: CfgNode, dataset: ReIDDataset) -> tuple[dict[str, Window], list[str]]:
    """The windows of the images of ``dataset`` by path, and a note on those that have none.

    Raises:
        ReIDError: as :func:`keypoints_of`, or the points are those of people.
    """
    if cfg.INPUT.ALIGN == "none":
        return {}, []
    found = _windows(cfg, _hands(cfg, keypoints_of(cfg, dataset)))
    windows = {path: window for path, window in found.items() if window}
    records = (*dataset.train, *dataset.val, *dataset.test_images)
    paths = list(dict.fromkeys(record.path for record in records))
    note = _note(cfg, paths, windows)
    return windows, [note] if note else []


def _hands(cfg: CfgNode, known: KeyPointFile) -> KeyPointFile:
    if known.count != HAND:
        raise ReIDError(
            f"INPUT.ALIGN = {cfg.INPUT.ALIGN} with {known.count} key points an image, those of people: the "
            f"{HAND} points of a hand are needed (DATASETS.KEYPOINTS). Set INPUT.ALIGN to none."
        )
    return known


def _windows(cfg: CfgNode, known: KeyPointFile) -> dict[str, Window | None]:
    size = cfg.INPUT.SIZE_TEST
    return {path: window_of(cfg.INPUT.ALIGN, points, size) for path, points in known.images.items()}


def _note(cfg: CfgNode, paths: Sequence[str], windows: Mapping[str, Window]) -> str:
    lost = [path for path in paths if path not in windows]
    if not lost:
        return ""
    return (
        f"{WARNING}INPUT.ALIGN {cfg.INPUT.ALIGN}: {number_of(len(lost), 'image')} of {len(paths)} without key "
        f"points of a hand, used as a whole: {some(lost)}"
    )


class WindowsByName:
    """Windows of loose images, by the file of key points in their folder or one above it, else ``DATASETS.KEYPOINTS``.

    In ``keypoints.csv`` (``python -m datasets.keypoints --root FOLDER`` writes it) paths start from its own folder. The
    paths of ``DATASETS.KEYPOINTS`` may be the ends of those of the images, which lie elsewhere than in training.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.cfg = cfg
        self.below: dict[str, Windows] = {}
        self.named: Windows = {}
        if cfg.INPUT.ALIGN != "none" and cfg.DATASETS.KEYPOINTS:
            self.named = self._windows(read_keypoints(cfg.DATASETS.KEYPOINTS))

    def get(self, path: str) -> Window | None:
        """The window of the image at ``path``, None where no points of it are known."""
        windows, name = self._find(path) if self.cfg.INPUT.ALIGN != "none" else ({}, "")
        return windows.get(name)

    def require(self, paths: Iterable[str], others: int = 0) -> str:
        """A warning on those of ``paths`` that have no window, and ``others`` that have no name; empty where all have.

        Raises:
            ReIDError: there are paths and none of them is in a file of key points.
        """
        if self.cfg.INPUT.ALIGN == "none":
            return ""
        found = {path: (name in windows, windows.get(name)) for path in paths for windows, name in [self._find(path)]}
        if found and not any(listed for listed, _ in found.values()):
            raise ReIDError(
                f"INPUT.ALIGN = {self.cfg.INPUT.ALIGN}, and {number_of(len(found), 'image is', 'images are')} in no "
                f"file of key points: {some(list(found))}. Find them with python -m datasets.keypoints --root FOLDER, "
                f"which writes {DEFAULT_FILE} into the images' folder, name a file with DATASETS.KEYPOINTS, or set "
                "INPUT.ALIGN to none."
            )
        windows = {path: window for path, (_, window) in found.items() if window}
        return _note(self.cfg, [*found, *["a picture in memory"] * others], windows).removeprefix(WARNING)

    def _find(self, path: str) -> tuple[Windows, str]:
        """The windows of the file that names the image at ``path``, and its name there; nothing where none does."""
        whole = Path(path).absolute()
        for folder in whole.parents:
            windows, name = self._below(str(folder)), relative_name(whole, folder)
            if name in windows:
                return windows, name
        parts = relative_name(path, "").split("/")
        ends = ("/".join(parts[depth:]) for depth in range(len(parts)))
        return self.named, next((end for end in ends if end in self.named), "")

    def _below(self, folder: str) -> Windows:
        """Those of the file in ``folder``."""
        if folder not in self.below:
            file = Path(folder) / DEFAULT_FILE
            self.below[folder] = self._windows(read_keypoints(file)) if file.is_file() else {}
        return self.below[folder]

    def _windows(self, known: KeyPointFile) -> Windows:
        return _windows(self.cfg, _hands(self.cfg, known))
