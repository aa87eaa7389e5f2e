"""Any data set described by one table of images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from datasets.bases import some
from datasets.parsing.splits import SplitDataset, SplitRow, read_split
from utils.errors import ReIDError


class Listing(SplitDataset):
    """Images named in a CSV file ``path,identity,split[,camera][,view]`` or a JSON list of such objects::

        path,identity,split,camera,view
        photos/anna_1.jpg,anna,train,phone,palm
        photos/ben_1.jpg,ben,query,phone,palm
        photos/ben_2.jpg,ben,gallery,scanner,palm

    - ``path`` is relative to ``root``, with forward or backward slashes, and must stay below it.
    - ``identity``, ``camera`` and ``view`` are any text, numbers or not; they are numbered in sorted order.
      ``camera`` and ``view`` may be left out, but not in some rows only.
    - ``split`` is ``train``, ``query`` or ``gallery``; rows of ``val`` (training people kept out of training)
      become ``self.val``. Gallery identities without a query are distractors.

    Every run writes the split that it used in this format (:func:`datasets.parsing.splits.write_split`), so a listing
    repeats another person's evaluation exactly. Licence and counts are those of your own data.

    Args:
        file: the table.
        root: folder that the paths start from; the table's own folder if None.
        camera_rule: ``"none"``, or ``"market"`` if ``camera`` tells real cameras apart.
        require_train: False where only a test is wanted: training images may then be absent.

    Raises:
        ReIDError: naming line and column of what is wrong in the table, or the images that are not there.
    """

    def __init__(
        self,
        file: str | Path,
        root: str | Path | None = None,
        *,
        camera_rule: str = "none",
        require_train: bool = True,
    ) -> None:
        file = Path(file)
        root = file.parent if root is None else Path(root)
        present, absent = _sort_out(read_split(file), root, file, require_train)
        super().__init__(
            present,
            root,
            absent=[row for row in absent if row.split == "train"],
            name=f"listing {file.name}",
            camera_rule=camera_rule,
            require_train=require_train,
        )
        if absent:
            self.notes.append(f"{file}: {len(absent)} training images are absent; a test does not need them")


def _sort_out(
    rows: Sequence[SplitRow], root: Path, file: Path, require_train: bool
) -> tuple[list[SplitRow], list[SplitRow]]:
    """The rows with and without an image on disk; only training images that nobody needs may be absent."""
    present: list[SplitRow] = []
    absent: list[SplitRow] = []
    for row in rows:
        exists = os.path.isfile(f"{root}/{row.path}")  # noqa: PTH113 -- Path takes ten times as long
        (present if exists else absent).append(row)
    needed = [row.path for row in absent if require_train or row.split in ("query", "gallery")]
    if needed:
        raise ReIDError(
            f"{file}: {len(needed)} of {len(rows)} images are not in {root}: {some(needed)}. "
            "Paths are taken relative to that folder (DATASETS.ROOT_DIR)."
        )
    return present, absent
