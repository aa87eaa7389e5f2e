"""PolyU FKP: finger knuckles taken in two sessions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

from datasets.bases import require_folder, some
from datasets.parsing.folders import note_others, scan
from datasets.parsing.splits import SplitDataset, SplitRow
from utils.errors import ReIDError
from utils.words import number_of

TREE = (
    "Expected: <person>_<left|right>_<index|middle>/<number>ROI.jpg, for example 001_left_index/01ROI.jpg. "
    "PolyU FKP is available from the Hong Kong Polytechnic University, "
    "www4.comp.polyu.edu.hk/~biometrics/FKP.htm."
)
LAST_TRAIN_PERSON = 83
LAST_OF_SESSION_1 = 6
_FINGER = re.compile(r"(\d{3})_(left|right)[_ ](index|middle)")
_IMAGE = re.compile(r"(\d{2})ROI\.jpg", re.IGNORECASE)


class PolyUFKP(SplitDataset):
    """Finger-Knuckle-Print regions of interest (FKP) of the Hong Kong Polytechnic University.

    Reference: L. Zhang, L. Zhang, D. Zhang and H. Zhu, "Online finger-knuckle-print verification for personal
    authentication", Pattern Recognition 43(7), 2010.
    Page: http://www4.comp.polyu.edu.hk/~biometrics/FKP.htm. Terms: academic, non-commercial use only. 660
    fingers of 165 persons, grey images of 220x110 pixels, 7,920 as described, 7,880 in the copy counted here:

    ============ ======= ====== =====================================
    split        fingers images
    ============ ======= ====== =====================================
    train        332     3,961  persons 001 to 083, both sessions
    query        328     1,967  persons 084 to 165, session 2
    gallery      328     1,952  persons 084 to 165, session 1
    ============ ======= ====== =====================================

    ::

        <root>/001_left_index/01ROI.jpg      01 to 06: session 1; 07 to 12: session 2, about 25 days later

    Protocol (ours, there is no published one for re-identification): an identity is a finger, and fingers of
    one person are different identities. No person is in both train and test, and a query is never compared
    with images of its own session. The session is the camera, so the camera rule makes no difference.

    Args:
        root: the folder of the finger folders, or the one above it if that is called ``polyu_fkp_roi``.
        require_train: False where only a test is wanted.
        camera_rule: ``"none"`` or ``"market"``.

    Raises:
        ReIDError: no finger folders, or one of the sessions is missing.
    """

    prompt: ClassVar[str] = "A photo of a {} finger knuckle."

    def __init__(self, root: str | Path, *, require_train: bool = True, camera_rule: str = "none") -> None:
        root = require_folder(Path(root), f"Set DATASETS.ROOT_DIR. {TREE}")
        if (root / "polyu_fkp_roi").is_dir():
            root = root / "polyu_fkp_roi"
        content = scan(root)
        notes = note_others(content.others, str(root))
        fingers = {name: match for name in content.folders if (match := _FINGER.fullmatch(name))}
        if not fingers:
            found = some(content.folders) or "no folders"
            raise ReIDError(f"{root}: no finger folders (found: {found}). {TREE}")
        if len(fingers) < len(content.folders):
            foreign = [name for name in content.folders if name not in fingers]
            notes.append(
                f"{number_of(len(foreign), 'folder is', 'folders are')} not called like 001_left_index: {some(foreign)}"
            )
        rows = [row for name, match in fingers.items() for row in _finger(root, name, match, notes)]
        super().__init__(
            rows,
            root,
            name="polyu_fkp",
            camera_rule=camera_rule,
            require_train=require_train,
            notes=notes,
        )


def _finger(root: Path, folder: str, match: re.Match[str], notes: list[str]) -> list[SplitRow]:
    """The rows of one finger's folder."""
    content = scan(root / folder)
    rows, foreign = [], content.others + content.folders
    for name in content.images:
        number = _IMAGE.fullmatch(name)
        if not number:
            foreign.append(name)
            continue
        session = 1 if int(number[1]) <= LAST_OF_SESSION_1 else 2
        test = "gallery" if session == 1 else "query"
        split = "train" if int(match[1]) <= LAST_TRAIN_PERSON else test
        known = {"person": match[1], "hand": match[2], "finger": match[3], "session": str(session)}
        path, identity = f"{folder}/{name}", "_".join(match.groups())
        rows.append(SplitRow(path, identity, split, f"session {session}", attributes=tuple(known.items())))
    if foreign:
        notes.append(f"{folder}: {number_of(len(foreign), 'file')} not called like 01ROI.jpg: {some(foreign)}")
    return rows
