"""Pictures that occur twice in a data set: under two identities, as query and in the gallery, in training and test."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from datasets.bases import ReIDDataset, some
from datasets.inspect.checks import Splits
from datasets.inspect.fingerprints import NEAR_IDENTICAL, Fingerprint, similar_pairs
from datasets.inspect.report import Report
from utils.words import number_of

NAMED = 5
"""Pairs of near-identical pictures that are named."""

Place = tuple[str, str, str]
"""Split, identity and path of an image."""


def drop_copies(report: Report, dataset: ReIDDataset, found: Mapping[str, Fingerprint]) -> None:
    """Leave copies out of the data set, each named with the file that stays."""
    dropped = _copies_to_drop(dataset, found)
    report.fact(f"{number_of(len(dropped), 'copy is', 'copies are')} left out")
    for path, stays in dropped.items():
        report.fact(f"left out: {_short(path, dataset.root)}, which equals {_short(stays, dataset.root)}")
    if dropped:
        dataset.leave_out(dropped)


def _copies_to_drop(dataset: ReIDDataset, found: Mapping[str, Fingerprint]) -> dict[str, str]:
    """Files that equal another file of the data set, with the one that stays.

    Of equal files the one of ``train`` stays, else of ``val``, of the gallery, of the queries; of one split, the first.
    """
    stays: dict[bytes, str] = {}
    dropped = {}
    for records in (dataset.train, dataset.val, dataset.gallery, dataset.query):
        for record in records:
            if record.path in found:
                first = stays.setdefault(found[record.path].digest, record.path)
                if first != record.path:
                    dropped[record.path] = first
    return dropped


def check_copies(report: Report, dataset: ReIDDataset, splits: Splits, found: Mapping[str, Fingerprint]) -> None:
    """Equal files under two identities, or as a query and in the gallery."""
    places: dict[bytes, list[Place]] = defaultdict(list)
    for split, (records, identities) in splits.items():
        for record in records:
            if record.path in found:
                places[found[record.path].digest].append((split, identities[record.pid], record.path))
    copies = [same for same in places.values() if len({path for _, _, path in same}) > 1]
    two = [same for same in copies if len({identity for _, identity, _ in same}) > 1]
    named_twice = [_pair(same, dataset.root, lambda place: place[1]) for same in two]
    if named_twice:
        report.warn(
            f"{number_of(len(named_twice), 'picture is', 'pictures are')} filed under two identities: "
            f"{some(named_twice)}"
        )
    tested = [[place for place in same if place[0] in ("query", "gallery")] for same in copies]
    found_by = [same for same in tested if len({split for split, *_ in same}) == 2 and len({p for *_, p in same}) > 1]
    finds_itself = [_pair(same, dataset.root, lambda place: place[0]) for same in found_by]
    if finds_itself:
        report.problem(
            f"{number_of(len(finds_itself), 'query is', 'queries are')} in the gallery too: {some(finds_itself)}"
        )
    within = sum(len(same) - len({split for split, *_ in same}) for same in copies)
    if within:
        report.warn(f"{number_of(within, 'copy', 'copies')} of another file of the same split")


def _pair(same: Sequence[Place], root: Path, kind: Callable[[Place], str]) -> str:
    """Two of the equal files that differ in their ``kind``: identity, or query and gallery."""
    for one, other in itertools.combinations(same, 2):
        if kind(one) != kind(other) and one[2] != other[2]:
            first, second = sorted((one, other), key=lambda place: place[0] != "query")
            return f"{_short(first[2], root)} = {_short(second[2], root)}"
    return " = ".join(_short(path, root) for path in list(dict.fromkeys(path for *_, path in same))[:2])


def check_leaks(report: Report, splits: Splits, found: Mapping[str, Fingerprint]) -> None:
    """Training pictures among the test pictures: identical files are problems, near-duplicates are listed."""
    train, test = (
        list(dict.fromkeys(r.path for name in names for r in splits[name][0] if r.path in found))
        for names in (("train", "val"), ("query", "gallery"))
    )
    enrolled = set(train)  # gallery images of a closed protocol, which were reported above
    test = [path for path in test if path not in enrolled]
    if not train or not test:
        return
    of_digest: dict[bytes, str] = {found[path].digest: path for path in train}
    equal = [(of_digest[found[path].digest], path) for path in test if found[path].digest in of_digest]
    cells = [np.stack([found[path].cells for path in paths]) for paths in (train, test)]
    near, count = [], 0  # uniform pictures give many pairs: only some are kept
    for i, j, value in similar_pairs(*cells, NEAR_IDENTICAL):
        if found[train[i]].digest != found[test[j]].digest:
            count += 1
            near += [f"{train[i]} and {test[j]} ({value:.4f})"] if count <= NAMED else []
    if equal:
        report.problem(f"{len(equal)} test pictures are training pictures: {some([' = '.join(two) for two in equal])}")
    if near:
        listed = some(near, NAMED, count)
        report.warn(f"{count} pairs of a train and a test picture are near-identical (1: the same): {listed}")
    if not equal and not near:
        report.fact(f"no picture of train is near-identical to one of the test ({len(train)} x {len(test)} compared)")


def _short(path: str, root: Path) -> str:
    return path.removeprefix(f"{root}/")
