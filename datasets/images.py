"""Reading image files: into tensors for training, and all of them once beforehand to find broken ones."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from datasets.bases import Record
from datasets.preprocessing import Transform
from datasets.sampler import SeededIndex
from utils.images import cause, decode, read_image
from utils.logger import on_terminal
from utils.progress import PATIENCE


def find_unreadable(paths: Iterable[str], workers: int, exif: bool = False) -> dict[str, str]:
    """Decode every file once and return those that :func:`read_image` would refuse, with the reason.

    JPEGs are decoded at an eighth of their size: that reads the whole stream, so truncation shows, and is fast.
    """
    unique = list(dict.fromkeys(paths))
    with warnings.catch_warnings(), ThreadPoolExecutor(max(1, workers)) as pool:
        warnings.simplefilter("ignore")  # around the threads: within them, the filters would be shared
        reasons = tqdm(
            pool.map(partial(_reason, exif=exif), unique),
            total=len(unique),
            desc="checking images",
            unit=" images",
            delay=PATIENCE,
            leave=False,
            disable=not on_terminal(),
        )
        return {path: reason for path, reason in zip(unique, reasons, strict=True) if reason}


def _reason(path: str, exif: bool) -> str:
    try:
        decode(path, exif, at_least=1)
    except Exception as error:  # as in read_image
        return cause(path, error)
    return ""


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Python's and torch's CPU generator start from ``seed``, and go on afterwards as if nothing had been drawn.

    ``torch.random.fork_rng`` takes ten times as long, and ``torch.manual_seed`` would seed the GPUs as well.
    """
    python, cpu = random.getstate(), torch.get_rng_state()
    random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        torch.set_rng_state(cpu)


class ImageDataset(Dataset):
    """Records as items ``(image [3, H, W], pid, camid, viewid, index)``.

    Items are asked for by number, or by :class:`SeededIndex` where the transform is random.

    Args:
        records: the images.
        transform: from a picture to a tensor.
        exif: turn photos upright.
        read: from a path to its picture; None for the photo as it is.
    """

    def __init__(
        self,
        records: Sequence[Record],
        transform: Transform,
        exif: bool = False,
        read: Callable[[str], Image] | None = None,
    ) -> None:
        self.records = list(records)
        self.transform = transform
        self.read = read or partial(read_image, exif=exif)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, item: int | SeededIndex) -> tuple[Tensor, int, int, int, int]:
        index = item.index if isinstance(item, SeededIndex) else item
        record = self.records[index]
        image = self.read(record.path)
        if isinstance(item, SeededIndex):
            with _seeded(item.seed):
                tensor = self.transform(image)
        else:
            tensor = self.transform(image)
        return tensor, record.pid, record.camid, record.viewid, index
