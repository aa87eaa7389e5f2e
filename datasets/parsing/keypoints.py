"""Key points of images, read from a file that ``DATASETS.KEYPOINTS`` names: 17 of a person (COCO) or 21 of a hand.

A CSV file has a row for each image (a JSON list an object), an NPZ file an entry in each of its arrays:

===================  =========================================================================================
column or array      meaning
===================  =========================================================================================
``path``             the image, relative to the data set's folder
``x0, y0, x1, ...``  points in pixels of the upright picture, from its top left corner to the right and down;
                     empty where a point was not found. NPZ: ``points`` [N, J, 2], NaN where not found
``s0, s1, ...``      optional, how certain each point is, from 0 to 1; NPZ: ``scores`` [N, J]
``score``            optional, how certain it is that there is a hand or a person, from 0 to 1
``hand``             optional, ``left`` or ``right``
``hands``            optional, how many hands (or people) were found in the picture
``width, height``    optional, of the upright picture in pixels; a picture of another size is then refused
===================  =========================================================================================

Upright means turned as EXIF says. Other columns are ignored.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from datasets.bases import ReIDDataset, some
from datasets.parsing.tables import Row, csv_text, read_table
from utils.errors import ReIDError
from utils.files.checkpoint import write_text
from utils.files.text_files import nfc, refuse_pipes

if TYPE_CHECKING:
    from yacs.config import CfgNode

PERSON, HAND = 17, 21
"""Points of a person (COCO: nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles, left before right) and of
a hand (wrist, then four of each finger from the palm to the tip, thumb to little finger)."""

FINGERS = tuple((0, *range(first, first + 4)) for first in range(1, HAND, 4))
"""Of a hand: from the wrist to the tip, thumb to little finger."""

DEFAULT_FILE = "keypoints.csv"
FORMAT = "see docs/datasets.md, Key points"
LARGEST = 1 << 30
"""Bytes of an NPZ file."""

_SIDES = {"": "", "left": "left", "right": "right", "l": "left", "r": "right"}


class KeyPoints(NamedTuple):
    """What is known of one image.

    Attributes:
        points: [J, 2] x and y in pixels of the upright picture; NaN where a point was not found.
        scores: [J] from 0 to 1, 1 where the file gives none; 0 where a point was not found.
        score: of the hand or the person as a whole, from 0 to 1; 0 where none was found.
        hand: ``left``, ``right`` or empty.
        hands: how many were found in the picture.
        size: width and height of the upright picture, None where the file does not say.
    """

    points: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    score: float
    hand: str = ""
    hands: int = 1
    size: tuple[int, int] | None = None

    @property
    def found(self) -> bool:
        """Whether any point was found."""
        return bool(np.isfinite(self.points).any())

    @property
    def share(self) -> float:
        """Area of the box around the points as a share of the picture's; 0 where that is not known."""
        if not self.found or self.size is None:
            return 0.0
        low, high = np.nanmin(self.points, 0), np.nanmax(self.points, 0)
        return float(np.prod((high - low) / self.size))

    @property
    def strokes(self) -> list[npt.NDArray[np.float64]]:
        """A hand's fingers as lines [5, 2] from the wrist to the tip, in shares of the picture's width and height."""
        if not self.found or self.size is None or len(self.points) != HAND:
            return []
        return [self.points[list(finger)] / self.size for finger in FINGERS]


class KeyPointFile(NamedTuple):
    """The key points of a file: their number ``count`` (J), and those of each image by path."""

    count: int
    images: Mapping[str, KeyPoints]


def read_keypoints(path: str | Path) -> KeyPointFile:
    """The key points in a CSV, JSON or NPZ file, by path with forward slashes.

    Raises:
        ReIDError: the file cannot be read, has another number of points than 17 or 21, names an image twice, or holds
            an invalid value.
    """
    path = Path(path)
    return _from_npz(path) if path.suffix.lower() == ".npz" else _from_table(path)


