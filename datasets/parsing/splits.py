"""Splits as data: seeded choices, a data set made of a split, and the text file that lets others repeat it.

The file is a table ``path,identity,split,camera,view`` with ``split`` one of :data:`SPLITS`, or two of them with ``+``
between them, and columns for attributes; the data set ``listing`` reads the same format. Paths are relative to the
data set's folder, with forward slashes.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import ClassVar, NamedTuple

from datasets.bases import Pair, Photo, QueryGallerySplit, Record, ReIDDataset, some
from datasets.parsing.attributes import named_attributes
from datasets.parsing.tables import Row, csv_text, is_text, label_numbers, read_table
from utils.console.logger import LOGGER
from utils.errors import ReIDError
from utils.files.checkpoint import write_text
from utils.files.text_files import nfc
from utils.images import Box
from utils.words import number_of

SPLITS = ("train", "val", "query", "gallery")
"""``val`` holds images of training people that are kept out of training."""
COLUMNS = ("path", "identity", "split", "camera", "view")
TWO_ROLES = frozenset({("train", "gallery"), ("val", "gallery"), ("query", "gallery")})
"""Splits that one image may belong to: a query that trains would measure memory."""
BOX = ("x", "y", "w", "h")
"""Columns of a box: left, top, width and height in pixels."""
NO_ATTRIBUTES = frozenset({*COLUMNS, *BOX})
"""Columns that say where an image is and what becomes of it, not what it shows."""


_DRIVE = re.compile("[A-Za-z]:")


class SplitRow(NamedTuple):
    """One image in one role of a split; an image with several roles has a row for each.

    ``camera`` and ``view`` are any text, empty where the data has none. ``attributes`` are pairs of name and value:
    the person, the hand, the finger and whatever else is known (:mod:`datasets.hands.attributes`). ``box`` is the part
    of the picture that is used, None for all of it.
    """

    path: str
    identity: str
    split: str
    camera: str = ""
    view: str = ""
    attributes: tuple[tuple[str, str], ...] = ()
    box: Box | None = None


def pick(names: Sequence[str], *key: object) -> str:
    """One of ``names``, chosen by ``key`` (seed, run, identity, ...) and by nothing else.

    The choice is SHA-256 of the key modulo the number of names: the same on every machine and Python version,
    and independent of what is picked for any other key, so that one person's new photos leave all other picks
    alone. The order of ``names`` does not matter, nor in which Unicode form a file system keeps them.
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return sorted(names, key=nfc)[int.from_bytes(digest[:8], "big") % len(names)]


def require_run(run: int) -> None:
    """Raise :class:`ReIDError` unless ``run`` can number a random choice."""
    if run < 0:
        raise ReIDError(f"DATASETS.RUN is {run}; runs are numbered from 0, the published ones 0 to 9.")


def take_one_each(people: Mapping[str, Sequence[str]], one: str, rest: str, *key: object) -> list[SplitRow]:
    """Rows in which a random image of each identity is in split ``one`` and all its others are in ``rest``.

    Args:
        people: image paths by identity.
        key: what the choices depend on besides the identity: seed, purpose, run, ...
    """
    rows = []
    for identity, paths in people.items():
        chosen = pick(paths, *key, identity)
        rows += [SplitRow(path, identity, one if path == chosen else rest) for path in paths]
    return rows


