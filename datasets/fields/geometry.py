"""Where a transform moves the pixels of a picture, and the key points moved likewise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision import transforms

from datasets.bases import ReIDDataset, some
from datasets.erasing import Patching
from datasets.parsing.keypoints import PERSON, KeyPointFile, keypoints_of
from datasets.preprocessing import Letterbox, RandomTranslation
from utils.errors import ReIDError
from utils.images import Reading, decode
from utils.windows import Window, frame_of, to_picture

if TYPE_CHECKING:
    from yacs.config import CfgNode

Matrix = npt.NDArray[np.float64]
"""[3, 3], from points (x, y, 1) of one picture to those of another, in pixels; the first pixel's centre is at 0.5."""

Size = tuple[int, int]
"""Width and height in pixels."""

_SIDES = ((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16))
_SWAPPED = {PERSON: [0, *(point for left, right in _SIDES for point in (right, left))]}
"""Order of the key points in a mirror image: left and right of a person change places, fingers of a hand do not."""


@dataclass(frozen=True)
class PointReader:
    """Key points in the pictures that a network reads.

    Attributes:
        file: those of each photograph, by path.
        reading: how photographs become pictures.
    """

    file: KeyPointFile
    reading: Reading
    _sizes: dict[str, Size] = field(default_factory=dict, repr=False)

    def __call__(self, path: str, steps: Sequence[object], size: Size) -> Tensor:
        """x, y and score of each point of the image at ``path``, [J, 3]; a point outside of the picture has score 0.

        Args:
            path: of the photograph.
            steps: of the transform; random ones draw as they did for the picture if the generator starts from the
                same seed.
            size: of the picture in front of them.
        """
        found = self.file.images[path]
        points = np.c_[found.points, np.ones(len(found.points))]
        at = self._read(path, found.size or self._size(path), size, steps)
        moved, (width, height) = geometry(steps, size)
        at = moved @ at
        x, y, _ = at @ points.T
        inside = (x >= 0) & (x <= width) & (y >= 0) & (y <= height)  # a point that was not found is NaN: outside
        rows = np.stack([np.nan_to_num(x), np.nan_to_num(y), np.where(inside, found.scores, 0)], 1)
        if np.linalg.det(at) < 0 and len(rows) in _SWAPPED:
            rows = rows[_SWAPPED[len(rows)]]
        return torch.tensor(rows, dtype=torch.float32)

    def _read(self, path: str, whole: Size, size: Size, steps: Sequence[object]) -> Matrix:
        """From the upright photograph to the picture of ``size`` that is read of it, in the border of a letterbox if
        ``steps`` have one.
        """
        box, mirrored, window = self.reading.place(path)
        frame = frame_of(window or Window(0), box or (0, 0, *whole))
        inside, top, left = size[::-1], 0, 0
        for step in steps:
            if isinstance(step, Letterbox) and step.size == inside:
                inside, top, left = step.place(*frame.size)
                break
        at = np.linalg.inv(np.concatenate([to_picture(frame, inside), [[0, 0, 1]]]))
        return _shift(left, top) @ (_mirror(inside[1]) @ at if mirrored else at)

    def _size(self, path: str) -> Size:
        """Of the upright photograph, where the file of key points does not say."""
        if path not in self._sizes:
            whole = replace(self.reading, upright=True, boxes={}, mirrored=frozenset(), windows={})
            decoded = decode(path, whole, at_least=1)
            self._sizes[path] = (decoded.width, decoded.height)
        return self._sizes[path]


def point_reader(cfg: CfgNode, dataset: ReIDDataset, count: int) -> PointReader:
    """The key points of all images of ``dataset`` that a run reads.

    Args:
        cfg: ``DATASETS.KEYPOINTS`` is read.
        dataset: images that are only in its training part count where it is there to train.
        count: J.

    Raises:
        ReIDError: there is no file, it has another number of points, or it lacks an image.
    """
    file = keypoints_of(cfg, dataset)
    if file.count != count:
        raise ReIDError(
            f"DATASETS.KEYPOINTS has {file.count} points an image, but MODEL.HOREID.POINTS = {count}. Set it to "
            f"{file.count}, or name another file."
        )
    train = [*dataset.train, *dataset.val] if dataset.require_train else []
    paths = list(dict.fromkeys(record.path for record in (*train, *dataset.test_images)))
    missing = [path for path in paths if path not in file.images]
    if missing:
        raise ReIDError(
            f"DATASETS.KEYPOINTS lacks {len(missing)} of {len(paths)} images: {some(missing, 3)}. Add them; where no "
            "point was found, leave its columns empty."
        )
    return PointReader(file, dataset.reading)


