"""Your own hands: a folder for each person."""

from __future__ import annotations

import filecmp
from collections.abc import Sequence
from pathlib import Path

from datasets.bases import some
from datasets.parsing.draws import Draws, draw
from datasets.parsing.folders import images_below, note_lost, note_others, scan
from datasets.parsing.splits import SplitDataset, SplitRow, inside
from datasets.parsing.tables import read_table
from utils.errors import ReIDError
from utils.files.text_files import nfc
from utils.words import number_of

TREE = (
    "Expected: train/<identity>/*.jpg, test/query/<identity>/*.jpg and test/gallery/<identity>/*.jpg "
    "(or query/ and gallery/ beside train/), or <identity>_<anything>.jpg directly in a split's folder."
)
UNSPLIT = "For photos not split yet, <identity>/*.jpg, python -m datasets.inspect --root DIR proposes a split."


class HandFolder(SplitDataset):
    """A folder tree in which the folder's name is the identity::

        <root>/train/<identity>/*.jpg
        <root>/test/query/<identity>/*.jpg      or <root>/query/<identity>/*.jpg
        <root>/test/gallery/<identity>/*.jpg    or <root>/gallery/<identity>/*.jpg
        <root>/views.csv                        if there are aspects (or cameras)

    Image files end in one of :data:`utils.images.IMAGE_SUFFIXES`; names are free. Images may also lie directly in a
    split's folder as
    ``<identity>_<anything>.jpg``: the identity is what stands before the first underscore.

    ``views.csv`` has the columns ``path,view`` and, if wanted, ``camera``; ``path`` is relative to
    ``<root>``, or the file name alone where that is unique. Views and cameras are any text, numbered in
    sorted order; every image must be named. Without the file all images have view 0 and camera 0.

    The licence and counts are those of your own data; ``self.notes`` names what was left out.

    Args:
        root: the folder.
        require_train: False where only a test is wanted; ``train/`` is then read if it is there.
        camera_rule: ``"none"``, or ``"market"`` if ``views.csv`` names cameras.
        draws: random splits in place of the folders' own.

    Raises:
        ReIDError: a folder is missing or empty, a flat file name holds no identity, the same picture is query
            and gallery, or ``views.csv`` does not fit the images.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        require_train: bool = True,
        camera_rule: str = "none",
        draws: Draws = Draws(),  # noqa: B008 -- immutable
    ) -> None:
        root = Path(root)
        if not root.is_dir():
            raise ReIDError(f"{root}: no such folder. Set DATASETS.ROOT_DIR. {TREE}")
        test = "test/" if (root / "test").is_dir() else ""
        folders = {"train": "train", "query": f"{test}query", "gallery": f"{test}gallery"}
        if not require_train and not (root / "train").is_dir():
            del folders["train"]
        notes: list[str] = []
        rows = [row for split, folder in folders.items() for row in _read(root, folder, split, notes)]
        _refuse_same_picture(root, rows)
        absent: list[SplitRow] = []
        if (root / "views.csv").exists():
            rows, absent = _label(rows, root / "views.csv")
            if absent and "train" in folders:
                names = some([row.path for row in absent])
                raise ReIDError(f"{root / 'views.csv'}: {len(absent)} of its images are not in {root}: {names}.")
        splits = draw(rows, draws)
        super().__init__(
            next(iter(splits.values())),
            root,
            name="hand",
            camera_rule=camera_rule,
            absent=absent,
            require_train=require_train,
            notes=notes,
            runs={run: rows for run, rows in splits.items() if run is not None},
        )


def _read(root: Path, folder: str, split: str, notes: list[str]) -> list[SplitRow]:
    """The images of one split; what is left out is added to ``notes``."""
    if not (root / folder).is_dir():
        holds = some(scan(root).folders) or "no folders"
        raise ReIDError(f"{root / folder}: no such folder; {root} holds: {holds}. {TREE} {UNSPLIT}")
    content = scan(root / folder)
    if content.images and content.folders:
        raise ReIDError(
            f"{root / folder}: holds both identity folders and loose images ({some(content.images)}). "
            "Move the images into their identity's folder, or use no folders."
        )
    others = list(content.others)
    rows = [SplitRow(f"{folder}/{n}", _flat_identity(root / folder / n), split) for n in content.images]
    deeper, empty, twins = [], [], []
    lost: dict[str, list[str]] = {}
    for identity in content.folders:
        inner = scan(root / folder / identity)
        others += inner.others
        deeper += [f"{identity}/{name}" for name in inner.folders]
        rows += [SplitRow(f"{folder}/{identity}/{name}", nfc(identity), split) for name in inner.images]
        if not inner.images:
            lost[identity] = inner.others
            empty += [] if inner.others else [identity]
        if len({Path(name).stem.lower() for name in inner.images}) < len(inner.images):
            twins.append(identity)
    notes += [*note_others(others, folder), *note_lost(lost, folder)]
    for names, what in (
        (deeper, "folders inside identity folders are not read"),
        (empty, "identity folders hold no image"),
        (twins, "identities have files of one name with different endings, perhaps the same photo twice"),
    ):
        if names:
            notes.append(f"{folder}: {len(names)} {what}: {some(names)}")
    if not rows:
        raise ReIDError(f"{root / folder}: no images found ({_elsewhere(root / folder, others)}). {TREE}")
    return rows


def _elsewhere(folder: Path, others: Sequence[str]) -> str:
    """What there is in ``folder`` in place of images that are read."""
    deeper, _ = images_below(folder)
    if not deeper:
        return "; ".join(note_others(others, folder.name)) or "no files at all"
    folders = number_of(min(path.count("/") for path in deeper), "folder")
    return (
        f"but {number_of(len(deeper), 'image')} {folders} deep, such as {deeper[0]}: DATASETS.NAMES pattern reads any "
        "depth, and python -m datasets.inspect proposes its DATASETS.PATTERN"
    )


def _flat_identity(path: Path) -> str:
    identity, underscore, _ = path.stem.partition("_")
    if not identity or not underscore:
        raise ReIDError(
            f"{path}: an image directly in {path.parent.name}/ must be called "
            f"<identity>_<anything>{path.suffix} or lie in a folder named after its identity."
        )
    return nfc(identity)


def _refuse_same_picture(root: Path, rows: Sequence[SplitRow]) -> None:
    """Refuse a file that is both a query and a gallery image: its retrieval measures nothing."""
    in_gallery = {(row.identity, _name(row)): row for row in rows if row.split == "gallery"}
    for row in rows:
        twin = in_gallery.get((row.identity, _name(row)))
        if row.split == "query" and twin and _same_content(root / row.path, root / twin.path):
            raise ReIDError(
                f"{root}: {row.path} and {twin.path} are the same file. A copy of a query in the gallery is always "
                "retrieved first; remove one of the two."
            )


def _same_content(one: Path, other: Path) -> bool:
    try:
        return filecmp.cmp(one, other, shallow=False)
    except OSError:  # DATASETS.BAD_IMAGES decides about files that cannot be read
        return False


def _label(rows: Sequence[SplitRow], table_file: Path) -> tuple[list[SplitRow], list[SplitRow]]:
    """The rows with camera and view as ``views.csv`` has them, and what it names that is not there."""
    labels: dict[str, SplitRow] = {}
    absent = []
    called: dict[str, list[SplitRow]] = {}
    for row in rows:
        called.setdefault(nfc(row.path), []).append(row)
        called.setdefault(_name(row), []).append(row)
    table = read_table(table_file, ("path", "view"))
    columns = [c for c in ("camera", "view") if c in table.columns]
    for place, cells in table.rows:
        where = f"{table_file}: {place}"
        for column in columns:
            if not cells[column]:
                raise ReIDError(f"{where}, column {column!r} is empty; write a word such as 'unknown' instead.")
        path = nfc(inside(cells["path"]) or cells["path"])
        meant = called.get(path, [SplitRow(path, "", "")])
        if len(meant) > 1:
            raise ReIDError(f"{where}: {path!r} could be {some([m.path for m in meant])}; give its folder too.")
        row = meant[0]._replace(**{column: cells[column] for column in columns})
        if labels.setdefault(row.path, row) != row:
            raise ReIDError(f"{where}: {row.path} has other labels here than in an earlier row.")
        if not row.split:
            absent.append(row)
    unnamed = [row.path for row in rows if row.path not in labels]
    if unnamed:
        raise ReIDError(
            f"{table_file}: {len(unnamed)} of {len(rows)} images are not named in it: {some(unnamed)}. "
            "Every image needs a view; write a word such as 'unknown' where it is not known."
        )
    return [labels[row.path] for row in rows], absent


def _name(row: SplitRow) -> str:
    return nfc(row.path.rpartition("/")[2])