class SplitDataset(ReIDDataset):
    """A data set made of the rows of a split; cameras and views are numbered in sorted order.

    Args:
        rows: the images, which must exist.
        root: folder that their paths start from.
        absent: training images that are known of but not there, see :class:`ReIDDataset`.
        runs: the splits of several random choices by number, where the set has them; ``rows`` is the first of them,
            and the others differ from it in query and gallery only.
        name, camera_rule, require_train, notes: as for :class:`ReIDDataset`.
        protocol, pairs: see :attr:`ReIDDataset.protocol`; ``closed`` declares that identities train and are tested;
            the paths of ``pairs`` are relative to ``root``.

    Raises:
        ReIDError: with protocol ``open``, people train and are tested.
    """

    prompt: ClassVar[str] = "A photo of a {} hand."

    def __init__(
        self,
        rows: Sequence[SplitRow],
        root: str | Path,
        *,
        name: str,
        camera_rule: str = "none",
        absent: Sequence[SplitRow] = (),
        require_train: bool = False,
        notes: Iterable[str] = (),
        runs: Mapping[int, Sequence[SplitRow]] | None = None,
        protocol: str = "",
        pairs: Sequence[Pair] = (),
    ) -> None:
        self.root = Path(root)
        self.protocol = protocol
        self.pairs = [Pair(f"{root}/{first}", f"{root}/{second}", same) for first, second, same in pairs]
        rows, absent = _composed(rows), _composed(absent)
        runs = {run: _composed(drawn) for run, drawn in (runs or {}).items()}
        first, *others = runs or [None]
        known = [*rows, *absent, *(row for run in others for row in runs[run])]
        cameras = label_numbers(row.camera for row in known)
        views = label_numbers(row.view for row in known)
        folder = str(self.root)
        self.attributes = _attributes(known, folder)
        self.boxes = {f"{folder}/{row.path}": row.box for row in known if row.box}

        def photos(of: Sequence[SplitRow]) -> list[Photo]:
            return [Photo(f"{folder}/{r.path}", r.identity, cameras[r.camera], views[r.view]) for r in of]

        def of(split: str, run: int) -> list[Photo]:
            return photos([row for row in runs[run] if row.split == split])

        train, val, query, gallery = ([row for row in rows if row.split == split] for split in SPLITS)
        super().__init__(
            photos(train),
            photos(query),
            photos(gallery),
            val=photos(val),
            absent=photos(absent),
            name=name,
            camera_rule=camera_rule,
            require_train=require_train,
            notes=notes,
            run=first,
            redrawn=[QueryGallerySplit(run, of("query", run), of("gallery", run)) for run in others],
        )
        if protocol == "open":
            self._refuse_trained_people()
        self.notes += self._both_sides()

    def _refuse_trained_people(self) -> None:
        """Open protocol: no person is in training and test, neither with the same hand nor with the other one."""
        trained, tested = (
            {self.person(r) or names[r.pid] for r in records}
            for records, names in (
                ([*self.train, *self.val], self.val_identities),
                (self.test_images, self.test_identities),
            )
        )
        both = sorted(trained & tested)
        if both:
            raise ReIDError(
                f"{self.name}: DATASETS.PROTOCOL open, but {len(both)} of {len(tested)} test people train too: "
                f"{some(both)}. Give them to one side, or set DATASETS.PROTOCOL to closed."
            )

    def _both_sides(self) -> list[str]:
        """A note on identities that train and are tested, if there are any."""
        both = sorted(set(self.train_identities) & set(self.test_identities))
        if self.protocol == "closed":
            training = {record.path for record in self.train}
            enrolled = sum(record.path in training for record in self.gallery)
            return [
                f"closed protocol: {len(both)} of {len(self.test_identities)} test identities train too, and "
                f"{enrolled} of {len(self.gallery)} gallery images are training images; unseen people are not tested"
            ]
        if not both:
            return []
        return [
            f"{number_of(len(both), 'identity is', 'identities are')} both in the train and in the test set, so the "
            f"result does not show how well "
            f"unseen people are recognised: {some(both)}"
        ]


def _composed(rows: Iterable[SplitRow]) -> list[SplitRow]:
    """The rows with labels in one Unicode form; paths stay as the file system has them."""
    return [row._replace(identity=nfc(row.identity), camera=nfc(row.camera), view=nfc(row.view)) for row in rows]


