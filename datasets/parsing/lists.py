"""Lists without a header, ``path label``, as palmprint and vein repositories write them: train.txt and test.txt."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from datasets.bases import some
from datasets.parsing.folders import spelled
from utils.errors import ReIDError
from utils.files.text_files import nfc, read_text
from utils.images import IMAGE_SUFFIXES

FORM = "expected lines 'path label', such as 'session1/00001.bmp 0', or the header class,idx and lines '0,path'"
_LINE = re.compile(r"(?P<path>.*\S)(?:\s*[,;]\s*|\s+)(?P<label>\S+)")
_SWAPPED = "class,idx"
"""Header of lists in which the label stands first."""


class Entry(NamedTuple):
    """One line: the image's path relative to the data set's folder, and its label as text."""

    path: str
    label: str


def is_list(file: Path) -> bool:
    """Whether ``file`` is such a list, by its first line: the tables of ``listing`` begin with their columns."""
    if file.suffix.lower() == ".json" or not file.is_file():
        return False
    first = next((line.strip() for line in read_text(file).splitlines() if line.strip()), "")
    return first == _SWAPPED or ("path" not in first.lower().split(",") and _entry(first, swapped=False) is not None)


def read_lists(file: Path, root: Path, require_train: bool) -> tuple[list[Entry], list[Entry]]:
    """Training and test images of the list ``file`` and of its counterpart, the name with test for train or vice versa.

    Paths from another machine are cut where the rest of them lies below ``root``.

    Args:
        file: its name holds ``train`` or ``test``.
        root: the data set's folder.
        require_train: False where the list of training images, and these themselves, may be absent.

    Raises:
        ReIDError: a list is missing, a line is not an entry, or images are not below ``root``.
    """
    here = "train" if "train" in file.name else "test" if "test" in file.name else ""
    if not here:
        raise ReIDError(
            f"DATASETS.LISTING = {str(file)!r} has no header, so its name must hold train or test, and the other list "
            "lie beside it: train.txt and test.txt. Or write one table with the columns path,identity,split."
        )
    train, test = (file.with_name(file.name.replace(here, part)) for part in ("train", "test"))
    images = _read(train, root, require_train) if require_train or train.is_file() else []
    return images, _read(test, root, required=True)


def _read(file: Path, root: Path, required: bool) -> list[Entry]:
    if not file.is_file():
        raise ReIDError(f"{file}: no such list; train and test images stand in two files of one folder.")
    entries: list[Entry] = []
    swapped = False
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        text = line.strip()
        if text == _SWAPPED and not entries:
            swapped = True
        elif text:
            entry = _entry(text, swapped)
            if entry is None:
                raise ReIDError(f"{file}: line {number}, {text[:200]!r}, is not an entry; {FORM}.")
            entries.append(entry)
    entries = list(dict.fromkeys(entries))
    if not entries:
        raise ReIDError(f"{file}: is empty; {FORM}.")
    _refuse_two_labels(file, entries)
    found, lost = _below(root, entries)
    if lost and (required or not found):
        raise ReIDError(
            f"{file}: {len(lost)} of {len(entries)} images are not below {root} (DATASETS.ROOT_DIR): {some(lost)}."
        )
    return found


def _entry(text: str, swapped: bool) -> Entry | None:
    if swapped:
        label, _, path = (cell.strip() for cell in text.partition(","))
    elif match := _LINE.fullmatch(text):
        path, label = match["path"], match["label"]
    else:
        return None
    if not label or PurePosixPath(path).suffix.lower() not in IMAGE_SUFFIXES:
        return None
    return Entry(path.replace("\\", "/"), nfc(re.sub(r"\.0+$", "", label)))


def _refuse_two_labels(file: Path, entries: Iterable[Entry]) -> None:
    labels: dict[str, str] = {}
    for path, label in entries:
        if labels.setdefault(path, label) != label:
            raise ReIDError(f"{file}: {path} has the labels {labels[path]} and {label}. An image has one identity.")


def _below(root: Path, entries: Sequence[Entry]) -> tuple[list[Entry], list[str]]:
    """The entries with their paths below ``root``, and the paths that are not there.

    Where the beginning of a path is another machine's folder, it is looked for once and then left out everywhere.
    """
    found: list[Entry] = []
    lost: list[str] = []
    beginning = ""
    for path, label in entries:
        if not (path.startswith(beginning) and spelled(root, path[len(beginning) :]) and ".." not in path):
            beginning = _beginning(root, path)
            if beginning is None:
                beginning = ""
                lost.append(path)
                continue
        found.append(Entry(spelled(root, path[len(beginning) :]), label))
    return found, lost


def _beginning(root: Path, path: str) -> str | None:
    """The folders in front of the part of ``path`` that lies below ``root``, or None if no part does."""
    parts = path.split("/")
    for depth in range(len(parts)):
        rest = "/".join(parts[depth:])
        if rest and not rest.startswith("/") and ".." not in parts[depth:] and spelled(root, rest):
            return path[: len(path) - len(rest)]
    return None
