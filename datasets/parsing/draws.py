"""Repeated splits for one's own data: other enrolled images, folds over people, a share of the training set."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import NamedTuple

from datasets.bases import ReIDDataset, some
from datasets.parsing.splits import SplitRow, require_run, take_one_each
from utils.errors import ReIDError
from utils.files.text_files import nfc


class Draws(NamedTuple):
    """Which random splits are wanted.

    Attributes:
        run: number of the first one.
        runs: how many; 1 without folds leaves the split as it is.
        seed: of all choices.
        fold: which of the groups of people is tested.
        folds: number of groups; 0: no folds.
        separator: what follows the person in an identity's name (``_`` of ``007_left``), where the data do not name
            persons; empty: each identity is a person.
    """

    run: int = 0
    runs: int = 1
    seed: int = 0
    fold: int = 0
    folds: int = 0
    separator: str = ""


def draw(rows: Sequence[SplitRow], draws: Draws) -> dict[int | None, list[SplitRow]]:
    """Splits of the images in ``rows`` by the number of the random choice; the split itself where none is wanted.

    Without folds people stay where they are, and of each test identity as many images are enrolled as in ``rows``.
    With folds the test people are those of one group, one random image of each of their identities is enrolled, and all
    other people train.

    Raises:
        ReIDError: fewer than two people for each fold.
    """
    require_run(draws.run)
    if not draws.folds and draws.runs == 1:
        return {None: list(rows)}
    runs = range(draws.run, draws.run + draws.runs)
    if draws.folds:
        return {run: _fold(rows, draws, run) for run in runs}
    return {run: _redraw(rows, draws.seed, run) for run in runs}


def shuffled(names: Sequence[str], *key: object) -> list[str]:
    """``names`` in an order that depends on each name and ``key`` alone: another name moves no two of the others."""
    return sorted(names, key=lambda name: hashlib.sha256(repr((*key, nfc(name))).encode(errors="replace")).digest())


def _redraw(rows: Sequence[SplitRow], seed: int, run: int) -> list[SplitRow]:
    tested: dict[str, list[SplitRow]] = {}
    for row in rows:
        if row.split in ("query", "gallery"):
            tested.setdefault(row.identity, []).append(row)
    drawn = [row for row in rows if row.split not in ("query", "gallery")]
    for identity, images in tested.items():
        enrolled = sum(row.split == "gallery" for row in images)
        chosen = set(shuffled([row.path for row in images], seed, "gallery", run, identity)[:enrolled])
        drawn += [row._replace(split="gallery" if row.path in chosen else "query") for row in images]
    return drawn


def _fold(rows: Sequence[SplitRow], draws: Draws, run: int) -> list[SplitRow]:
    people = shuffled(sorted({_person(row, draws.separator) for row in rows}), draws.seed, "fold")
    if len(people) < 2 * draws.folds:
        found = f"{len(people)} people ({some(sorted(people))})"
        raise ReIDError(f"DATASETS.FOLDS = {draws.folds}: {found} are fewer than two for each fold. Set fewer folds.")
    tested = set(people[draws.fold :: draws.folds])
    images = {row.path: row for row in rows}
    test: dict[str, list[str]] = {}
    for path, row in images.items():
        if _person(row, draws.separator) in tested:
            test.setdefault(row.identity, []).append(path)
    trained = [
        row._replace(split="val" if row.split == "val" else "train")
        for row in images.values()
        if _person(row, draws.separator) not in tested
    ]
    tested = take_one_each(test, "gallery", "query", draws.seed, "gallery", run)
    return [*trained, *(images[row.path]._replace(split=row.split) for row in tested)]


def _person(row: SplitRow, separator: str) -> str:
    named = dict(row.attributes).get("person")
    return named or (row.identity.split(separator)[0] if separator else row.identity)


def keep_fraction(dataset: ReIDDataset, share: float, by: str, seed: int) -> str:
    """Leave all but a ``share`` of the training set out of training; returns what was kept, as a note.

    A larger share holds all that a smaller one of the same seed does. By ``ids`` whole identities are drawn, their
    images of ``val`` included; by ``images`` each identity keeps that share of its images, at least one.

    Raises:
        ReIDError: too few identities are left to train.
    """
    names = dataset.train_identities
    before = len(dataset.train)
    if by == "ids":
        kept = set(shuffled(names, seed, "fraction")[: round(share * len(names))])
        gone = {r.path for r in (*dataset.train, *dataset.val) if dataset.val_identities[r.pid] not in kept}
    else:
        images: dict[int, list[str]] = {}
        for record in dataset.train:
            images.setdefault(record.pid, []).append(record.path)
        gone = {
            path for pid, paths in images.items() for path in _surplus(paths, share, (seed, "fraction", names[pid]))
        }
    dataset.leave_out(gone, training=True)
    return (
        f"DATASETS.TRAIN_FRACTION {share:g} of the {by} (seed {seed}): {len(dataset.train)} of {before} images of "
        f"{dataset.num_train_pids} of {len(names)} identities train"
    )


def _surplus(paths: Sequence[str], share: float, key: tuple) -> list[str]:
    """The images of one identity that do not train; their folders above the last two parts do not matter."""
    named: Mapping[str, str] = {"/".join(PurePath(path).parts[-2:]): path for path in paths}
    return [named[name] for name in shuffled(list(named), *key)[max(1, round(share * len(paths))) :]]
