"""Which images the rows and columns of a file of distances are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from datasets.parsing.tables import csv_text
from utils.console.logger import LOGGER
from utils.files.checkpoint import write_text
from utils.files.paths import name_below

if TYPE_CHECKING:
    from datasets.bases import ReIDDataset


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
        rows = (
            (axis, index, name_below(record.path, root), dataset.test_identities[record.pid], record.camid)
            for axis, records in (("row", trial.query), ("column", trial.gallery))
            for index, record in enumerate(records)
        )
        names = distances.with_suffix(".csv")
        write_text(names, csv_text(("axis", "index", "path", "identity", "camera"), rows))
        LOGGER.info("%s: %s; %s names its rows (queries) and columns (gallery)", distances, what, names.name)