def geometry(steps: Sequence[object], size: Size) -> tuple[Matrix, Size]:
    """Where a transform moves the points of a picture, and the size of what it makes.

    Steps behind the conversion to a tensor move nothing. Random steps draw from torch's generator what they draw for a
    picture.

    Args:
        steps: of a :class:`torchvision.transforms.Compose`.
        size: of the picture in front of them.
    """
    at: Matrix = np.eye(3)
    for step in steps:
        if isinstance(step, transforms.ToTensor):
            break
        moved, size = _step(step, *size)
        at = moved @ at
    return at, size


def sampling_geometry(path: str, steps: Sequence[object], size: Size) -> Tensor:
    """From places in the augmented image to those in the photograph [2, 3], for :mod:`model.layers.warp`.

    Both are -1 at the left or upper edge and 1 at the right or lower one.
    """
    at, after = geometry(steps, size)
    return torch.tensor((_to_unit(size) @ np.linalg.inv(_to_unit(after) @ at))[:2], dtype=torch.float32)


def erased_rectangle(path: str, steps: Sequence[object], size: Size) -> Tensor:
    """Top, left, bottom and right of what was erased [4], in shares of height and width; 0 for nothing."""
    _, (width, height) = geometry(steps, size)
    patches = [patch for step in steps if isinstance(step, Patching) and (patch := step.draw(height, width))]
    if not patches:
        return torch.zeros(4)
    top, left, bottom, right = (torch.tensor(edges) for edges in list(zip(*patches, strict=True))[:4])
    return torch.stack([top.min() / height, left.min() / width, bottom.max() / height, right.max() / width])


AUGMENTATION = {"geometry": sampling_geometry, "erased": erased_rectangle}
"""How an image was augmented, by the names of a batch's fields."""


def _to_unit(size: Size) -> Matrix:
    """From pixels to places from -1 to 1."""
    return _shift(-1, -1) @ _scale(2 / size[0], 2 / size[1])


def _step(step: object, width: int, height: int) -> tuple[Matrix, Size]:
    match step:
        case RandomTranslation():
            (rows, columns), top, left = step.draw()
            return _shift(-left, -top) @ _scale(columns / width, rows / height), step.size[::-1]
        case Letterbox():
            (rows, columns), top, left = step.place(width, height)
            return _shift(left, top) @ _scale(columns / width, rows / height), step.size[::-1]
        case transforms.Resize():
            rows, columns = step.size
            return _scale(columns / width, rows / height), (columns, rows)
        case transforms.RandomHorizontalFlip():
            return _mirror(width) if torch.rand(1) < step.p else np.eye(3), (width, height)
        case transforms.RandomRotation():
            return _turn(step.get_params(step.degrees), width / 2, height / 2), (width, height)
        case transforms.RandomGrayscale():
            torch.rand(1)  # as it draws; pixels stay where they are
            return np.eye(3), (width, height)
        case transforms.RandomApply():
            (change,) = step.transforms
            return _step(change, width, height) if torch.rand(1) <= step.p else (np.eye(3), (width, height))
        case transforms.ColorJitter():
            step.get_params(step.brightness, step.contrast, step.saturation, step.hue)  # its draws move nothing
            return np.eye(3), (width, height)
        case transforms.Pad():
            return _shift(step.padding, step.padding), (width + 2 * step.padding, height + 2 * step.padding)
        case transforms.RandomCrop():
            top, left, rows, columns = step.get_params(torch.empty(1, height, width, device="meta"), step.size)
            return _shift(-left, -top), (columns, rows)
    raise TypeError(f"it is not known how {type(step).__name__} moves points")


def _shift(x: float, y: float) -> Matrix:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], float)


def _scale(x: float, y: float) -> Matrix:
    return np.diag([x, y, 1.0])


def _mirror(width: float) -> Matrix:
    return np.array([[-1, 0, width], [0, 1, 0], [0, 0, 1]], float)


def _turn(degrees: float, x: float, y: float) -> Matrix:
    """Counter-clockwise around (x, y), as Pillow turns pictures."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return _shift(x, y) @ np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]]) @ _shift(-x, -y)