def _attributes(rows: Iterable[SplitRow], folder: str) -> dict[str, dict[str, str]]:
    """The attributes of each image by its path, its view's name among them; images that agree share one mapping."""
    shared: dict[tuple, dict[str, str]] = {}
    found = {}
    for row in rows:
        named = (row.attributes, "" if row.view.isdecimal() else row.view)
        if named not in shared:
            shared[named] = {**named_attributes({"view": named[1]}), **dict(row.attributes)}
        if shared[named]:
            found[f"{folder}/{row.path}"] = shared[named]
    return found


def split_of(dataset: ReIDDataset, root: str | Path, trial: int = 0) -> list[SplitRow]:
    """The split of ``dataset``, with paths relative to ``root``; cameras and views are its numbers.

    ``trial`` is the number of one of its query and gallery sets.

    Reading it back as a listing gives the same records.

    Raises:
        ReIDError: an image lies outside ``root``.
    """
    root = Path(root).absolute()

    def rows(split: str, records: Sequence[Record], identities: Sequence[str]) -> list[SplitRow]:
        return [
            SplitRow(
                _relative(r.path, root),
                identities[r.pid],
                split,
                str(r.camid),
                str(r.viewid),
                tuple(dataset.attributes.get(r.path, {}).items()),
                dataset.boxes.get(r.path),
            )
            for r in records
        ]

    return [
        *rows("train", dataset.train, dataset.train_identities),
        *rows("val", dataset.val, dataset.val_identities),
        *rows("query", dataset.trials[trial].query, dataset.test_identities),
        *rows("gallery", dataset.trials[trial].gallery, dataset.test_identities),
    ]


def write_drawn_splits(dataset: ReIDDataset, folder: str | Path) -> list[Path]:
    """Write ``split_run<i>.csv`` for each random choice of query and gallery; a fixed split needs no file.

    The data set ``listing`` reads them, with ``dataset.root`` as the folder of the images. A split that no table can
    hold is named in the log.
    """
    written = []
    for i, trial in enumerate(dataset.trials):
        if trial.run is not None:
            file = Path(folder) / f"split_run{trial.run}.csv"
            rows = split_of(dataset, dataset.root, i)
            if all(is_text(row.path + row.identity) for row in rows):
                write_split(file, rows)
                written.append(file)
            else:
                LOGGER.warning("%s is not written: names of files or folders are not valid UTF-8", file.name)
    return written


def write_split(path: str | Path, rows: Iterable[SplitRow]) -> None:
    """Write a split as CSV, each image once; the file appears complete or not at all.

    Raises:
        ReIDError: a name is not valid UTF-8.
    """
    images: dict[SplitRow, list[str]] = {}
    for row in rows:
        images.setdefault(row._replace(split=""), []).append(row.split)
    names = sorted({name for row in images for name, _ in row.attributes} - NO_ATTRIBUTES)
    boxes = BOX if any(row.box for row in images) else ()
    table = []
    for row, splits in images.items():
        if not is_text(row.path + row.identity):
            raise ReIDError(f"{row.path}: this name, or {row.identity!r}, is not valid UTF-8, so no table can hold it.")
        known = dict(row.attributes)
        roles = "+".join(sorted(splits, key=SPLITS.index))
        cells = (_written(row.path), row.identity, roles, row.camera, row.view)
        box = (row.box or ("",) * len(BOX)) if boxes else ()
        table.append((*cells, *box, *(known.get(name, "") for name in names)))
    write_text(Path(path), csv_text((*COLUMNS, *boxes, *names), table))


def _written(path: str) -> str:
    """``path`` as :func:`inside` reads it: ``./`` in front of names that would be taken for folders of Windows."""
    return f"./{path}" if "\\" in path or _DRIVE.match(path) else path


