"""Decoded, resized images kept in memory or on disk, so that a photo is decoded once and not once an epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import PIL
from PIL import Image

from datasets.caches.record_cache import GIGABYTE, RecordCache, cache_folder, make_room
from datasets.preprocessing import fitting
from utils.console.logger import LOGGER
from utils.images import AS_STORED, Reading, read_image
from utils.windows import Target

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from datasets.bases import ReIDDataset

Read = Callable[[str], Image.Image]


@dataclass(frozen=True)
class Reader:
    """From a file to the picture that a random transform may start from: everything before that is deterministic.

    Attributes:
        size: height and width in pixels.
        interpolation: name of a Pillow filter.
        reading: how a file becomes a picture.
        draft: let JPEG decode at a reduced size; see :func:`utils.images.decode`.
        fit: how a picture gets its size; see :func:`datasets.preprocessing.fitting`.
    """

    size: tuple[int, int]
    interpolation: str
    reading: Reading = AS_STORED
    draft: bool = False
    fit: str = "stretch"

    def read(self, path: str) -> Image.Image:
        """The picture in RGB and of :attr:`size`.

        Raises:
            ReIDError: ``path`` is missing or no readable image.
        """
        target = Target(self.size, self.interpolation, self.fit)
        image = read_image(path, self.reading, max(self.size) if self.draft else None, target=target)
        return fitting(self.size, self.interpolation, self.fit)(image)


class ImageCache(RecordCache):
    """Pictures [H, W, 3] of the images in ``paths`` as ``reader`` reads them, each decoded at its first use.

    A picture is also read again where the reader or Pillow's version has changed.

    Args:
        reader: reads what is not there yet.
        paths, budget, folder: see :class:`datasets.caches.record_cache.RecordCache`.

    Raises:
        ReIDError: ``folder`` cannot be written to.
    """

    suffix: ClassVar[str] = ".images"

    def __init__(self, reader: Reader, paths: Sequence[str], budget: int, folder: Path | None = None) -> None:
        self.reader = reader
        self.shape = (reader.size[1], reader.size[0])
        size, version = 3 * reader.size[0] * reader.size[1], f"{reader} Pillow {PIL.__version__}"
        super().__init__(size, version, paths, budget, folder, reader.reading)

    def read(self, path: str) -> Image.Image:
        """The picture at ``path``; see :meth:`Reader.read`."""
        if path not in self.kept:
            return self.reader.read(path)
        return Image.frombytes("RGB", self.shape, self.content(path, lambda path: self.reader.read(path).tobytes()))


class Readers(NamedTuple):
    """From a path to its picture: for stage 1's features, for stage 2, for test and validation."""

    stage1: Read
    stage2: Read
    test: Read


def resized_size(cfg: CfgNode) -> list[int]:
    """Height and width of a training image in front of the random crop."""
    return cfg.INPUT.RESIZE if any(cfg.INPUT.RESIZE) else cfg.INPUT.SIZE_TRAIN


def make_readers(cfg: CfgNode, dataset: ReIDDataset) -> Readers:
    """From a path to the resized picture, through the cache that ``DATASETS.CACHE`` names.

    In memory, stage 1 has no cache: it sees each image once.
    """
    size, reading, draft = resized_size(cfg), dataset.reading, cfg.INPUT.JPEG_DRAFT
    augmented = Reader(tuple(size), cfg.INPUT.INTERPOLATION_TRAIN, reading, draft, cfg.INPUT.FIT_TRAIN)
    plain = Reader(tuple(cfg.INPUT.SIZE_TEST), cfg.INPUT.INTERPOLATION_TEST, reading, draft, cfg.INPUT.FIT_TEST)
    train = [record.path for record in dataset.train] if dataset.require_train else []
    validation = dataset.validation
    test = [record.path for record in (*dataset.test_images, *(validation.images if validation else ()))]
    test = list(dict.fromkeys(test))
    if cfg.DATASETS.CACHE == "none":
        return Readers(plain.read, augmented.read, plain.read)
    folder = cache_folder(cfg.DATASETS.CACHE_DIR) if cfg.DATASETS.CACHE == "disk" else None
    left = total = int(cfg.DATASETS.CACHE_GB * GIGABYTE)
    caches = []
    for reader, paths in ((augmented, train), (plain, test), (plain, train if folder else [])):
        caches.append(ImageCache(reader, paths, left, folder))
        left -= caches[-1].bytes
    if folder:
        make_room(folder, ImageCache.suffix, [cache.name for cache in caches], left)
    kept, wanted = (sum(map(len, lists)) for lists in ([cache.kept for cache in caches], [train, test]))
    LOGGER.info(
        "DATASETS.CACHE %s: room for %d pictures, %.2f of %.2f GiB%s",
        *(cfg.DATASETS.CACHE, kept, (total - left) / GIGABYTE, total / GIGABYTE),
        "" if kept >= wanted else f"; raise DATASETS.CACHE_GB to keep all {wanted}",
    )
    return Readers(caches[2].read, caches[0].read, caches[1].read)
