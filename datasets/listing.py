"""Any data set described by one table of images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from datasets.bases import some
from datasets.parsing.draws import Draws, draw
from datasets.parsing.folders import spelled
from datasets.parsing.lists import is_list, read_lists
from datasets.parsing.pairs import pair_rows, read_pairs
from datasets.parsing.protocols import NamedImage, Roles
from datasets.parsing.splits import SplitDataset, SplitRow, read_split, require_run, take_one_each
from utils.errors import ReIDError
from utils.words import number_of


class Listing(SplitDataset):
    """Images named in a CSV file ``path,identity,split[,camera][,view]`` or a JSON list of such objects::

        path,identity,split,camera,view,person
        photos/anna_l_1.jpg,anna left,train,phone,palm,anna
        photos/ben_l_1.jpg,ben left,query,phone,palm,ben
        photos/ben_l_2.jpg,ben left,gallery,scanner,palm,ben

    - ``path`` is relative to ``root``, with forward or backward slashes, and must stay below it. Behind ``./`` a
      backslash is part of a name. Names are the same in every Unicode form.
    - ``identity``, ``camera`` and ``view`` are any text, numbers or not; they are numbered in sorted order.
      ``camera`` and ``view`` may be left out, but not in some rows only.
    - ``split`` is ``train``, ``query`` or ``gallery``; rows of ``val`` (training people kept out of training)
      become ``self.val``. An enrolled image that also trains or probes is ``train+gallery`` or ``query+gallery``.
      Gallery identities without a query are distractors.
    - ``x``, ``y``, ``w`` and ``h`` are left, top, width and height in pixels of the part of the picture that is used,
      empty for all of it.
    - ``source`` names the data set that an image is from, of every image or of none; it is an attribute too.
    - Other columns, such as ``person``, ``hand``, ``finger`` or ``gender``, are attributes.

    A file without a header is a list ``path label``; train.txt and test.txt lie beside each other
    (:mod:`datasets.parsing.lists`). The training images are the gallery where the labels of both are the same people
    (protocol ``closed``). Otherwise one random image of each test identity is the gallery, as in the hand papers.

    Every run writes the split that it used in this format (:func:`datasets.parsing.splits.write_split`), so a listing
    repeats another person's evaluation exactly. Licence and counts are those of your own data.

    Args:
        file: the table, or one of the two lists.
        root: folder that the paths start from; the table's own folder if None.
        camera_rule: ``"none"``, or ``"market"`` if ``camera`` distinguishes real cameras.
        require_train: False where only a test is wanted: training images may then be absent.
        roles: the protocol, ``""`` for what the file says; of lists also the random choice of enrolled images.
        pairs: file of the pairs to compare, for protocol ``pairs``.
        draws: random splits in place of the table's own, where it has no protocol or an open one.

    Raises:
        ReIDError: naming line and column of what is wrong in the table, the images that are not there, or people who
            train and are tested in an open protocol.
    """

    def __init__(
        self,
        file: str | Path,
        root: str | Path | None = None,
        *,
        camera_rule: str = "none",
        require_train: bool = True,
        roles: Roles = Roles(""),  # noqa: B008 -- immutable
        pairs: str = "",
        draws: Draws = Draws(),  # noqa: B008 -- immutable
    ) -> None:
        file = Path(file)
        root = file.parent if root is None else Path(root)
        require_run(roles.run)
        absent: list[SplitRow] = []
        if is_list(file):
            protocol, splits = _split_lists(file, root, roles, require_train)
        else:
            rows, absent = _sort_out(read_split(file), root, file, require_train)
            both = {row.path for row in rows if row.split == "train"} & {r.path for r in rows if r.split == "gallery"}
            protocol = roles.protocol or ("closed" if both else "")
            splits = {None: rows}
            if protocol in ("", "open"):
                splits = draw(rows, draws)
        compared, notes = [], []
        if protocol in ("all_pairs", "fvc"):
            splits = {None: _compare_all(splits[None])}
        elif protocol == "pairs":
            compared = read_pairs(root / pairs, root)
            tested, train = _apart(splits[None])
            rows, notes = pair_rows(compared, tested, train)
            splits = {None: rows}
        super().__init__(
            next(iter(splits.values())),
            root,
            absent=[row for row in absent if row.split == "train"],
            name=f"listing {file.name}",
            camera_rule=camera_rule,
            require_train=require_train,
            notes=notes,
            runs={run: rows for run, rows in splits.items() if run is not None} or None,
            protocol=protocol,
            pairs=compared,
        )
        if absent:
            self.notes.append(f"{file}: {len(absent)} training images are absent; a test does not need them")


def _split_lists(
    file: Path, root: Path, roles: Roles, require_train: bool
) -> tuple[str, dict[int | None, list[SplitRow]]]:
    """The protocol of two lists, and their splits by the number of the random choice."""
    train, test = read_lists(file, root, require_train)
    known, tested = {entry.label for entry in train}, {entry.label for entry in test}
    shared = known & tested
    protocol = roles.protocol or ("closed" if shared == tested else "open")
    if protocol == "closed":
        twice = {entry.path for entry in train} & {entry.path for entry in test}
        if twice:
            raise ReIDError(
                f"{file}: {number_of(len(twice), 'image is', 'images are')} in both lists: "
                f"{some(sorted(twice))}. Query images must not be training images."
            )
        rows = [SplitRow(*entry, split) for split in ("train", "gallery") for entry in train]
        return protocol, {None: [*rows, *(SplitRow(*entry, "query") for entry in test)]}
    if shared:
        raise ReIDError(
            f"{file}: {len(shared)} of {len(tested)} test labels are training labels too: {some(sorted(shared))}. "
            "Where they are the same people, set DATASETS.PROTOCOL to closed; else give test people "
            "numbers of their own."
        )
    rows = [SplitRow(*entry, "train") for entry in train]
    if protocol != "open":
        return protocol, {None: [*rows, *(SplitRow(*entry, "query") for entry in test)]}
    people: dict[str, list[str]] = {}
    for path, label in test:
        people.setdefault(label, []).append(path)
    runs = range(roles.run, roles.run + roles.runs)
    return protocol, {run: rows + take_one_each(people, "gallery", "query", roles.seed, "gallery", run) for run in runs}


def _compare_all(rows: Sequence[SplitRow]) -> list[SplitRow]:
    """Every test image as query and in the gallery, identity by identity in the order of the file."""
    test = {row.path: row for row in rows if row.split in ("query", "gallery")}
    first = {identity: i for i, identity in reversed([*enumerate(row.identity for row in test.values())])}
    ordered = sorted(test.values(), key=lambda row: first[row.identity])
    others = [row for row in rows if row.split in ("train", "val")]
    return [*others, *(row._replace(split=split) for split in ("query", "gallery") for row in ordered)]


def _apart(rows: Sequence[SplitRow]) -> tuple[list[NamedImage], list[NamedImage]]:
    """All images, each once, and the training images, as pairs need them."""
    named = [NamedImage(r, {"identity": r.identity, "person": r.identity, **dict(r.attributes)}) for r in rows]
    each = {image.row.path: image for image in named}
    return list(each.values()), [image for image in named if image.row.split == "train"]


def _sort_out(
    rows: Sequence[SplitRow], root: Path, file: Path, require_train: bool
) -> tuple[list[SplitRow], list[SplitRow]]:
    """The rows with and without an image on disk; only training images may be absent, and only for a test."""
    present: list[SplitRow] = []
    absent: list[SplitRow] = []
    for row in rows:
        if os.path.isfile(f"{root}/{row.path}"):  # noqa: PTH113 -- Path takes ten times as long
            present.append(row)
        elif found := spelled(root, row.path):
            present.append(row._replace(path=found))
        else:
            absent.append(row)
    needed = [row.path for row in absent if require_train or row.split in ("query", "gallery")]
    if needed:
        raise ReIDError(
            f"{file}: {len(needed)} of {len(rows)} images are not in {root}: {some(needed)}. "
            "Paths are taken relative to that folder (DATASETS.ROOT_DIR)."
        )
    return present, absent
