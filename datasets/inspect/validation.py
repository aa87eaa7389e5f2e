"""People who train are moved to ``val``, where a data set holds nobody out."""

from __future__ import annotations

from datasets.bases import ReIDDataset
from datasets.parsing.draws import shuffled
from datasets.parsing.splits import SplitDataset, split_of
from utils.errors import ReIDError


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
