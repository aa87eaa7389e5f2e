"""11k Hands with the published protocol of each aspect, and a joint mode of all four."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from datasets.bases import some
from datasets.hands.attributes import hand_attributes
from datasets.parsing.folders import find_root, scan
from datasets.parsing.published import Size
from datasets.parsing.splits import SplitDataset, SplitRow, require_run, take_one_each
from datasets.parsing.tables import Row, read_table
from utils.errors import ReIDError, require_choice

TREE = (
    "Expected: HandInfo.csv and Hands/Hand_*.jpg. 11k Hands is available from M. Afifi, "
    "sites.google.com/view/11khands; unpack Hands.zip beside HandInfo.csv."
)
TABLE, IMAGES = "HandInfo.csv", "Hands"

ASPECTS = ("dorsal left", "dorsal right", "palmar left", "palmar right")
LAST_TRAIN_ID = {"dorsal right": 1050, "dorsal left": 1037, "palmar right": 1051, "palmar left": 1042}
"""Published thresholds: in each aspect, people up to this id train and the others test."""
JOINT_LAST_TRAIN_ID = min(LAST_TRAIN_ID.values())
"""Joint mode: who tests in any one aspect must train in none."""
OFFSETS = (11_000_000, 21_000_000, 31_000_000)
"""Added to the ids of distractors: other hand, then the other side of right and left hands.

The published code adds the first to dorsal left where palmar right is tested; no metric depends on these numbers.
"""
PUBLISHED = {
    "dorsal right": (Size(72, 962), Size(71, 1042)),
    "dorsal left": (Size(73, 808), Size(73, 1061)),
    "palmar right": (Size(72, 977), Size(71, 988)),
    "palmar left": (Size(76, 1004), Size(75, 1023)),
}
"""Train and test people and images of each aspect, images with accessories excluded."""


class Hand11k(SplitDataset):
    """11k Hands: 11,076 photographs of 1600x1200 pixels, palms and backs of both hands of 190 people.

    Reference: M. Afifi, "11K Hands: Gender recognition and biometric identification using a large dataset of
    hand images", Multimedia Tools and Applications, 2019.
    Page: https://sites.google.com/view/11khands. Terms: free for reasonable academic fair use.
    Protocol: MBA-Net, arXiv 2108.02234, and the works that follow it. Images with accessories are dropped
    (7,865 of 172 people stay); nail polish and irregularities are kept.

    ============ ========== ========== ========== ======= ======= ===========
    aspect       train_all  train/val  test       query   gallery gallery all
    ============ ========== ========== ========== ======= ======= ===========
    dorsal right 72: 962    890/72     71: 1042   971     71      290
    dorsal left  73: 808    735/73     73: 1061   988     73      290
    palmar right 72: 977    905/72     71: 988    917     71      290
    palmar left  76: 1004   928/76     75: 1023   948     75      290
    ============ ========== ========== ========== ======= ======= ===========

    (people: images; images elsewhere.) ::

        <root>/HandInfo.csv            id, accessories, aspectOfHand, imageName and more
        <root>/Hands/Hand_0000002.jpg

    **One aspect.** The ids up to a published threshold train, the others test; identity is the person's id.
    In run i the gallery has one random image of each test id, and the queries are the id's other images. With
    ``gallery="all"``, as in the published figures, the galleries of the three other aspects are added as
    distractors under raised ids: a person's other hand or other side is a wrong match, and there are
    distractors of people who train in this aspect. Figures are means over runs 0 to 9; which images were
    drawn was not published; here ``seed`` and ``run`` decide, and a gallery's images do not depend on the
    aspect chosen. All views are 0.

    **Joint, ``aspect="all"``.** One model for all aspects. The published thresholds would put people 1039,
    1042, 1043, 1046, 1050 and 1051 into train in one aspect and test in another. Here people up to 1037 train
    and all others test. This is the lowest of the four thresholds, so no person is in both parts, and the published
    test people of every aspect are unseen: a joint model may also be tested on the single aspects.
    Identity is a hand, "<id> left" or "<id> right", because a person's two hands are different biometric
    samples while back and palm are two views of one object, which an examiner would report as one hand. The
    aspect is the view (0 to 3 in the order of :data:`ASPECTS`), so each hand has two views. The gallery has
    one random image of each test hand in each aspect; back and palm of the same hand match, unlike in the
    published single-aspect figures, and ``gallery`` makes no difference.

    Args:
        root: the folder of ``HandInfo.csv``, or the one above it if that is called ``11k_hands`` or ``11k``.
        aspect: one of :data:`ASPECTS`, or ``"all"``.
        run: number of the random choice of gallery images.
        runs: how many choices to evaluate, from ``run`` on.
        seed: seed of all random choices.
        gallery: ``"all"`` as published, or ``"aspect"`` for a gallery without distractors.
        part: ``"train_all"``, or ``"train"`` to hold a random image of each training identity (in joint mode:
            of each hand and aspect) out as ``self.val``.
        require_train: False where only a test is wanted.

    Raises:
        ReIDError: table or images are missing, the table is damaged, or an argument is out of range.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        aspect: str = "dorsal right",
        run: int = 0,
        runs: int = 1,
        seed: int = 0,
        gallery: str = "all",
        part: str = "train_all",
        require_train: bool = True,
    ) -> None:
        require_choice("DATASETS.ASPECT", aspect, (*ASPECTS, "all"))
        require_choice("DATASETS.GALLERY", gallery, ("all", "aspect"))
        require_choice("part", part, ("train_all", "train"))
        require_run(run)
        root = find_root(root, TABLE, ("11k_hands", "11k"), TREE)
        hands, notes = read_hands(root / TABLE)
        hands = _present(hands, root, notes)
        notes += _count_notes(hands, aspect, gallery == "all")
        choices = {"seed": seed, "distractors": gallery == "all", "hold_out": part == "train"}
        drawn = {i: split_11k(hands, aspect, run=i, **choices) for i in range(run, run + runs)}
        rows = drawn[run]
        untrained = aspect == "all" and not any(row.split == "train" for row in rows)
        super().__init__(
            rows,
            root,
            name=f"hand_11k ({aspect})",
            absent=[SplitRow("", "", "train", view=view) for view in ASPECTS] if untrained else [],
            require_train=require_train,
            notes=notes,
            runs=drawn,
        )
        self.attributes = read_attributes(root)


