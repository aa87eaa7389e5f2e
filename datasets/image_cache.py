"""Decoded, resized images kept in memory or on disk, so that a photo is decoded once and not once an epoch.

Both places are a file of equal records, one for each image of a data set; the one in memory has no name and is gone
with the processes that hold it. Records are read and written in one call each and say what they hold, so any number of
worker processes and runs may share a file without locks: a record that is missing, torn, damaged or of an older version
of the image is decoded again and overwritten.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import PIL
from PIL import Image

from datasets.preprocessing import fitting
from utils.errors import ReIDError
from utils.images import AS_STORED, Reading, read_image
from utils.logger import LOGGER
from utils.windows import Target

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from datasets.bases import ReIDDataset

Read = Callable[[str], Image.Image]
GIGABYTE = 2**30
DIGEST = 16
CHECKSUM = 4
SUFFIX = ".images"


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


class ImageCache:
    """Pictures [H, W, 3] of the images in ``paths`` as ``reader`` reads them, each decoded at its first use.

    A picture is found again as long as its file has the same path, size and time of modification, the same part of
    it is used and the reader and Pillow's version are the same.

    Args:
        reader: reads what is not there yet.
        paths: of the images; the first ones are kept if there is no room for all.
        budget: bytes that may be used.
        folder: of the file on disk; None: in memory, shared with worker processes.

    Raises:
        ReIDError: ``folder`` cannot be written to.
    """

    def __init__(self, reader: Reader, paths: Sequence[str], budget: int, folder: Path | None = None) -> None:
        self.reader = reader
        self.shape = (reader.size[1], reader.size[0])
        self.record = DIGEST + CHECKSUM + 3 * reader.size[0] * reader.size[1]
        self.version = f"{reader} Pillow {PIL.__version__}"
        self.kept = {path: i for i, path in enumerate(list(dict.fromkeys(paths))[: budget // self.record])}
        listed = "\0".join([self.version, *self.kept])
        self.name = hashlib.blake2b(_bytes(listed), digest_size=DIGEST).hexdigest() + SUFFIX
        self.file = _in_memory() if folder is None else _on_disk(folder, self.name)

    def __getstate__(self) -> dict:
        """For worker processes that are not forked: the open file goes along."""
        return self.__dict__ | {"file": DupFd(self.file)}

    def __setstate__(self, state: dict) -> None:
        self.__dict__ |= state | {"file": state["file"].detach()}

    def __del__(self) -> None:
        if isinstance(getattr(self, "file", None), int):
            os.close(self.file)

    @property
    def bytes(self) -> int:
        """Size of the file with every image in it."""
        return len(self.kept) * self.record

    def read(self, path: str) -> Image.Image:
        """The picture at ``path``; see :meth:`Reader.read`."""
        if path not in self.kept:
            return self.reader.read(path)
        place, key = self.kept[path] * self.record, self._key(path)
        record = os.pread(self.file, self.record, place)
        if len(record) == self.record and record[:DIGEST] == key:
            pixels = memoryview(record)[DIGEST + CHECKSUM :]
            if zlib.crc32(pixels).to_bytes(CHECKSUM, "big") == record[DIGEST : DIGEST + CHECKSUM]:
                return Image.frombytes("RGB", self.shape, pixels)
        image = self.reader.read(path)
        # The key is from before the file was read: if it changes in between, the record is stale at once.
        pixels = image.tobytes()
        try:
            os.pwrite(self.file, key + zlib.crc32(pixels).to_bytes(CHECKSUM, "big") + pixels, place)
        except OSError:
            self.kept.pop(path)  # no space left, whatever the budget says: read from the photo from now on
        return image

    def _key(self, path: str) -> bytes:
        try:
            status = os.stat(path)  # noqa: PTH116 -- a Path each is slow
        except OSError:
            return bytes(DIGEST)  # reading it will say why
        shown = self.reader.reading.place(path)
        text = f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0{shown}\0{self.version}"
        return hashlib.blake2b(_bytes(text), digest_size=DIGEST).digest()


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
    augmented = Reader(tuple(size), cfg.INPUT.INTERPOLATION_TRAIN, reading, draft)
    plain = Reader(tuple(cfg.INPUT.SIZE_TEST), cfg.INPUT.INTERPOLATION_TEST, reading, draft, cfg.INPUT.FIT_TEST)
    train = [record.path for record in dataset.train] if dataset.require_train else []
    validation = dataset.validation
    test = [record.path for record in (*dataset.test_images, *(validation.images if validation else ()))]
    test = list(dict.fromkeys(test))
    if cfg.DATASETS.CACHE == "none":
        return Readers(plain.read, augmented.read, plain.read)
    folder = _folder(cfg.DATASETS.CACHE_DIR) if cfg.DATASETS.CACHE == "disk" else None
    left = total = int(cfg.DATASETS.CACHE_GB * GIGABYTE)
    caches = []
    for reader, paths in ((augmented, train), (plain, test), (plain, train if folder else [])):
        caches.append(ImageCache(reader, paths, left, folder))
        left -= caches[-1].bytes
    if folder:
        _make_room(folder, [cache.name for cache in caches], left)
    kept, wanted = (sum(map(len, lists)) for lists in ([cache.kept for cache in caches], [train, test]))
    LOGGER.info(
        "DATASETS.CACHE %s: room for %d pictures, %.2f of %.2f GiB%s",
        *(cfg.DATASETS.CACHE, kept, (total - left) / GIGABYTE, total / GIGABYTE),
        "" if kept >= wanted else f"; raise DATASETS.CACHE_GB to keep all {wanted}",
    )
    return Readers(caches[2].read, caches[0].read, caches[1].read)


def _folder(name: str) -> Path:
    if name:
        return Path(name)
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "clipreid" / "images"


def _make_room(folder: Path, keep: Sequence[str], budget: int) -> None:
    """Delete the files of other data sets, least recently opened first, down to ``budget`` bytes.

    A run that has one of them open keeps it: the space is free when that run ends.
    """
    others = []
    for path in folder.glob(f"*{SUFFIX}"):
        with suppress(FileNotFoundError):  # other processes make room, too
            others += [(path.stat(), path)] if path.name not in keep else []
    for status, path in sorted(others, key=lambda other: other[0].st_mtime_ns, reverse=True):
        budget -= status.st_size
        if budget < 0:
            path.unlink(missing_ok=True)


def _in_memory() -> int:
    """A file without a name: in memory where the system has such files, among the temporary ones elsewhere."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("images")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _on_disk(folder: Path, name: str) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / name
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        os.utime(path)
    except OSError as error:
        raise ReIDError(
            f"DATASETS.CACHE_DIR = {str(folder)!r} cannot be written to ({error.strerror}). Name another folder, or "
            "set DATASETS.CACHE to ram or none."
        ) from None
    return file


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")  # file names need not be UTF-8
