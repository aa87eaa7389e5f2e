"""Attributes of people and hands, and the sentences that describe them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from utils.errors import ReIDError

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from datasets.bases import ReIDDataset

Attributes = Mapping[str, str]
"""From an attribute's name to its value, in words that a sentence can take."""

TEMPLATES: dict[str, str] = {
    "gender": "A photo of the hand of a {} person.",
    "skin": "A photo of a hand with {} skin.",
    "age": "A photo of the hand of a person who is {}.",
    "side": "A photo of the {} side of a hand.",
    "hand": "A photo of a {} hand.",
    "nails": "A photo of a hand with {} nails.",
    "accessories": "A photo of a hand {} accessories.",
    "irregularities": "A photo of a hand {} irregularities.",
    "build": "A photo of a {} hand.",
    "fingers": "A photo of a hand with {} fingers.",
    "pose": "A photo of a hand with {} fingers.",
    "veins": "A photo of a hand with {} veins.",
    "lines": "A photo of a hand with {} lines.",
    "marks": "A photo of a hand with {}.",
    "table": "A photo of a hand on a {} table.",
}
"""The sentence of one attribute, which distinguishes its values."""


def hand_attributes(cells: Mapping[str, str]) -> dict[str, str]:
    """The attributes in a row of ``HandInfo.csv``; those without a column or a value are left out."""
    side, _, hand = cells.get("aspectOfHand", "").partition(" ")
    age = cells.get("age", "")
    found = {
        "person": cells.get("id", ""),
        "gender": cells.get("gender", ""),
        "skin": cells.get("skinColor", ""),
        "age": _age_group(int(age)) if age.isdecimal() else "",
        "side": side,
        "hand": hand,
        "nails": {"0": "natural", "1": "polished"}.get(cells.get("nailPolish", ""), ""),
        "accessories": {"0": "without", "1": "with"}.get(cells.get("accessories", ""), ""),
        "irregularities": {"0": "without", "1": "with"}.get(cells.get("irregularities", ""), ""),
    }
    return {name: value for name, value in found.items() if value}


def _age_group(years: int) -> str:
    return "young" if years < 30 else "middle-aged" if years < 60 else "old"


def person_phrase(attributes: Attributes) -> str:
    """Such as "female person with fair skin": what stays the same in all photos of a person."""
    skin = f" with {attributes['skin']} skin" if "skin" in attributes else ""
    return f"{attributes.get('gender', '')} person{skin}".strip()


def hand_sentence(attributes: Attributes) -> str:
    """Such as "A photo of the palmar side of the left hand of a female person with fair skin."."""
    side = f"the {attributes['side']} side of " if "side" in attributes else ""
    hand = f"the {attributes.get('hand', '')} hand".replace("  ", " ")
    extras = ["polished nails"] if attributes.get("nails") == "polished" else []
    extras += [name for name in ("accessories", "irregularities") if attributes.get(name) == "with"]
    worn = f", with {' and '.join(extras)}" if extras else ""
    return f"A photo of {side}{hand} of a {person_phrase(attributes)}{worn}."


def class_names(cfg: CfgNode, dataset: ReIDDataset) -> Sequence[str]:
    """What the training identities are called in a sentence, in the order of their labels (``MODEL.COOP.NAMES``).

    Raises:
        ReIDError: attributes are needed and a person has none.
    """
    if cfg.MODEL.COOP.NAMES == "identity":
        return dataset.train_identities
    names: dict[int, str] = {}
    for record in dataset.train:
        known = dataset.attributes.get(record.path, {})
        if "gender" in known or "skin" in known:
            names.setdefault(record.pid, person_phrase(known))
    lost = [name for pid, name in enumerate(dataset.train_identities) if pid not in names]
    if lost:
        raise ReIDError(
            f"MODEL.COOP.NAMES = attributes: {dataset.name} gives neither gender nor skin of {len(lost)} of "
            f"{dataset.num_train_pids} training identities, first {lost[0]}. Set it to identity."
        )
    return [names[pid] for pid in range(dataset.num_train_pids)]