class Hand(NamedTuple):
    """One usable row of ``HandInfo.csv``."""

    person: int
    aspect: str
    image: str

    @property
    def trains(self) -> bool:
        """Whether the person trains in this aspect, by the published threshold."""
        return self.person <= LAST_TRAIN_ID[self.aspect]


def read_hands(table: str | Path) -> tuple[list[Hand], list[str]]:
    """The images without accessories, and notes on what was left out.

    Ids are stripped and read as numbers: one row of the published table has ``'1200000 '``, a person of its
    own otherwise.

    Raises:
        ReIDError: naming line and column of what cannot be right.
    """
    found: dict[str, tuple[str, Hand]] = {}
    repeated = 0
    for row in read_table(table, ("id", "accessories", "aspectOfHand", "imageName")).rows:
        hand = _hand(table, row)
        if hand is None:
            continue
        place, known = found.setdefault(hand.image, (row.place, hand))
        if known != hand:
            raise ReIDError(f"{table}: {row.place}: {hand.image} was already given, with other values, at {place}.")
        repeated += place != row.place
    notes = [f"{table}: {repeated} rows are repeated and count once"] if repeated else []
    return [hand for _, hand in found.values()], notes


def read_attributes(root: Path) -> dict[str, dict[str, str]]:
    """The attributes of each image by its path; images that agree in all share one mapping."""
    shared: dict[tuple, dict[str, str]] = {}
    found = {}
    for row in read_table(root / TABLE, ("imageName",)).rows:
        known = hand_attributes(row.cells)
        found[f"{root}/{IMAGES}/{row.cells['imageName']}"] = shared.setdefault(tuple(known.items()), known)
    return found


