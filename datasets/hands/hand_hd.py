"""HD: backs of hands of the Hong Kong Polytechnic University, with the published protocol."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets.bases import require_folder, some
from datasets.parsing.folders import find_root, note_others, scan
from datasets.parsing.published import Size
from datasets.parsing.splits import SplitDataset, SplitRow, require_run, take_one_each
from utils.errors import ReIDError, require_choice
from utils.words import number_of

TREE = (
    "Expected: 'Original Images/1-501/<id>_<number>.jpg' and 'Original Images/502-712/<id>_<number>.jpg'. "
    "HD is available from the Hong Kong Polytechnic University, www4.comp.polyu.edu.hk/~csajaykr/knuckleV2.htm."
)
WITHOUT = "With DATASETS.GALLERY 'aspect' the second folder is not needed."
PEOPLE, STRANGERS = "Original Images/1-501", "Original Images/502-712"
LAST_TRAIN_ID = 447
STRANGER_OFFSET = 1000
PUBLISHED = {"train": Size(251, 2407), "test": Size(251, 2243), "distractor": Size(213, 1342)}


class HandHD(SplitDataset):
    """Hand Dorsal images (HD, "knuckle v2") of the Hong Kong Polytechnic University.

    Reference: A. Kumar and Z. Xu, "Personal identification using minor knuckle patterns from palm dorsal
    surface", IEEE Transactions on Information Forensics and Security, 2016.
    Page: http://www4.comp.polyu.edu.hk/~csajaykr/knuckleV2.htm. Terms: on request, academic research only.
    Protocol: MBA-Net, arXiv 2108.02234.

    ============ ========== ====== =====================================
    part         identities images
    ============ ========== ====== =====================================
    train        251        2,407  ids up to 447
    test         251        2,243  the other ids of ``1-501``
    distractors  213        1,342  ``502-712``, ids raised by 1,000
    ============ ========== ====== =====================================

    ::

        <root>/Original Images/1-501/<id>_<number>.jpg
        <root>/Original Images/502-712/<id>_<number>.jpg

    In run i the gallery has one random image of each test id (251) and all distractor images: 1,593 images of
    464 ids. The 1,992 other test images are the queries. Published figures are means over runs 0 to 9; which
    images were drawn was not published; here ``seed`` and ``run`` decide. No camera rule.

    Args:
        root: the folder above ``Original Images``, or the one above that if it is called ``HD``.
        run: number of the random choice of gallery images.
        runs: how many choices to evaluate, from ``run`` on.
        seed: seed of all random choices.
        gallery: ``"all"`` as published, or ``"aspect"`` for a gallery without distractors.
        part: ``"train_all"``, or ``"train"`` to hold a random image of each training id (251) out as
            ``self.val``.
        require_train: False where only a test is wanted.

    Raises:
        ReIDError: folders or images are missing, or an argument is out of range.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        run: int = 0,
        runs: int = 1,
        seed: int = 0,
        gallery: str = "all",
        part: str = "train_all",
        require_train: bool = True,
    ) -> None:
        require_choice("DATASETS.GALLERY", gallery, ("all", "aspect"))
        require_choice("part", part, ("train_all", "train"))
        require_run(run)
        root = find_root(root, PEOPLE, ("HD", "hd"), TREE)
        notes: list[str] = []
        people = _read(root, PEOPLE, notes)
        distractors = _read(root, STRANGERS, notes) if gallery == "all" else {}
        parts = {
            "train": {i: paths for i, paths in people.items() if i <= LAST_TRAIN_ID},
            "test": {i: paths for i, paths in people.items() if i > LAST_TRAIN_ID},
            "distractor": distractors,
        }
        for name, members in parts.items():
            found = Size(len(members), sum(map(len, members.values())))
            if found != PUBLISHED[name] and (name != "distractor" or gallery == "all"):
                notes.append(f"HD, {name}: expected {PUBLISHED[name]}, found {found}")
        choices = {"seed": seed, "hold_out": part == "train"}
        drawn = {i: split_hd(people, distractors, run=i, **choices) for i in range(run, run + runs)}
        super().__init__(drawn[run], root, name="hand_hd", require_train=require_train, notes=notes, runs=drawn)


def split_hd(
    people: Mapping[int, Sequence[str]],
    distractors: Mapping[int, Sequence[str]],
    *,
    run: int,
    seed: int,
    hold_out: bool,
) -> list[SplitRow]:
    """The published split as a pure function of the image paths by id; see :class:`HandHD`."""
    train = {f"{i:04d}": paths for i, paths in people.items() if i <= LAST_TRAIN_ID}
    test = {f"{i:04d}": paths for i, paths in people.items() if i > LAST_TRAIN_ID}
    return [
        *take_one_each(train, "val" if hold_out else "train", "train", seed, "val"),
        *take_one_each(test, "gallery", "query", seed, "gallery", run),
        *(SplitRow(p, f"{i + STRANGER_OFFSET:04d}", "gallery") for i, paths in distractors.items() for p in paths),
    ]


def _read(root: Path, folder: str, notes: list[str]) -> dict[int, list[str]]:
    """Image paths, relative to ``root``, by id in ascending order."""
    content = scan(require_folder(root / folder, f"{TREE} {WITHOUT}"), {".jpg"})
    people: dict[int, list[str]] = {}
    unnamed = []
    for name in content.images:
        match = re.match(r"(\d+)_", name)
        if match:
            people.setdefault(int(match[1]), []).append(f"{folder}/{name}")
        else:
            unnamed.append(name)
    if not people:
        raise ReIDError(f"{root / folder}: no image called <id>_<number>.jpg. {TREE}")
    if unnamed:
        notes.append(
            f"{folder}: {number_of(len(unnamed), 'image is', 'images are')} not called <id>_<number>.jpg: "
            f"{some(unnamed)}"
        )
    notes += note_others(content.others, folder)
    return dict(sorted(people.items()))
