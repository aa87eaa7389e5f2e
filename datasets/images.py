"""Reading image files: into tensors for training, and all of them once beforehand to find broken ones."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from datasets.bases import Record
from datasets.preprocessing import Transform
from datasets.sampler import Draw
from utils.errors import ReIDError

_UNREADABLE = (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError)


def read_image(path: str | Path, exif: bool = False) -> Image.Image:
    """The picture in RGB; alpha is dropped, grey is repeated.

    Args:
        path: the file.
        exif: turn it upright as its EXIF orientation says.

    Raises:
        ReIDError: the file is missing or no readable image.
    """
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image) if exif else image
            return upright.convert("RGB")
    except _UNREADABLE as error:
        raise ReIDError(
            f"{path}: cannot be read as an image ({error}). Repair or remove it, or set DATASETS.BAD_IMAGES to skip."
        ) from None


def find_unreadable(paths: Iterable[str], workers: int, progress: bool = False) -> dict[str, str]:
    """Decode every file once and return the broken ones with the reason.

    JPEGs are decoded at an eighth of their size: that reads the whole stream, so truncation shows, and is fast.
    """
    unique = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(max(1, workers)) as pool:
        reasons = tqdm(
            pool.map(_reason, unique),
            total=len(unique),
            desc="checking images",
            unit="image",
            disable=not progress,
        )
        return {path: reason for path, reason in zip(unique, reasons, strict=True) if reason}


def _reason(path: str) -> str:
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image.draft("RGB", (1, 1))
            image.load()
    except _UNREADABLE as error:
        return str(error) or type(error).__name__
    return ""


class ImageDataset(Dataset):
    """Records as items ``(image [3, H, W], pid, camid, viewid, index)``.

    Items are asked for by number, or by :class:`Draw` where the transform is random.
    """

    def __init__(self, records: Sequence[Record], transform: Transform, exif: bool = False) -> None:
        self.records = list(records)
        self.transform = transform
        self.exif = exif

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, item: int | Draw) -> tuple[Tensor, int, int, int, int]:
        index = item.index if isinstance(item, Draw) else item
        record = self.records[index]
        image = read_image(record.path, self.exif)
        if isinstance(item, Draw):
            # torchvision draws from torch's generator, timm's erasing from Python's as well.
            state = random.getstate()
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(item.seed)
                random.seed(item.seed)
                tensor = self.transform(image)
            random.setstate(state)
        else:
            tensor = self.transform(image)
        return tensor, record.pid, record.camid, record.viewid, index
