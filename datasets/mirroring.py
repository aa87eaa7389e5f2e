"""Mirror images where both sides of a body are told apart: a mirrored left hand looks like a right one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from datasets.bases import ReIDDataset

SIDE = re.compile(r"(?<![a-z])(left|right|l|r)(?![a-z])", re.IGNORECASE)
"""A side as a word of its own in the name of an identity: ``12 left``, ``001_right_index``, ``007_l``."""


def both_sides(identities: Iterable[str]) -> tuple[str, str] | None:
    """Two identities whose names differ in the side alone, None if there are none."""
    known: dict[str, tuple[str, str]] = {}
    for identity in sorted(identities):
        for word in SIDE.finditer(identity):
            side = word[0].lower()[0]
            key = f"{identity[: word.start()]}*{identity[word.end() :]}"
            other = known.setdefault(key, (side, identity))
            if other[0] != side:
                return other[1], identity
    return None


def mirroring_notes(cfg: CfgNode, dataset: ReIDDataset) -> list[str]:
    """A note where the left and the right side of a person are identities and images are mirrored all the same."""
    trained = dataset.train_identities if dataset.require_train else []
    found = {"INPUT.PROB": cfg.INPUT.PROB, "TEST.FLIP": cfg.TEST.FLIP}
    mirrored = [key for key, on in found.items() if on and (key != "INPUT.PROB" or dataset.require_train)]
    pair = both_sides(trained) or both_sides(dataset.test_identities)
    if not (mirrored and pair):
        return []
    keys = " and ".join(f"{key} = {found[key]}" for key in mirrored)
    return [
        f"{pair[0]} and {pair[1]} are two identities, and {keys} shows one as the other's mirror image. Set "
        f"{' and '.join('INPUT.PROB to 0.0' if key == 'INPUT.PROB' else 'TEST.FLIP to False' for key in mirrored)}."
    ]
