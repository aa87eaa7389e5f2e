"""Answers as columns for people, CSV, JSON or a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from datasets.parsing.tables import csv_text
from processor.search.answers import Answer
from processor.search.points import Detail
from utils.biometric.verification import percent
from utils.files.text_files import printable
from utils.images import AS_STORED, Reading, read_image
from utils.plots.html import escape, page, picture_of, table, thumbnail

THUMBNAIL = 112
MAY_BE_EMPTY = ("accepted", "evidence", "points")
"""Columns that only options fill."""

OF_THE_QUERY = ("verdict", "gallery_far")
"""Fields that are equal in all answers to a query: tables for people give them once, below the rows."""


def as_text(answers: Sequence[Answer]) -> str:
    """Columns for people, then the verdict on each query and what the false accept rate means.

    See :func:`utils.files.text_files.printable` for names that are no plain text.
    """
    columns = _columns(answers)
    rows = [columns]
    for answer in answers:
        values = _values(answer, columns)
        rows.append([f"{v:.4f}" if isinstance(v, float) else printable(str(v)) for v in values])
    widths = [max(len(row[column]) for row in rows) for column in range(len(columns))]
    lines = ["  ".join(v.ljust(w) for v, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [f"verdict on {printable(a.query)}: {printable(a.verdict)}" for a in answers if a.rank == 1 and a.verdict]
    lines += _meaning(answers)
    return "".join(f"{line}\n" for line in lines)


def _columns(answers: Sequence[Answer]) -> list[str]:
    """Fields of a table for people: not those that are empty or that belong to the query."""
    own = [name for name in Answer._fields if name not in OF_THE_QUERY]
    return [name for name in own if name not in MAY_BE_EMPTY or getattr(answers[0], name) not in ("", None)]


def _values(answer: Answer, columns: Sequence[str]) -> list[object]:
    """Fields of a row; what is not known is empty."""
    return ["" if (value := getattr(answer, column)) is None else value for column in columns]


def _meaning(answers: Sequence[Answer]) -> list[str]:
    """What the false accept rate of one comparison is in this gallery, where it is known."""
    rate = answers[0].gallery_far
    if rate is None:
        return []
    return [f"probability that a person who is not enrolled is accepted in this gallery: about {percent(rate)}"]


def as_csv(answers: Sequence[Answer]) -> str:
    """Comma-separated values with a header."""
    return csv_text(Answer._fields, answers)


def as_json(answers: Sequence[Answer]) -> str:
    """A list of objects."""
    return json.dumps([answer._asdict() for answer in answers], indent=1) + "\n"


def as_html(
    answers: Sequence[Answer],
    gallery: Path,
    reading: Reading = AS_STORED,
    pictured: bool = True,
    detail: Detail | None = None,
) -> str:
    """A page with the images; a section for each query, which is not ``pictured`` where it is a sentence.

    With ``detail``, the section has the chart of the first answer.
    """
    sections = []
    for query in dict.fromkeys(answer.query for answer in answers):
        short = "/".join(Path(query).parts[-2:]) if pictured else query
        own = [answer for answer in answers if answer.query == query]
        pictures = "".join(
            f"<li{_frame(a)}>{thumbnail(read_image(gallery / a.image, reading), THUMBNAIL, f'{a.rank}: {a.identity}')}"
            f"<br>{a.rank}: {escape(a.identity)}<br>{a.similarity:.4f} {_words(a)}</li>"
            for a in own
        )
        picture = thumbnail(read_image(query, reading), 2 * THUMBNAIL, f"query {short}") if pictured else escape(query)
        columns = _columns(answers)[1:]
        rows = table("Answers", columns, [_values(a, columns) for a in own], digits=4)
        said = f"<p>Verdict: <b>{escape(own[0].verdict)}</b></p>" if own[0].verdict else ""
        chart = "" if detail is None else _chart(detail, own[0], gallery)
        sections.append((short, f'<p>Query:<br>{picture}</p>{said}<ol class="sheet">{pictures}</ol>{rows}{chart}'))
    note = "".join(f"<p>{line.capitalize()}.</p>" for line in _meaning(answers))
    note += "<p>Photographs of hands are biometric data: protect this page accordingly.</p>"
    return page("Search results", sections, note)


def _chart(detail: Detail, answer: Answer, gallery: Path) -> str:
    """The numbered points of an answer."""
    title = f"rank {answer.rank}, {printable(answer.identity)}"
    drawn = detail.chart(answer.query, str(gallery / answer.image), title)
    meaning = "Equal numbers mark places of the skin that were matched. A count is not a likelihood ratio."
    return picture_of(drawn, "Agreeing points of the first answer", meaning)


def _frame(answer: Answer) -> str:
    return {"yes": ' class="right"', "no": ' class="wrong"', "": ""}[answer.accepted]


def _words(answer: Answer) -> str:
    return {"yes": "accepted", "no": "refused", "": ""}[answer.accepted]


FORMATS = {"text": as_text, "csv": as_csv, "json": as_json}
