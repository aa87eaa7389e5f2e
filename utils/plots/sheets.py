"""Pictures of results, drawn with Pillow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont, ImageOps

from utils.console.logger import LOGGER
from utils.errors import ReIDError
from utils.files.checkpoint import write_atomically
from utils.files.text_files import printable
from utils.images import AS_STORED, Reading, read_image

RIGHT, WRONG, QUERY = (0, 124, 104), (205, 62, 20), (60, 60, 60)
"""Frame colours: a green and a red for colour-blind readers. In print, the frames of wrong answers differ by dashes."""

HEAT = colormaps["viridis"]
"""Lightness rises from 0 to 1, so the scale can be read in grey and by colour-blind readers."""

STROKES = ((230, 110, 50), (255, 225, 60), (60, 210, 165), (110, 190, 250), (215, 150, 200))
"""Colours of lines on pictures, one after the other. Light ones with a dark outline show on any skin, in grey too."""

_GAP, _FRAME, _CAPTION, _TITLE = 10, 4, 34, 30
_DASH = 12


class Answer(NamedTuple):
    """One picture of a ranking: its file, identity, distance to the query, and whether it shows the query's person."""

    path: str
    identity: str
    distance: float
    correct: bool


class Ranking(NamedTuple):
    """A query, its nearest gallery images, nearest first, and the rank of the first right one (0: unknown)."""

    path: str
    identity: str
    average_precision: float
    answers: Sequence[Answer]
    first_right: int = 0


class Shown(NamedTuple):
    """One picture of a contact sheet, its frame's colour and what stands under it (two lines).

    ``strokes`` are drawn on it: lines [P, 2] in shares of its width and height, with a dot at each of their points.
    ``dashed`` is for its frame.
    """

    path: str
    caption: str
    colour: tuple[int, int, int] = QUERY
    strokes: Sequence[np.ndarray] = ()
    dashed: bool = False


def ranking_sheet(
    rankings: Sequence[Ranking], title: str, cell: tuple[int, int] = (128, 128), reading: Reading = AS_STORED
) -> Image.Image:
    """A row for each ranking: the query, then its nearest images framed green (right) or dashed red (wrong).

    Args:
        rankings: rows, of any number of answers.
        title, cell, reading: as for :func:`contact_sheet`.
    """
    rows = []
    for ranking in rankings:
        query = f"query {printable(ranking.identity)}\nAP {100 * ranking.average_precision:.0f} %"
        if ranking.first_right > len(ranking.answers):
            query += f", first right {ranking.first_right}"
        row = [Shown(ranking.path, query)]
        for place, answer in enumerate(ranking.answers, 1):
            mark, colour = ("right", RIGHT) if answer.correct else ("wrong", WRONG)
            caption = f"{place}: {printable(answer.identity)}\n{mark}, {_number(answer.distance)}"
            row.append(Shown(answer.path, caption, colour, dashed=not answer.correct))
        rows.append(row)
    return contact_sheet(rows, title, cell, reading, lead=_GAP)


def _number(value: float) -> str:
    """A distance with three decimals, a count without."""
    return f"{value:.0f}" if value >= 1 and value == round(value) else f"{value:.3f}"


class Seen(NamedTuple):
    """A picture, the weight of each place [h, w] in [0, 1], and two lines of caption."""

    image: Image.Image
    weights: np.ndarray
    caption: str


def overlay(image: Image.Image, weights: np.ndarray) -> Image.Image:
    """``image`` in grey under the colours of ``weights`` [h, w] in [0, 1], from dark blue (0) to yellow (1)."""
    smooth = Image.fromarray(weights.astype(np.float32)).resize(image.size, Image.Resampling.BICUBIC)
    colours = HEAT(np.asarray(smooth).clip(0, 1))[..., :3]
    grey = np.asarray(image.convert("L"))[..., None] / 255
    return Image.fromarray((255 * (0.45 * grey + 0.55 * colours)).round().astype(np.uint8))


def saliency_sheet(seen: Sequence[Seen], title: str, cell: tuple[int, int] = (144, 144)) -> Image.Image:
    """Each picture above the same picture with its weights laid over, and the scale of the colours at the right."""
    pictures = [fitted(item.image, cell) for item in seen]
    cell = cell[0], max((picture.height for picture in pictures), default=cell[1])
    width, height = cell[0] + 2 * _FRAME + _GAP, cell[1] + 2 * _FRAME + _GAP
    sheet = blank_sheet(title, len(seen) * width + 9 * _GAP, 2 * height + _TITLE + _CAPTION + _GAP)
    draw = ImageDraw.Draw(sheet)
    for column, (item, picture) in enumerate(zip(seen, pictures, strict=True)):
        left = _GAP + column * width
        sheet.paste(picture, (left, _TITLE))
        sheet.paste(overlay(picture, item.weights), (left, _TITLE + height))
        write_lines(sheet, (left, _TITLE + height + cell[1] + 2), item.caption, cell[0], "black")
    left, rows = _GAP + len(seen) * width, np.linspace(1, 0, cell[1])[:, None].repeat(16, 1)
    scale = Image.fromarray((255 * HEAT(rows)[..., :3]).astype(np.uint8))
    sheet.paste(scale, (left, _TITLE + height))
    for place, text in ((0, "most"), (cell[1] - 14, "least")):
        draw.text((left + 20, _TITLE + height + place), text, fill="black", font=ImageFont.load_default(12))
    return sheet


