"""Files that name the pairs of images to compare: ``a b label``, or ``class,idx,idy`` of vein repositories."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from datasets.bases import Pair, some
from datasets.parsing.folders import spelled
from datasets.parsing.protocols import NamedImage, Roles
from datasets.parsing.splits import SplitRow, inside
from utils.errors import ReIDError
from utils.files.text_files import read_text

FORMS = (
    "expected two image paths and a label in each line, 'a.png b.png 1' or 'a.png,b.png,1' with 1 for the same "
    "identity and 0 for another, or the header class,idx,idy and lines '1,a.png,b.png'"
)
_LABELS = {"1": True, "1.0": True, "0": False, "0.0": False, "same": True, "different": False}
_HEADERS = {("class", "idx", "idy"): (1, 2, 0), ("a", "b", "label"): (0, 1, 2)}
"""Columns of first image, second image and label, by header."""


def read_pairs(file: Path, root: Path) -> list[Pair]:
    """The pairs in ``file``, with paths as the data set's folder ``root`` spells them; repeated pairs count once.

    Raises:
        ReIDError: no such file, or a line that is not a pair; file and line are named.
    """
    if not file.is_file():
        raise ReIDError(f"DATASETS.PROTOCOL pairs: DATASETS.PAIRS = {str(file)!r}: no such file; {FORMS}.")
    pairs: dict[tuple[str, str], Pair] = {}
    place = cache(lambda path: spelled(root, path) or path)
    first, second, label = (0, 1, 2)
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        cells = _cells(line)
        if not cells:
            continue
        header = tuple(cell.lower() for cell in cells)
        if not pairs and header in _HEADERS:
            first, second, label = _HEADERS[header]
            continue
        pair = _pair(cells, (first, second, label))
        if pair is None:
            raise ReIDError(f"{file}: line {number}, {line.strip()[:200]!r}, is not a pair; {FORMS}.")
        pair = Pair(place(pair.first), place(pair.second), pair.same)
        known = pairs.setdefault(pair[:2], pair)
        if known != pair:
            raise ReIDError(f"{file}: line {number}: an earlier line has this pair with the other label.")
    if not pairs:
        raise ReIDError(f"{file}: has no pairs; {FORMS}.")
    return list(pairs.values())


def refuse_roles(roles: Roles) -> None:
    """The file says who is enrolled and who probes: raise :class:`ReIDError` where conditions say so too."""
    for key, text in (("ENROL", roles.enrol), ("PROBE", roles.probe)):
        if text:
            raise ReIDError(f"DATASETS.{key} with DATASETS.PROTOCOL pairs, which compares what DATASETS.PAIRS names.")


def _cells(line: str) -> list[str]:
    """Cells between commas or, where there is none, between blanks; paths with blanks need commas."""
    line = line.strip().lstrip("\ufeff")
    return [cell.strip() for cell in (line.split(",") if "," in line else re.split(r"\s+", line))] if line else []


def _pair(cells: Sequence[str], columns: tuple[int, int, int]) -> Pair | None:
    if len(cells) != 3:
        return None
    first, second, label = (cells[column] for column in columns)
    one, other = (inside(path) if path else None for path in (first, second))
    if one is None or other is None or label.lower() not in _LABELS:
        return None
    return Pair(one, other, _LABELS[label.lower()])


def pair_rows(
    pairs: Sequence[Pair], images: Sequence[NamedImage], train: Sequence[NamedImage] | None
) -> tuple[list[SplitRow], list[str]]:
    """Rows of a split whose queries are the first images of the pairs and whose gallery are the second, and notes.

    Args:
        pairs: with paths as ``images`` have them.
        images: all images of the data set.
        train: those that train; None for all images of people who are in no pair.

    Raises:
        ReIDError: an image of a pair is not there, a label contradicts the identities, or people train and are tested.
    """
    known = {image.row.path: image for image in images}
    missing = sorted({path for pair in pairs for path in pair[:2]} - known.keys())
    if missing:
        raise ReIDError(
            f"DATASETS.PAIRS names {len(missing)} images that are missing or left out: {some(missing)}. "
            "Paths start from DATASETS.ROOT_DIR."
        )
    wrong = [pair for pair in pairs if (known[pair.first].row.identity == known[pair.second].row.identity) != pair.same]
    if wrong:
        raise ReIDError(
            f"DATASETS.PAIRS: the label of {len(wrong)} of {len(pairs)} pairs contradicts the identities, first "
            f"{wrong[0].first} and {wrong[0].second}. Correct the rule of identity (DATASETS.IDENTITY) or the labels."
        )
    tested = {known[path].person for pair in pairs for path in pair[:2]}
    if train is None:
        train = [image for image in images if image.person not in tested]
    both = {image.person for image in train} & tested
    if both:
        raise ReIDError(
            f"DATASETS.PROTOCOL pairs: {len(both)} of {len(tested)} people of DATASETS.PAIRS train too: "
            f"{some(sorted(both))}. People who are compared must not train."
        )
    rows = [image.row._replace(split="train") for image in train]
    for split, column in (("query", 0), ("gallery", 1)):
        rows += [known[path].row._replace(split=split) for path in dict.fromkeys(pair[column] for pair in pairs)]
    genuine = sum(pair.same for pair in pairs)
    return rows, [f"DATASETS.PAIRS: {genuine} genuine and {len(pairs) - genuine} impostor pairs"]
