"""Reading image files: into tensors for training, and all of them once beforehand to find broken ones."""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from datasets.bases import Field, Record
from datasets.preprocessing import Transform
from datasets.reading.pictures import Pictures, Preparation
from datasets.sampler import SeededIndex
from utils.console.logger import on_terminal
from utils.console.progress import PATIENCE
from utils.images import AS_STORED, Box, Decoded, Reading, UnknownWhiteError, Windows, cause, decode, read_image

if TYPE_CHECKING:
    from yacs.config import CfgNode


Looked = TypeVar("Looked")


def look_over(paths: Iterable[str], workers: int, look: Callable[[str], Looked]) -> dict[str, Looked]:
    """Results of ``look`` by path, in the given order, each file once; on several threads."""
    unique = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(max(1, workers)) as pool:
        seen = tqdm(
            pool.map(look, unique),
            total=len(unique),
            desc="checking images",
            unit=" images",
            delay=PATIENCE,
            leave=False,
            disable=not on_terminal(),
        )
        return dict(zip(unique, seen, strict=True))


class Facts(NamedTuple):
    """What the check of a file found; the defaults are those of a readable file of 8 bits.

    Attributes:
        unreadable: why :func:`read_image` would refuse it; empty where it would not.
        unknown_white: whether that is because ``INPUT.WHITE`` must be set.
        bits, peak, white, pages, broken_exif: see :class:`utils.images.Decoded`.
    """

    unreadable: str = ""
    unknown_white: bool = False
    bits: int = 8
    peak: float | None = None
    white: float = 255
    pages: bool = False
    broken_exif: bool = False


def examine(path: str, reading: Reading = AS_STORED) -> Facts:
    """Decode a file once, to find before training what would stop it or spoil it.

    JPEGs are decoded at an eighth of their size: that reads the whole stream, so truncation shows, and is fast.
    """
    try:
        return facts_of(decode(path, reading, at_least=1))
    except Exception as error:  # as in read_image
        return refusal(path, error)


def facts_of(found: Decoded) -> Facts:
    """The facts of a file that was decoded."""
    return Facts("", False, found.bits, found.peak, found.white, found.pages, found.broken_exif)


def refusal(path: str, error: Exception) -> Facts:
    """The facts of a file that could not be decoded."""
    unknown = isinstance(error, UnknownWhiteError)
    return Facts(cause(path, error), unknown, peak=error.peak if unknown else None)


def reading_of(
    cfg: CfgNode,
    boxes: Mapping[str, Box] | None = None,
    mirrored: Container[str] = frozenset(),
    windows: Windows | None = None,
) -> Reading:
    """How ``cfg`` has image files read; see :class:`utils.images.Reading`."""
    white = None if cfg.INPUT.WHITE == "auto" else float(cfg.INPUT.WHITE)
    return Reading(cfg.INPUT.EXIF, white, boxes or {}, mirrored, windows or {})


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """Python's and torch's CPU generator start from ``seed``; afterwards they are as if nothing had been drawn.

    None changes nothing, where nothing is drawn.
    ``torch.random.fork_rng`` takes ten times as long, and ``torch.manual_seed`` would seed the GPUs as well.
    """
    if seed is None:
        yield
        return
    python, cpu = random.getstate(), torch.get_rng_state()
    random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        torch.set_rng_state(cpu)


class ImageDataset(Dataset):
    """Records as dicts of ``images``, one picture of :class:`~datasets.reading.pictures.Pictures`, the numbers
    ``labels``, ``cameras``, ``views``, ``index``, and ``fields``.

    Items are indexed by number, or by :class:`SeededIndex` where the transform is random;
    :func:`~datasets.reading.pictures.collate` makes batches of them.

    Args:
        records: the images.
        transform: from a picture to a tensor; see :class:`~datasets.reading.pictures.Preparation`.
        read: from a path to its picture.
        fields: what else a batch holds of each image, by name.
    """

    def __init__(
        self,
        records: Sequence[Record],
        transform: Transform,
        read: Callable[[str], Image] = read_image,
        fields: Mapping[str, Field] | None = None,
        sentences: Callable[[str, int], Mapping[str, Tensor]] | None = None,
    ) -> None:
        self.records = list(records)
        self.transform = transform
        self.prepare = Preparation(transform)
        self.read = read
        self.fields = fields or {}
        self.sentences = sentences

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, item: int | SeededIndex) -> dict[str, Pictures | Tensor | int]:
        index = item.index if isinstance(item, SeededIndex) else item
        record = self.records[index]
        image = self.read(record.path)
        seed = item.seed if isinstance(item, SeededIndex) else None
        with _seeded(seed):
            found = {"images": self.prepare(image)}
        for name, field in self.fields.items():
            with _seeded(seed):
                found[name] = field(record.path, self.transform.transforms, image.size)
        labels = {"labels": record.pid, "cameras": record.camid, "views": record.viewid, "index": index}
        if self.sentences is not None and seed is not None:
            found |= self.sentences(record.path, seed)
        return found | labels
