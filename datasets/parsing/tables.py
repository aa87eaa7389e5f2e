"""Small tables that users write, CSV or JSON, read so that each mistake is named by line and column."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from utils.errors import ReIDError
from utils.files.text_files import read_text

_LONGEST_NUMBER = 100
"""Digits up to which a label counts as a number; Python refuses to read numbers of some thousands."""

_LARGEST_CELL = 131072

_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_BREAK = re.compile(r"\r\n|\r|\n")
_CELL = re.compile(r'[ \t]*"(?P<quoted>[^"]*(?:""[^"]*)*)"[ \t]*(?=[,\r\n]|\Z)|(?P<plain>[^,\r\n]*)')


class Row(NamedTuple):
    """One row: where it stands (``line 7`` of a CSV, ``entry 6`` of a JSON list) and its stripped cells."""

    place: str
    cells: Mapping[str, str]


class Table(NamedTuple):
    """Rows of a table and the names of its columns."""

    columns: list[str]
    rows: list[Row]


def read_table(path: str | Path, required: Sequence[str]) -> Table:
    """Read a CSV file with a header line, or a JSON list of objects; the suffix ``.json`` decides which.

    Column names and cells lose the blanks around them, unless quotes keep these in a cell.

    Raises:
        ReIDError: no such file, not UTF-8, no rows, a ``required`` column is missing, a row of the wrong
        length, a cell that is not text.
    """
    path = Path(path)
    text = read_text(path)
    table = (_from_json if path.suffix.lower() == ".json" else _from_csv)(path, text)
    missing = [c for c in required if c not in table.columns]
    if missing:
        raise ReIDError(
            f"{path}: column {', '.join(map(repr, missing))} is missing; found {', '.join(table.columns)}. "
            f"The columns {','.join(required)} are needed, comma-separated in a CSV file."
        )
    if not table.rows:
        raise ReIDError(f"{path}: the table has no rows.")
    for place, cells in table.rows:
        for column, cell in cells.items():
            if not is_text(cell):
                raise ReIDError(
                    f"{path}: {place}, column {column!r}: {cell!r} holds a null character or an unpaired surrogate, "
                    "which is not text. Save the table as UTF-8."
                )
    return table


def is_text(cell: str) -> bool:
    """Whether a table can hold ``cell``: file names need not be text."""
    return not _NO_TEXT.search(cell)


def label_numbers(labels: Iterable[str]) -> dict[str, int]:
    """Numbers 0, 1, ... for labels in sorted order; labels that are all whole numbers sort by value."""
    distinct = set(labels)
    by_value = all(label.isdecimal() and len(label) <= _LONGEST_NUMBER for label in distinct)
    ordered = sorted(distinct, key=lambda label: (int(label) if by_value else 0, label))
    return {label: number for number, label in enumerate(ordered)}


def csv_text(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """The rows as comma-separated values that :func:`read_table` reads back as they are, outer blanks included."""
    return "".join(",".join(_quoted(str(cell)) for cell in row) + "\n" for row in (columns, *rows))


def _quoted(cell: str) -> str:
    plain = cell == cell.strip() and not any(mark in cell for mark in ',"\r\n')
    return cell if plain else '"' + cell.replace('"', '""') + '"'


def _from_csv(path: Path, text: str) -> Table:
    columns: list[str] = []
    rows = []
    for number, cells in _csv_rows(path, text):
        if not any(cells):
            continue
        if not columns:
            columns = [cell.strip() for cell in cells]
            if len(set(columns)) < len(columns):
                raise ReIDError(f"{path}: the header names a column twice: {','.join(columns)}.")
            continue
        if len(cells) != len(columns):
            raise ReIDError(
                f"{path}: line {number} has {len(cells)} cells, the header {len(columns)}. "
                'Put a cell that contains a comma in "quotes".'
            )
        rows.append(Row(f"line {number}", dict(zip(columns, cells, strict=True))))
    return Table(columns, rows)


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Each row and the number of its last line. Blanks around a cell are dropped, those inside quotes stay.

    Python's reader does not say which cells were quoted, so names that begin or end with a blank would be lost.
    """
    place, number = 0, 1
    cells: list[str] = []
    while place < len(text) or cells:
        match = _CELL.match(text, place)
        cell = match["plain"].strip() if match["quoted"] is None else match["quoted"].replace('""', '"')
        number += len(_BREAK.findall(match["quoted"] or ""))
        if match["quoted"] is None and cell.startswith('"'):
            raise ReIDError(f"{path}: line {number} is not CSV (a quote is not closed, or text follows it).")
        if len(cell) > _LARGEST_CELL:
            raise ReIDError(f"{path}: line {number} is not CSV (field larger than {_LARGEST_CELL} characters).")
        cells.append(cell)
        place = match.end()
        if text[place : place + 1] == ",":
            place += 1
            continue
        yield number, cells
        cells = []
        if end := _BREAK.match(text, place):
            place, number = end.end(), number + 1


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entry = dict(pairs)
    if len(entry) < len(pairs):
        raise ValueError(f"an entry names a value twice: {', '.join(name for name, _ in pairs)}")
    return entry


def _from_json(path: Path, text: str) -> Table:
    try:
        entries = json.loads(text, object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as error:  # besides JSON's own: endless numbers, endless brackets
        raise ReIDError(f"{path}: is not JSON ({error}).") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ReIDError(f'{path}: must be a JSON list of objects, such as [{{"path": "a.jpg", "identity": "7"}}].')
    rows = [
        Row(f"entry {i}", {key.strip(): "" if v is None else str(v).strip() for key, v in entry.items()})
        for i, entry in enumerate(entries, start=1)
    ]
    columns = list(dict.fromkeys(key for row in rows for key in row.cells))
    return Table(columns, [Row(place, {c: cells.get(c, "") for c in columns}) for place, cells in rows])