def keypoints_of(cfg: CfgNode, dataset: ReIDDataset) -> KeyPointFile:
    """The key points of the images of ``dataset``, by their paths in its records; images without are left out.

    Raises:
        ReIDError: as :func:`read_keypoints`, or ``DATASETS.KEYPOINTS`` is no file, or names none of the images.
    """
    root = Path(dataset.root)
    file = Path(cfg.DATASETS.KEYPOINTS or root / DEFAULT_FILE)
    if not file.is_file():
        raise ReIDError(
            f"DATASETS.KEYPOINTS = {str(file)!r}: no such file. Make it with python -m datasets.keypoints, or with a "
            f"tool of your own ({FORMAT})."
        )
    known = read_keypoints(file)
    records = (*dataset.train, *dataset.val, *dataset.test_images)
    paths = list(dict.fromkeys(record.path for record in records))
    names = {path: relative_name(path, root) for path in paths}
    images = {path: known.images[name] for path, name in names.items() if name in known.images}
    if not images:
        raise ReIDError(
            f"DATASETS.KEYPOINTS = {str(file)!r} names none of the {len(paths)} images of {dataset.name}: it has "
            f"{some(list(known.images), 3)}, the images are {some([names[path] for path in paths], 3)}. Paths are "
            f"relative to {root}."
        )
    return KeyPointFile(known.count, images)


def relative_name(path: str | Path, root: str | Path) -> str:
    """How a file of key points names the image at ``path`` of the data set in ``root``."""
    return nfc(str(path).removeprefix(str(root)).replace("\\", "/").strip("/"))


def write_keypoints(path: Path, images: Mapping[str, KeyPoints]) -> None:
    """Write a CSV file that :func:`read_keypoints` reads back, coordinates to 1/100 pixel; ``share`` is for people.

    Raises:
        ReIDError: it cannot be written.
    """
    count = len(next(iter(images.values())).points)
    marks = [f"{axis}{i}" for i in range(count) for axis in "xy"]
    columns = ("path", "hand", "score", "hands", "share", "width", "height", *marks)
    write_text(path, csv_text(columns, ([name, *_cells(found)] for name, found in images.items())))


def _cells(found: KeyPoints) -> list[object]:
    facts = (found.hand, f"{found.score:.3f}", found.hands, f"{found.share:.3f}", *(found.size or ("", "")))
    return [*facts, *("" if math.isnan(v) else f"{v:.2f}" for v in found.points.ravel())]


def _from_table(path: Path) -> KeyPointFile:
    table = read_table(path, ("path", "x0", "y0"))
    columns = set(table.columns)
    count = _count(path, 1 + max(int(name[1:]) for name in columns if re.fullmatch(r"x\d{1,3}", name)))
    missing = [f"{axis}{i}" for i in range(count) for axis in "xy" if f"{axis}{i}" not in columns]
    if missing:
        raise ReIDError(f"{path}: column {', '.join(missing)} is missing; {FORMAT}.")
    scored = [f"s{i}" in columns for i in range(count)]
    if any(scored) and not all(scored):
        raise ReIDError(f"{path}: some of the columns s0 to s{count - 1} are missing; give all of them or none.")
    entries = ((row.place, row.cells["path"], _of_row(path, row, count, scored[0])) for row in table.rows)
    return KeyPointFile(count, _each_once(path, entries))


def _of_row(path: Path, row: Row, count: int, scored: bool) -> KeyPoints:
    def number(column: str, empty: float) -> float:
        cell = row.cells.get(column, "")
        try:
            value = float(cell) if cell else empty
        except ValueError:
            value = math.inf
        if math.isinf(value):
            raise ReIDError(f"{path}: {row.place}, column {column!r}: {cell[:40]!r} is not a number.")
        return value

    points = np.array([[number(f"{axis}{i}", math.nan) for axis in "xy"] for i in range(count)])
    scores = np.array([number(f"s{i}", 0.0) for i in range(count)]) if scored else None
    return _checked(
        f"{path}: {row.place}",
        points,
        scores,
        number("score", math.nan),
        row.cells.get("hand", ""),
        number("hands", math.nan),
        (number("width", math.nan), number("height", math.nan)),
    )


