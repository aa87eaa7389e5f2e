"""Decoding image files of any kind to RGB."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from utils.errors import ReIDError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm"})
"""What image files in a folder are known by."""

FORMATS = ("JPEG", "PNG", "BMP", "DIB", "TIFF", "WEBP", "GIF", "PPM")
"""What is decoded, whatever the name says; Pillow would start another program for some others (EPS)."""

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

ADVICE = "Repair or remove it, or start again with DATASETS.BAD_IMAGES skip."

_WHITE = {"I;16": (65535,), "I": (255, 65535), "F": (1, 255, 65535)}
"""Values that white may have in modes of more than 8 bits; see :func:`read_image`."""


def read_image(path: str | Path, exif: bool = False, at_least: int | None = None, advice: str = ADVICE) -> Image.Image:
    """The picture in RGB; of an animation or several pages, the first. Alpha is dropped, grey is repeated.

    Grey values of more than 8 bits, which Pillow would cut off at 255, are scaled to 8 bits: with 16 bits, 65535 is
    white. Files of 32-bit integers or floats do not say what white is; it is taken to be the smallest of 255 and 65535
    (floats: 1, 255 and 65535) that no pixel exceeds, or else the brightest pixel. Negative values and NaN are black.

    Args:
        path: the file.
        exif: turn it upright as its EXIF orientation says.
        at_least: see :func:`decode`.
        advice: what to do about a file that cannot be read, for the message.

    Raises:
        ReIDError: the file is missing or no readable image.
    """
    try:
        return decode(path, exif, at_least)
    except Exception as error:  # damaged files make Pillow raise anything from OSError to TypeError
        raise ReIDError(f"{path}: cannot be read as an image ({cause(path, error)}). {advice}") from None


def decode(path: str | Path, exif: bool, at_least: int | None = None) -> Image.Image:
    """As :func:`read_image`, with Pillow's own errors; smaller where that is faster and ``at_least`` pixels will do."""
    if not os.path.isfile(path):  # noqa: PTH113 -- a Path each is slow; opening a pipe would wait for ever
        raise FileNotFoundError
    with Image.open(path, formats=FORMATS) as image:
        if at_least is not None:
            image.draft("RGB", (at_least, at_least))
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


def cause(path: str | Path, error: Exception) -> str:
    """Why ``path`` cannot be read, in words that do not repeat the path."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, UnidentifiedImageError):
        return "the file is empty" if os.path.getsize(path) == 0 else "not an image, whatever its name says"  # noqa: PTH202
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
