"""A split for photographs that have none yet: folders of identities, divided by person and by chance."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets.bases import some
from datasets.parsing.folders import note_lost, note_others, scan
from datasets.parsing.splits import SplitRow, take_one_each
from utils.errors import ReIDError
from utils.text_files import nfc


def read_identities(root: str | Path) -> tuple[dict[str, list[str]], list[str]]:
    """Image paths relative to ``root``, by identity: the name of the folder; and notes on what was left out.

    Raises:
        ReIDError: there are no folders with images.
    """
    root = Path(root)
    content = scan(root)
    notes = note_others(content.others, str(root))
    if content.images:
        notes.append(f"{root}: {len(content.images)} images lie in no identity's folder: {some(content.images)}")
    images: dict[str, list[str]] = {}
    lost: dict[str, list[str]] = {}
    deeper: list[str] = []
    for identity in content.folders:
        inner = scan(root / identity)
        notes += note_others(inner.others, identity)
        deeper += [f"{identity}/{name}" for name in inner.folders]
        if inner.images:
            images.setdefault(nfc(identity), []).extend(f"{identity}/{name}" for name in inner.images)
        else:
            lost[identity] = inner.others
    notes += note_lost(lost, str(root))
    if deeper:
        notes.append(f"{len(deeper)} folders inside identity folders are not read: {some(deeper)}")
    if not images:
        found = some(content.folders) or "no folders"
        raise ReIDError(f"{root}: no images found in folders of their own (found: {found}). Expected <identity>/*.jpg.")
    return images, notes


def propose_split(
    images: Mapping[str, Sequence[str]], seed: int, separator: str = "", hold_out: bool = False
) -> list[SplitRow]:
    """Half of the people train, the others test; one random image of each test identity is the gallery.

    This is the protocol of the hand papers. The choice depends on seed and names alone: it is the same everywhere.
    A person is what stands before the first ``separator`` in an identity's name (``007`` of ``007_left``), so that
    both hands of a person are on one side; without a separator every identity is a person of its own. Test identities
    with a single image are in the gallery only, where they distract.

    Args:
        images: paths by identity.
        seed: another one gives another split.
        separator: empty, or for example ``_``.
        hold_out: put one image of each training identity that has several into ``val``.

    Raises:
        ReIDError: fewer than four people.
    """
    person_of = {identity: identity.split(separator)[0] if separator else identity for identity in images}
    people = sorted(set(person_of.values()), key=lambda person: hashlib.sha256(repr((seed, person)).encode()).digest())
    if len(people) < 4:
        raise ReIDError(f"{len(people)} people ({some(sorted(people))}) cannot be split: two must train and two test.")
    training = set(people[: len(people) // 2])
    train = {identity: paths for identity, paths in images.items() if person_of[identity] in training}
    test = {identity: paths for identity, paths in images.items() if identity not in train}
    held = {identity: paths for identity, paths in train.items() if hold_out and len(paths) > 1}
    rows = [SplitRow(path, identity, "train") for identity in train.keys() - held for path in train[identity]]
    rows += take_one_each(held, "val", "train", seed, "val")
    return sorted([*rows, *take_one_each(test, "gallery", "query", seed, "gallery", 0)])
