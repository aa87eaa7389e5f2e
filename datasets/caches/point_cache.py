"""Points of the images of a data set, found once and kept in a file: 55 KB an image, none of it in memory."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from datasets.caches.record_cache import GIGABYTE, RecordCache, cache_folder, make_room, on_disk_without_name
from datasets.fields.hand_masks import HandMasks, hand_masks
from datasets.reading.workers import num_workers, of_each
from utils.console.logger import LOGGER
from utils.images import AS_STORED, Reading, read_image
from utils.retrieval.points import MOST, SIDE, WIDTH, Points, find_points

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from datasets.bases import ReIDDataset

FORMAT = 1
"""Version of the points, raised when their detection changes."""

_COUNT, _PLACES = 4, MOST * 2 * 4
_SIZE = _COUNT + _PLACES + MOST * WIDTH
_READ_LAST = 2**10
"""Images whose points stay in memory, 56 MB."""


class PointCache(RecordCache):
    """Points of the images in ``paths``.

    They are found again where a file, the way of reading it or OpenCV's version has changed.

    Args:
        paths: of the images.
        reading: how files become pictures.
        draft: let JPEG decode at a reduced size, see :func:`utils.images.decode`.
        masks: where the hand is in a picture; None: points may lie anywhere.
        budget, folder: see :class:`datasets.caches.record_cache.RecordCache`; no folder: a temporary file on disk.
    """

    suffix: ClassVar[str] = ".points"

    def __init__(
        self,
        paths: Sequence[str],
        reading: Reading = AS_STORED,
        draft: bool = False,
        budget: int | None = None,
        folder: Path | None = None,
        masks: HandMasks | None = None,
    ) -> None:
        self.draft, self.masks = draft, masks
        kind = f"points {FORMAT} {reading} {draft} OpenCV {_opencv_version()}"
        kind += f" masks {masks.version}" if masks else ""
        room = len(paths) * (_SIZE + 64) if budget is None else budget
        super().__init__(_SIZE, kind, paths, room, folder, reading)

    def without_name(self) -> int:
        """On disk: all points of a large set do not fit in memory."""
        return on_disk_without_name()

    def read(self, path: str) -> Points:
        """The points of the image at ``path``.

        Raises:
            ReIDError: it cannot be read, or OpenCV is missing.
        """
        return unpacked(self.content(path, self._packed))

    def _packed(self, path: str) -> bytes:
        image = read_image(path, self.reading, SIDE if self.draft else None)
        return packed(find_points(image, self.masks(path, image.size) if self.masks else None))

    def find(self, path: str) -> None:
        """Find the points of an image, so that they are there when they are read."""
        self.read(path)


class PointReader:
    """The points of images by path; those read last stay in memory."""

    def __init__(self, cache: PointCache) -> None:
        self.cache = cache

    def __getstate__(self) -> dict:
        return {"cache": self.cache}

    @functools.cached_property
    def read(self):  # noqa: ANN201 -- a function with a memory
        """:meth:`PointCache.read` with a memory, of this process's own."""
        return functools.lru_cache(_READ_LAST)(self.cache.read)


def packed(points: Points) -> bytes:
    """A record of fixed size."""
    places, described = np.zeros((MOST, 2), "<f4"), np.zeros((MOST, WIDTH), np.uint8)
    count = len(points.places)
    places[:count], described[:count] = points.places, points.described
    return count.to_bytes(_COUNT, "little") + places.tobytes() + described.tobytes()


def unpacked(record: bytes | memoryview) -> Points:
    """What :func:`packed` was given."""
    count = int.from_bytes(record[:_COUNT], "little")
    places = np.frombuffer(record, "<f4", 2 * count, _COUNT).reshape(count, 2)
    return Points(places, np.frombuffer(record, np.uint8, WIDTH * count, _COUNT + _PLACES).reshape(count, WIDTH))


def find_all(cfg: CfgNode, paths: Sequence[str], dataset: ReIDDataset) -> PointReader:
    """The points of images of ``dataset``, found now, in processes; ``DATASETS.CACHE disk`` keeps them for other runs.

    Raises:
        ReIDError: an image cannot be read, ``DATASETS.CACHE_DIR`` cannot be written to, OpenCV is missing, or
            ``TEST.POINTS_MASK`` has no key points.
    """
    paths, reading = list(dict.fromkeys(paths)), dataset.reading
    masks = hand_masks(cfg, dataset) if cfg.TEST.POINTS_MASK else None
    cache, budget = None, int(cfg.DATASETS.CACHE_GB * GIGABYTE)
    if cfg.DATASETS.CACHE == "disk":
        folder = cache_folder(cfg.DATASETS.CACHE_DIR)
        cache = PointCache(paths, reading, cfg.INPUT.JPEG_DRAFT, budget, folder, masks)
        make_room(folder, PointCache.suffix, [cache.name], budget - cache.bytes)
    if cache is None or len(cache.kept) < len(paths):
        if cache is not None:
            LOGGER.info("note: raise DATASETS.CACHE_GB to keep the points of all %d images for other runs", len(paths))
        cache = PointCache(paths, reading, cfg.INPUT.JPEG_DRAFT, masks=masks)
    for _ in of_each(cache.find, paths, num_workers(cfg), "finding points", "evaluation"):
        pass
    return PointReader(cache)


def _opencv_version() -> str:
    for name in ("opencv-python-headless", "opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "unknown"