def read_split(path: str | Path) -> list[SplitRow]:
    """Read and check a split file, CSV or JSON (a list of objects with the same names).

    Identities, cameras and views are text; split names may be in any case. An image with two splits has a row for each.
    The columns ``x y w h`` hold the part of a picture that is used, empty for all of it. Others are attributes.

    Raises:
        ReIDError: naming file, line and column: a missing column, an empty cell, an unknown split, two splits that one
            image cannot have, a path that is absolute or leaves the folder, a path that comes twice.
    """
    table = read_table(path, ("path", "identity", "split"))
    filled = [c for c in ("camera", "view", "source") if any(row.cells.get(c) for row in table.rows)]
    others = [c for c in table.columns if c not in NO_ATTRIBUTES]
    rows: list[SplitRow] = []
    place_of: dict[str, str] = {}
    for row in table.rows:
        parsed = _parse(path, row, filled, others)
        image = nfc(parsed[0].path)
        if image in place_of:
            raise ReIDError(
                f"{path}: {row.place}, column 'path': {image!r} was already given at {place_of[image]}. Remove one of "
                "the two rows; an image that is enrolled and also a query or a training image is written once, with "
                "query+gallery or train+gallery as its split."
            )
        place_of[image] = row.place
        rows += parsed
    return rows


def _parse(path: str | Path, row: Row, filled: Sequence[str], others: Sequence[str]) -> list[SplitRow]:
    """One row, checked, in each of its splits.

    Args:
        filled: the optional columns that some row, and so every row, fills.
        others: columns of attributes.
    """
    cells = row.cells
    for column in ("path", "identity", "split", *filled):
        if not cells[column]:
            raise ReIDError(f"{path}: {row.place}, column {column!r} is empty.")
    splits = tuple(sorted((part.strip() for part in cells["split"].lower().split("+")), key=_split_order))
    if not set(splits) <= set(SPLITS):
        raise ReIDError(f"{path}: {row.place}, column 'split': {cells['split']!r} is none of {', '.join(SPLITS)}.")
    if len(splits) > 1 and splits not in TWO_ROLES:
        raise ReIDError(
            f"{path}: {row.place}, column 'split': {cells['split']!r}: an image can be "
            f"{', '.join(sorted('+'.join(two) for two in TWO_ROLES))}, and nothing else besides one split."
        )
    image = inside(cells["path"])
    if image is None:
        raise ReIDError(
            f"{path}: {row.place}, column 'path': {cells['path']!r} leaves the data set's folder. "
            "Give paths relative to that folder, without '..'."
        )
    known = named_attributes({name: nfc(cells.get(name, "")) for name in others})
    labels = (nfc(cells["identity"]), "", nfc(cells.get("camera", "")), nfc(cells.get("view", "")))
    first = SplitRow(image, *labels, tuple(known.items()), _box(path, row))
    return [first._replace(split=split) for split in splits]


def _box(path: str | Path, row: Row) -> Box | None:
    cells = [row.cells.get(column, "") for column in BOX]
    if not any(cells):
        return None
    if all(cell.isdecimal() and len(cell) < 9 for cell in cells) and int(cells[2]) and int(cells[3]):
        return tuple(int(cell) for cell in cells)
    raise ReIDError(
        f"{path}: {row.place}, columns x, y, w, h: {', '.join(cells)!r} is not a box; expected left, top, width and "
        "height in whole pixels, or all four empty."
    )


def _split_order(split: str) -> int:
    return SPLITS.index(split) if split in SPLITS else -1


def inside(path: str) -> str | None:
    """``path`` tidied (forward slashes, no ``.``), or None if it is absolute or climbs out of its folder.

    Backslashes separate folders, as on Windows, except behind ``./``, where they are part of a name.
    """
    exact = path.startswith("./") and os.sep == "/"
    pure = PurePosixPath(path if exact else path.replace("\\", "/"))
    drive = not exact and _DRIVE.match(path)
    return None if pure.is_absolute() or drive or ".." in pure.parts else str(pure)


def _relative(path: str, root: Path) -> str:
    try:
        return Path(path).absolute().relative_to(root).as_posix()
    except ValueError:
        raise ReIDError(f"{path}: lies outside {root}, so a split file cannot name it.") from None
