"""Self-contained HTML pages: styles, sorting and images inside the file, no external resources."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from utils.errors import ReIDError
from utils.images import cause

PHOTO_QUALITY = 85
SHORT = 24
"""Characters of a text that a cell keeps on one line."""
WIDE = 1000
"""Pixels from which a picture is scrolled on a narrow screen: shrunk, its captions could not be read."""
LARGEST_PNG = 400_000
"""Bytes above which a picture is kept as JPEG: sheets of photos would make a page of tens of megabytes."""

_STYLE = """
:root { color-scheme: light dark; --line: #8885; --accent: #0b6b4f; }
@media (prefers-color-scheme: dark) { :root { --accent: #6fd3b0; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 0 auto; padding: 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
.scroll { overflow-x: auto; } .scroll:focus-visible, a:focus-visible, button:focus-visible, summary:focus-visible
{ outline: 3px solid var(--accent); outline-offset: 2px; }
table { border-collapse: collapse; margin: .5rem 0; } caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { border: 1px solid var(--line); padding: .25rem .6rem; text-align: left; vertical-align: top; }
thead th { min-width: 4.5rem; vertical-align: bottom; } td.short { white-space: nowrap; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
th button { font: inherit; font-weight: 600; text-align: inherit; color: inherit;
  background: none; border: 0; padding: 0; cursor: pointer; }
th button::after { content: " \\2195"; opacity: .5; }
th[aria-sort=ascending] button::after { content: " \\2191"; opacity: 1; }
th[aria-sort=descending] button::after { content: " \\2193"; opacity: 1; }
figure { margin: 1.5rem 0; break-inside: avoid; } figcaption { max-width: 60rem; }
img { max-width: 100%; height: auto; background: white; }
@media screen { .wide img { min-width: 50rem; } }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; padding: 0; }
.skip { position: absolute; left: -999rem; } .skip:focus { left: 1rem; top: 1rem; }
.sheet { list-style: none; display: flex; flex-wrap: wrap; gap: .8rem; padding: 0; }
.sheet li { border-left: 4px solid var(--line); padding-left: .4rem; font-size: .85rem; break-inside: avoid; }
.sheet li.right { border-left: 4px solid #1b8a3c; } .sheet li.wrong { border-left: 4px dashed #c42b2b; }
@media print { nav, .skip { display: none; } body { max-width: none; font-size: 11px; }
  th button::after { content: ""; } .scroll { overflow: visible; } h2 { break-after: avoid; }
  tr { break-inside: avoid; } }
"""

_SCRIPT = """
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const rows = [...table.tBodies[0].rows].sort((a, b) => {
        const [x, y] = [key(a), key(b)], numbers = x !== "" && y !== "" && !isNaN(x) && !isNaN(y);
        return (numbers ? x - y : x.localeCompare(y, undefined, {numeric: true})) * (up ? 1 : -1);
      });
      table.tBodies[0].append(...rows);
    });
  });
}
"""


def page(title: str, sections: Sequence[tuple[str, str]], introduction: str = "") -> str:
    """A whole document: heading, links to the sections, and the sections' headings and bodies (HTML)."""
    links = "".join(f'<li><a href="#s{i}">{escape(head)}</a></li>' for i, (head, _) in enumerate(sections))
    parts = "".join(
        f'<section aria-labelledby="s{i}"><h2 id="s{i}">{escape(head)}</h2>{body}</section>'
        for i, (head, body) in enumerate(sections)
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{_STYLE}</style></head>\n<body>"
        '<a class="skip" href="#content">Skip to the content</a>'
        f"<header><h1>{escape(title)}</h1>{introduction}</header>"
        f'<nav aria-label="Sections"><ul>{links}</ul></nav>\n<main id="content">{parts}</main>'
        f"<script>{_SCRIPT}</script></body></html>\n"
    )


def escape(value: object) -> str:
    """Text as HTML shows it."""
    return html.escape(str(value))


def table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[object]], digits: int = 1) -> str:
    """A table that sorts by each column; the first cell of a row is its heading; floats are shown with ``digits``."""
    head = "".join(f'<th scope="col"><button type="button">{escape(c)}</button></th>' for c in columns)
    body = "".join(
        "<tr>" + "".join(_cell(value, number, digits) for number, value in enumerate(row)) + "</tr>" for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table data-sortable>'
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def folded(title: str, content: str) -> str:
    """``content`` behind a line that opens it."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def _cell(value: object, column: int, digits: int) -> str:
    if isinstance(value, float):
        shown, sort, kind = f"{value:.{digits}f}", f' data-value="{value!r}"', ' class="number"'
    else:
        shown, sort = escape(value), ""
        kind = ' class="number"' if isinstance(value, int) else ' class="short"' if len(shown) <= SHORT else ""
    return f'<th scope="row"{sort}>{shown}</th>' if column == 0 else f"<td{kind}{sort}>{shown}</td>"


def picture(path: Path, title: str, description: str) -> str:
    """The PNG file ``path`` inside the page, with a caption that also says in words what it shows.

    Raises:
        ReIDError: it is no readable PNG.
    """
    try:
        data, kind = path.read_bytes(), "png"
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            size = image.size
            image.load()
            if len(data) > LARGEST_PNG:
                data, kind = _jpeg(image), "jpeg"
    except Exception as error:  # damaged files make Pillow raise anything
        raise ReIDError(f"{path}: cannot be shown ({cause(path, error)}). Remove it, or test the run again.") from None
    return figure(data, kind, size, title, description)


def thumbnail(image: Image.Image, side: int, alternative: str) -> str:
    """``image`` inside the page, at most ``side`` pixels wide and high."""
    small = image.copy()
    small.thumbnail((side, side))
    return _image(_jpeg(small), "jpeg", small.size, alternative)


def figure(data: bytes, kind: str, size: tuple[int, int], title: str, description: str) -> str:
    """An image file's bytes as a figure with its caption."""
    caption = f"<figcaption><strong>{escape(title)}.</strong> {escape(description)}</figcaption>"
    image = _image(data, kind, size, f"{title}. {description}")
    if size[0] >= WIDE:
        image = f'<div class="scroll wide" tabindex="0" role="region" aria-label="{escape(title)}">{image}</div>'
    return f"<figure>{image}{caption}</figure>"


def picture_of(image: Image.Image, title: str, description: str) -> str:
    """A drawn chart as a figure with its caption."""
    return figure(_jpeg(image), "jpeg", image.size, title, description)


def _image(data: bytes, kind: str, size: tuple[int, int], alternative: str) -> str:
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return f'<img src="{source}" width="{size[0]}" height="{size[1]}" alt="{escape(alternative)}">'


def _jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=PHOTO_QUALITY, optimize=True)
    return file.getvalue()
