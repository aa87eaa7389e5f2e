"""The files behind the numbers of a test: which images the rows and columns of its distances are, and copies."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from utils.checkpoint import write_text
from utils.logger import LOGGER

if TYPE_CHECKING:
    from datasets.bases import QueryGallerySplit, Record, ReIDDataset

NAMED = 3


def write_distance_names(file: Path, dataset: ReIDDataset, what: str, root: Path) -> None:
    """Write, beside the distances of each trial, a CSV file that names their rows and columns.

    Its columns are ``axis`` (row: query, column: gallery), ``index`` from 0, ``path``, ``identity`` and ``camera``.

    Args:
        file: of the distances of a single trial; those of run i have ``_run<i>`` before the ending.
        dataset: what was evaluated on.
        what: what the distances are, in words.
        root: folder of the images; paths are those below it, or file names.
    """
    for trial in dataset.trials:
        suffix = f"_run{trial.run}" if len(dataset.trials) > 1 else ""
        distances = file.with_stem(f"{file.stem}{suffix}")
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("axis", "index", "path", "identity", "camera"))
        for axis, records in (("row", trial.query), ("column", trial.gallery)):
            for index, record in enumerate(records):
                path = Path(record.path)
                name = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
                writer.writerow((axis, index, name.as_posix(), dataset.test_identities[record.pid], record.camid))
        names = distances.with_suffix(".csv")
        write_text(names, text.getvalue())
        LOGGER.info("%s: %s; %s names its rows (queries) and columns (gallery)", distances, what, names.name)


def identical_files(trials: Sequence[QueryGallerySplit[Record]]) -> list[tuple[str, str]]:
    """Paths of the queries that lie in the gallery of their trial as a file of the same content, each with one of them.

    Only files of the same size are read. A file that cannot be read is left to those who need it.
    """
    by_size: dict[int, set[str]] = defaultdict(set)
    for path in {record.path for trial in trials for part in (trial.query, trial.gallery) for record in part}:
        try:
            by_size[Path(path).stat().st_size].add(path)
        except OSError:
            continue
    content = {path: _digest(path) for paths in by_size.values() if len(paths) > 1 for path in paths}
    found: dict[str, str] = {}
    for trial in trials:
        gallery = {content.get(record.path, record.path): record.path for record in trial.gallery}
        asked = ((record.path, gallery.get(content.get(record.path, record.path))) for record in trial.query)
        found |= {path: copy for path, copy in asked if copy is not None}
    return sorted(found.items())


def _digest(path: str) -> bytes:
    """Of a file's content; its own name where it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "blake2b").digest()
    except OSError:
        return path.encode("utf-8", "surrogateescape")


def note_identical_files(dataset: ReIDDataset) -> int:
    """Count the queries that lie in the gallery as identical files, and say in the log which.

    None where the protocol compares one list with itself: an image is not compared with itself then.
    """
    found = [] if dataset.protocol in ("all_pairs", "fvc") else identical_files(dataset.trials)
    if found:
        some = ", ".join(f"{query} = {copy}" for query, copy in found[:NAMED])
        LOGGER.warning(
            "%d query images lie in the gallery as identical files (%s%s): they are found whatever the model "
            "has learned",
            len(found),
            some,
            ", ..." if len(found) > NAMED else "",
        )
    return len(found)
