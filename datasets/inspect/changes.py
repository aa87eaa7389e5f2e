"""What ``datasets.inspect`` changes before it writes a listing: copies are left out, people go to ``val``."""

from __future__ import annotations

from collections.abc import Mapping

from datasets.bases import ReIDDataset
from datasets.inspect.fingerprints import Fingerprint
from datasets.parsing.draws import shuffled
from datasets.parsing.splits import SplitDataset, split_of
from utils.errors import ReIDError


def copies_to_drop(dataset: ReIDDataset, found: Mapping[str, Fingerprint]) -> dict[str, str]:
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


def with_validation_people(dataset: ReIDDataset, share: float, seed: int, separator: str = "") -> SplitDataset:
    """The same split with a share of the training people, all their images, in ``val``.

    A person is who the data set says, or what stands before ``separator`` in an identity's name, or the identity.

    Raises:
        ReIDError: fewer than two people would validate, or train.
    """
    rows = split_of(dataset, dataset.root)

    def person(identity: str, attributes: tuple[tuple[str, str], ...]) -> str:
        named = dict(attributes).get("person")
        return named or (identity.split(separator)[0] if separator else identity)

    people = {row.path: person(row.identity, row.attributes) for row in rows}
    training = sorted({people[row.path] for row in rows if row.split == "train"})
    held = set(shuffled(training, seed, "val")[: round(share * len(training))])
    if len(held) < 2 or len(training) - len(held) < 2:
        found = f"{len(held)} of {len(training)} training people would validate"
        raise ReIDError(f"--val-people {share:g}: {found}; at least two must, and two must train.")
    moved = [row._replace(split="val") if row.split == "train" and people[row.path] in held else row for row in rows]
    kinds = {"name": dataset.name, "camera_rule": dataset.camera_rule, "protocol": dataset.protocol}
    changed = SplitDataset(moved, dataset.root, notes=dataset.notes, **kinds)
    changed.reading = dataset.reading
    return changed