def _hand(table: str | Path, row: Row) -> Hand | None:
    """The row's hand, or None if it wears something."""

    def cell(column: str, valid: bool, expected: str) -> str:
        if not valid:
            raise ReIDError(f"{table}: {row.place}, column {column!r}: {row.cells[column]!r} is not {expected}.")
        return row.cells[column]

    cells = row.cells
    accessories = cell("accessories", cells["accessories"] in ("0", "1"), "0 or 1")
    person = cell("id", cells["id"].isdecimal() and len(cells["id"]) < 19, "a whole number")
    aspect = cell("aspectOfHand", cells["aspectOfHand"] in ASPECTS, f"one of {', '.join(ASPECTS)}")
    image = cell("imageName", Path(cells["imageName"]).name == cells["imageName"] != "", "a file name")
    return Hand(int(person), aspect, image) if accessories == "0" else None


def split_11k(
    hands: Sequence[Hand], aspect: str, *, run: int, seed: int, distractors: bool, hold_out: bool
) -> list[SplitRow]:
    """The split as a pure function of the usable rows; see :class:`Hand11k`.

    Args:
        distractors: add the galleries of the other aspects (single aspects only).
        hold_out: put one image of each training identity into ``val``.
    """
    if aspect == "all":
        rows = []
        for view in ASPECTS:
            side = view.split()[1]
            for row in _split_aspect(hands, view, JOINT_LAST_TRAIN_ID, run, seed, hold_out):
                rows.append(row._replace(identity=f"{row.identity} {side}", view=view))
        return rows
    rows = _split_aspect(hands, aspect, LAST_TRAIN_ID[aspect], run, seed, hold_out)
    if distractors:
        for offset, other in zip(OFFSETS, _others(aspect), strict=True):
            for row in _split_aspect(hands, other, LAST_TRAIN_ID[other], run, seed, hold_out):
                if row.split == "gallery":
                    rows.append(row._replace(identity=str(int(row.identity) + offset)))
    return rows


def _split_aspect(
    hands: Iterable[Hand], aspect: str, last_train_id: int, run: int, seed: int, hold_out: bool
) -> list[SplitRow]:
    train: dict[str, list[str]] = {}
    test: dict[str, list[str]] = {}
    for hand in hands:
        if hand.aspect == aspect:
            people = train if hand.person <= last_train_id else test
            people.setdefault(f"{hand.person:07d}", []).append(f"{IMAGES}/{hand.image}")
    return [
        *take_one_each(train, "val" if hold_out else "train", "train", seed, "val", aspect),
        *take_one_each(test, "gallery", "query", seed, "gallery", run, aspect),
    ]


def _others(aspect: str) -> list[str]:
    """The three other aspects in the order of :data:`OFFSETS`."""
    face, side = aspect.split()
    other_face = "palmar" if face == "dorsal" else "dorsal"
    other_side = "left" if side == "right" else "right"
    return [f"{face} {other_side}", f"{other_face} right", f"{other_face} left"]


def _present(hands: Sequence[Hand], root: Path, notes: list[str]) -> list[Hand]:
    """The hands whose image is there."""
    images = set(scan(root / IMAGES).images) if (root / IMAGES).is_dir() else set()
    present = [hand for hand in hands if hand.image in images]
    if not present:
        raise ReIDError(f"{root / IMAGES}: has none of the {len(hands)} images of {TABLE}. {TREE}")
    if len(present) < len(hands):
        absent = [hand.image for hand in hands if hand.image not in images]
        notes.append(f"{len(absent)} of {len(hands)} images of {TABLE} are not in {IMAGES}/: {some(absent)}")
    return present


def _count_notes(hands: Sequence[Hand], aspect: str, distractors: bool) -> list[str]:
    """Notes on numbers of people and images that differ from the published ones, of the parts in use."""
    tested = ASPECTS if aspect == "all" or distractors else (aspect,)
    trained = ASPECTS if aspect == "all" else (aspect,)
    notes = []
    for part, used, trains in (("train", trained, True), ("test", tested, False)):
        for name in used:
            people = [hand.person for hand in hands if hand.aspect == name and hand.trains == trains]
            expected = PUBLISHED[name][0 if trains else 1]
            found = Size(len(set(people)), len(people))
            if found != expected:
                notes.append(f"11k Hands, {name}, {part}: expected {expected}, found {found}")
    return notes