def _from_npz(path: Path) -> KeyPointFile:
    refuse_pipes(path, "read")
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"it is larger than {LARGEST >> 20} MiB")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        names, points = arrays["path"], arrays["points"].astype(np.float64)
        if names.dtype.kind != "U" or points.shape != (len(names), points.shape[1], 2):
            raise ValueError(f"path {list(names.shape)} of {names.dtype} and points {list(points.shape)}")
        rows = {
            name: np.broadcast_to(arrays[name], shape)
            for name, shape in (("scores", points.shape[:2]), *((n, names.shape) for n in _PER_IMAGE))
            if name in arrays
        }
    except Exception as error:  # damaged archives raise about anything
        raise ReIDError(
            f"{path}: is not a file of key points ({type(error).__name__}: {error}); expected path [N] of text and "
            f"points [N, J, 2], {FORMAT}."
        ) from None
    count = _count(path, points.shape[1])

    def entry(i: int) -> tuple[str, str, KeyPoints]:
        value = {name: rows[name][i] for name in rows}
        size = (float(value.get("width", math.nan)), float(value.get("height", math.nan)))
        numbers = float(value.get("score", math.nan)), str(value.get("hand", "")), float(value.get("hands", math.nan))
        place = f"{path}: entry {i + 1}"
        return f"entry {i + 1}", str(names[i]), _checked(place, points[i], value.get("scores"), *numbers, size)

    return KeyPointFile(count, _each_once(path, (entry(i) for i in range(len(names)))))


_PER_IMAGE = ("score", "hand", "hands", "width", "height")


def _checked(
    place: str,
    points: npt.NDArray[np.float64],
    scores: npt.NDArray[np.float64] | None,
    score: float,
    hand: str,
    hands: float,
    size: tuple[float, float],
) -> KeyPoints:
    """One entry, NaN standing for what the file does not say."""
    here = np.isfinite(points).all(-1)
    if np.isinf(points).any() or (np.isfinite(points).any(-1) != here).any():
        raise ReIDError(f"{place}: a point needs both coordinates, finite numbers, or none of them.")
    scores = here.astype(float) if scores is None else np.where(here, np.nan_to_num(scores.astype(float)), 0.0)
    score = float(here.any()) if math.isnan(score) else score
    if not (0 <= score <= 1 and ((scores >= 0) & (scores <= 1)).all()):
        raise ReIDError(f"{place}: a score lies outside 0 to 1.")
    if hand.lower() not in _SIDES:
        raise ReIDError(f"{place}: hand is {hand[:40]!r}; expected left, right or nothing.")
    known = not any(math.isnan(side) for side in size)
    if known and min(size) < 1:
        raise ReIDError(f"{place}: the picture is {size[0]:g}x{size[1]:g} pixels; expected its width and height.")
    number = int(here.any()) if math.isnan(hands) else int(hands)
    return KeyPoints(
        points, scores, score, _SIDES[hand.lower()], number, (int(size[0]), int(size[1])) if known else None
    )


def _count(path: Path, count: int) -> int:
    if count not in (PERSON, HAND):
        raise ReIDError(f"{path}: has {count} points an image; expected {PERSON} (a person, COCO) or {HAND} (a hand).")
    return count


def _each_once(path: Path, entries: Iterable[tuple[str, str, KeyPoints]]) -> dict[str, KeyPoints]:
    images: dict[str, KeyPoints] = {}
    for place, name, found in entries:
        name = relative_name(name, "")
        if name in images:
            raise ReIDError(f"{path}: {place}: {name} is listed twice.")
        images[name] = found
    return images