def contact_sheet(
    rows: Sequence[Sequence[Shown]],
    title: str,
    cell: tuple[int, int] = (128, 128),
    reading: Reading = AS_STORED,
    lead: int = 0,
) -> Image.Image:
    """Pictures in rows under one line of text; a row for each identity, say.

    Args:
        rows: of any length.
        title: one line above.
        cell: width and height in pixels of the largest picture; rows of flat pictures are less high.
        reading: how a file becomes a picture.
        lead: pixels that keep the first column apart from the others.
    """
    pictures = [[_drawn(shown, cell, reading) for shown in row] for row in rows]
    cell = cell[0], max((picture.height for row in pictures for picture in row), default=cell[1])
    columns = max((len(row) for row in rows), default=1)
    width, height = cell[0] + 2 * _FRAME + _GAP, cell[1] + 2 * _FRAME + _CAPTION + _GAP
    sheet = blank_sheet(title, columns * width + lead + 2 * _GAP, len(rows) * height + _TITLE + _GAP)
    for number, row in enumerate(rows):
        for column, (shown, picture) in enumerate(zip(row, pictures[number], strict=True)):
            corner = (_GAP + column * width + lead * (column > 0), _TITLE + number * height)
            _paste(sheet, corner, picture, shown, cell)
    return sheet


def save_sheet(sheet: Image.Image, path: Path) -> None:
    """Write ``sheet`` as PNG.

    Raises:
        ReIDError: ``path`` cannot be written.
    """
    write_atomically(path, lambda file: sheet.save(file, format="PNG"))


def evenly(count: int, most: int) -> list[int]:
    """At most ``most`` of ``count`` places, from the first to the last, evenly apart."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int)).tolist()


def fitted(image: Image.Image, cell: tuple[int, int]) -> Image.Image:
    """``image`` as large as it fits into ``cell``, in its own shape, but at least a pixel wide and high."""
    share = min(cell[0] / image.width, cell[1] / image.height)
    return image.resize((max(1, round(share * image.width)), max(1, round(share * image.height))))


def _drawn(shown: Shown, cell: tuple[int, int], reading: Reading) -> Image.Image:
    """A picture with its strokes; a grey one, and a warning, where it cannot be drawn: the others are worth seeing."""
    path = shown.path
    try:
        return _stroked(fitted(read_image(path, reading), cell), shown.strokes)
    except ReIDError as error:
        LOGGER.warning("a picture is left out: %s", error)
    except Exception as error:
        LOGGER.warning("a picture is left out: %s cannot be drawn (%s: %s)", path, type(error).__name__, error)
    return Image.new("RGB", cell, "lightgrey")


def _stroked(picture: Image.Image, strokes: Sequence[np.ndarray]) -> Image.Image:
    draw = ImageDraw.Draw(picture)
    for number, stroke in enumerate(strokes):
        colour = STROKES[number % len(STROKES)]
        points = [tuple(point) for point in (stroke * picture.size).tolist() if not math.isnan(sum(point))]
        for ink, width in (("black", 3), (colour, 1)):
            draw.line(points, fill=ink, width=width)
        for x, y in points:
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour, outline="black")
    return picture


def blank_sheet(title: str, width: int, height: int) -> Image.Image:
    """A white sheet with its title, which makes it wider where there are few pictures."""
    font = ImageFont.load_default(15)
    sheet = Image.new("RGB", (max(width, math.ceil(font.getlength(title)) + 2 * _GAP), height), "white")
    ImageDraw.Draw(sheet).text((_GAP, 8), title, fill="black", font=font)
    return sheet


def _paste(
    sheet: Image.Image, corner: tuple[int, int], image: Image.Image, shown: Shown, cell: tuple[int, int]
) -> None:
    """Put ``image``, no larger than ``cell``, in the frame of ``shown`` at ``corner``, and the caption under it."""
    frame = ImageOps.expand(image, _FRAME, shown.colour)
    if shown.dashed:
        draw = ImageDraw.Draw(frame)
        for start in range(_DASH, max(frame.size) - _DASH, 2 * _DASH):
            draw.rectangle((start, 0, start + _DASH - 1, frame.height), "white")
            draw.rectangle((0, start, frame.width, start + _DASH - 1), "white")
        frame.paste(image, (_FRAME, _FRAME))
    sheet.paste(frame, corner)
    below = corner[0], corner[1] + cell[1] + 2 * _FRAME + 2
    write_lines(sheet, below, shown.caption, cell[0] + 2 * _FRAME, shown.colour)


def write_lines(
    sheet: Image.Image, at: tuple[int, int], caption: str, width: int, ink: tuple[int, int, int] | str
) -> None:
    """Write the lines of ``caption``, each no wider than ``width`` pixels."""
    font = ImageFont.load_default(12)
    text = "\n".join(_shortened(line, font, width) for line in caption.split("\n"))
    ImageDraw.Draw(sheet).multiline_text(at, text, fill=ink, font=font, spacing=2)


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """``text``, its middle left out where it is wider than ``width`` pixels."""
    if font.getlength(text) <= width:
        return text
    keep = len(text) - 1
    while keep > 4 and font.getlength(text[: keep // 2] + "…" + text[-(keep // 2) :]) > width:
        keep -= 1
    return text[: keep // 2] + "…" + text[-(keep // 2) :]
