"""Photographs of drawn hands in a temporary folder, as large as those of a camera."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from datasets.synthetic_hand.anatomy import ASPECTS
from datasets.synthetic_hand.dataset import _rng, identity_hand
from datasets.synthetic_hand.drawing import draw_hand

DRAWN = 96
"""Side of the drawing in pixels; what a decoder has to do depends on the size of the file's picture."""


@contextmanager
def drawn_photos(images: int, per_identity: int, size: tuple[int, int]) -> Iterator[Path]:
    """A folder tree of JPEGs of ``size`` (width, height), as :class:`datasets.hands.folder.HandFolder` reads it.

    Args:
        images: for training; a few more are drawn for the test.
        per_identity: of them of each hand.
    """
    with TemporaryDirectory(prefix="photos") as name:
        root = Path(name)
        for i in range(images):
            _draw(root / "train" / f"{i // per_identity:05d}", i // per_identity, i % per_identity, size)
        for number, split in enumerate(("query", "gallery")):
            _draw(root / "test" / split / "99999", 99999, number, size)
        yield root


def _draw(folder: Path, identity: int, number: int, size: tuple[int, int]) -> None:
    pixels = draw_hand(identity_hand(0, identity), ASPECTS[number % 2], _rng(0, identity, 1 + number), DRAWN)
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(folder / f"{number:03d}.jpg", quality=90)
