"""Reading image files: into tensors for training, and all of them once beforehand to find broken ones."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from datasets.bases import Record
from datasets.preprocessing import Transform
from datasets.sampler import Draw
from utils.errors import ReIDError
from utils.logger import on_terminal

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image upright, by its EXIF orientation."""

_WHITE = {"I;16": (65535,), "I": (255, 65535), "F": (1, 255, 65535)}
"""Values that white may have in modes of more than 8 bits; see :func:`read_image`."""


def read_image(path: str | Path, exif: bool = False) -> Image.Image:
    """The picture in RGB; of an animation or several pages, the first. Alpha is dropped, grey is repeated.

    Grey values of more than 8 bits, which Pillow would cut off at 255, are scaled to 8 bits: with 16 bits, 65535 is
    white. Files of 32-bit integers or floats do not say what white is; it is taken to be the smallest of 255 and 65535
    (floats: 1, 255 and 65535) that no pixel exceeds, or else the brightest pixel. Negative values and NaN are black.

    Args:
        path: the file.
        exif: turn it upright as its EXIF orientation says.

    Raises:
        ReIDError: the file is missing or no readable image.
    """
    try:
        return _decode(path, exif)
    except Exception as error:  # damaged files make Pillow raise anything from OSError to TypeError
        raise ReIDError(
            f"{path}: cannot be read as an image ({_cause(path, error)}). Repair or remove it, or start again with "
            "DATASETS.BAD_IMAGES skip."
        ) from None


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
            unit="image",
            leave=False,
            disable=not on_terminal(),
        )
        return {path: reason for path, reason in zip(unique, reasons, strict=True) if reason}


def _reason(path: str, exif: bool) -> str:
    try:
        _decode(path, exif, reduced=True)
    except Exception as error:  # as in read_image
        return _cause(path, error)
    return ""


def _decode(path: str | Path, exif: bool, reduced: bool = False) -> Image.Image:
    """The picture in RGB; if ``reduced``, of any size."""
    if not os.path.isfile(path):  # noqa: PTH113 -- a Path each is slow; opening a pipe would wait for ever
        raise FileNotFoundError
    with Image.open(path) as image:
        if reduced:
            image.draft("RGB", (1, 1))
        turn = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation)) if exif else None
        rgb = _to_rgb(image)
        return rgb if turn is None else rgb.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    depths = _WHITE.get(image.mode[:4])  # I;16B is I;16 in another byte order
    if depths:
        values = np.nan_to_num(np.asarray(image, dtype=np.float32), posinf=0, neginf=0)
        peak = float(values.max())
        white = next((w for w in depths if peak <= w), peak)
        image = Image.fromarray(np.rint(values.clip(min=0) * (255 / white)).astype(np.uint8))
    elif "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns of each palette with transparency that becomes RGB directly
    return image.convert("RGB")


def _cause(path: str | Path, error: Exception) -> str:
    """Why ``path`` cannot be read, in words that do not repeat the path."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, UnidentifiedImageError):
        return "the file is empty" if os.path.getsize(path) == 0 else "not an image, whatever its name says"  # noqa: PTH202
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


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
            with _seeded(item.seed):
                tensor = self.transform(image)
        else:
            tensor = self.transform(image)
        return tensor, record.pid, record.camid, record.viewid, index
