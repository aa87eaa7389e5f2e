"""The chart of agreeing points: two images side by side, the same numbered circles on both.

Circles with numbers can be checked one by one; many lines from image to image cannot be read.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.plots.sheets import QUERY, blank_sheet, fitted, write_lines
from utils.retrieval.points import Agreement

SHOWN = 12
"""Points that are numbered at most."""

TOO_FEW = 10
"""Below this number of agreeing points a chart says that they are too few to decide."""

_CELL, _GAP, _TITLE, _CAPTION, _RADIUS = (480, 480), 10, 34, 22, 9
_INK, _HALO = (255, 214, 10), (20, 20, 20)
"""Yellow on black is legible on any skin, in grey, and for colour-blind readers."""


class Compared(NamedTuple):
    """Two images, their title and caption, and the points that they have in common."""

    left: Image.Image
    right: Image.Image
    title: str
    captions: tuple[str, str]
    agreement: Agreement


def in_words(count: int) -> str:
    """A count in words."""
    few = " (too few to decide)" if count < TOO_FEW else ""
    return f"{count} agreeing point{'' if count == 1 else 's'}{few}"


def well_spread(places: np.ndarray, most: int = SHOWN) -> list[int]:
    """Up to ``most`` rows of ``places`` [N, 2]: the first, then always the one that is farthest from those chosen."""
    chosen: list[int] = []
    nearest = np.full(len(places), np.inf)
    while len(chosen) < min(most, len(places)) and nearest.max() > 0:
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(places - places[chosen[-1]], axis=1))
    return chosen


def points_chart(pairs: list[Compared]) -> Image.Image:
    """A row for each pair of images: its title, the images with numbered circles, their captions."""
    rows = [_row(pair) for pair in pairs]
    width = max(row.width for row in rows)
    sheet = Image.new("RGB", (width, sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet


def _row(pair: Compared) -> Image.Image:
    pictures = [fitted(image, _CELL) for image in (pair.left, pair.right)]
    chosen = well_spread(pair.agreement.left)
    for picture, places in zip(pictures, (pair.agreement.left, pair.agreement.right), strict=True):
        for number, row in enumerate(chosen, 1):
            _circle(picture, places[row] * max(picture.size), number)
    height = max(picture.height for picture in pictures)
    title = pair.title if len(chosen) == pair.agreement.count else f"{pair.title}; {len(chosen)} of them numbered"
    sheet = blank_sheet(title, sum(p.width for p in pictures) + 3 * _GAP, height + _TITLE + _CAPTION + _GAP)
    left = _GAP
    for picture, caption in zip(pictures, pair.captions, strict=True):
        sheet.paste(picture, (left, _TITLE))
        write_lines(sheet, (left, _TITLE + picture.height + 4), caption, picture.width, QUERY)
        left += picture.width + _GAP
    return sheet


def _circle(picture: Image.Image, at: np.ndarray, number: int) -> None:
    """An open circle around the point, so that the skin in it stays visible, and its number beside it."""
    draw, (x, y) = ImageDraw.Draw(picture), at.tolist()
    for colour, width, radius in ((_HALO, 4, _RADIUS + 1), (_INK, 2, _RADIUS)):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour, width=width)
    font, text, away = ImageFont.load_default(14), str(number), _RADIUS + 2
    width = font.getlength(text)
    left = x + away if x + away + width <= picture.width else x - away - width
    top = min(max(y - 16, 0), picture.height - 16)
    draw.text((left, top), text, fill=_INK, font=font, stroke_width=2, stroke_fill=_HALO)
