"""Small tables that users write, CSV or JSON, read so that each mistake is named by line and column."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from utils.errors import ReIDError
from utils.text_files import read_text

_LONGEST_NUMBER = 100
"""Digits up to which a label counts as a number; Python refuses to read numbers of some thousands."""

_NO_TEXT = re.compile("[\0\ud800-\udfff]")


class Row(NamedTuple):
    """One row: where it stands (``line 7`` of a CSV, ``entry 6`` of a JSON list) and its stripped cells."""

    place: str
    cells: Mapping[str, str]


class Table(NamedTuple):
    """Rows of a table and the names of its columns."""

    columns: list[str]
    rows: list[Row]


def read_table(path: str | Path, required: Sequence[str]) -> Table:
    """Read a CSV file with a header line, or a JSON list of objects; which one, the suffix ``.json`` tells.

    Column names and cells lose the blanks around them.

    Raises:
        ReIDError: no such file, not UTF-8, no rows, a ``required`` column is missing, a row of the wrong
        length, a cell that is no text.
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
            if _NO_TEXT.search(cell):
                raise ReIDError(
                    f"{path}: {place}, column {column!r}: {cell!r} holds a null character or half of one of two code "
                    "units, which is no text. Write the table anew as UTF-8."
                )
    return table


def label_numbers(labels: Iterable[str]) -> dict[str, int]:
    """Numbers 0, 1, ... for labels in sorted order; labels that are all whole numbers sort by value."""
    distinct = set(labels)
    by_value = all(label.isdecimal() and len(label) <= _LONGEST_NUMBER for label in distinct)
    ordered = sorted(distinct, key=lambda label: (int(label) if by_value else 0, label))
    return {label: number for number, label in enumerate(ordered)}


def _from_csv(path: Path, text: str) -> Table:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns: list[str] = []
    rows = []
    try:
        for values in reader:
            cells = [value.strip() for value in values]
            if not any(cells):
                continue
            if not columns:
                columns = cells
                if len(set(columns)) < len(columns):
                    raise ReIDError(f"{path}: the header names a column twice: {','.join(columns)}.")
                continue
            if len(cells) != len(columns):
                raise ReIDError(
                    f"{path}: line {reader.line_num} has {len(cells)} cells, the header {len(columns)}. "
                    'Put a cell that contains a comma in "quotes".'
                )
            rows.append(Row(f"line {reader.line_num}", dict(zip(columns, cells, strict=True))))
    except csv.Error as error:
        raise ReIDError(f"{path}: line {reader.line_num} is not CSV ({error}).") from error
    return Table(columns, rows)


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
