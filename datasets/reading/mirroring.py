"""Mirror images: a mirrored left hand looks like a right one, by mistake in augmentation or on purpose.

``INPUT.MIRROR`` names what is mirrored in training and in every use of the model, so that one model serves both hands
and left hands can be compared with right ones. Identities stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from typing import TYPE_CHECKING

from datasets.bases import some
from datasets.parsing.attributes import named_attributes
from utils.errors import ReIDError
from utils.files.text_files import nfc
from utils.words import number_of

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
    """A note where left and right are identities, or views that the model reads, and images are mirrored."""
    trained = dataset.train_identities if dataset.require_train else []
    found = {"INPUT.PROB": cfg.INPUT.PROB, "TEST.FLIP": cfg.TEST.FLIP}
    mirrored = [key for key, on in found.items() if on and (key != "INPUT.PROB" or dataset.require_train)]
    pair = both_sides(trained) or both_sides(dataset.test_identities) or _hands_of_a_person(dataset)
    kind = "identities"
    if not pair and cfg.MODEL.SIE_VIEW:
        pair, kind = both_sides({known.get("view", "") for known in dataset.attributes.values()}), "views"
    if not (mirrored and pair):
        return []
    keys = " and ".join(f"{key} = {found[key]}" for key in mirrored)
    return [
        f"{pair[0]} and {pair[1]} are two {kind}, and {keys} shows one as the other's mirror image. Set "
        f"{' and '.join('INPUT.PROB to 0.0' if key == 'INPUT.PROB' else 'TEST.FLIP to False' for key in mirrored)}."
    ]


def _hands_of_a_person(dataset: ReIDDataset) -> tuple[str, str] | None:
    """Identities of a left and a right hand of one person, by their attributes; None if no person has both."""
    for records, identities in (
        (dataset.train if dataset.require_train else [], dataset.train_identities),
        (dataset.test_images, dataset.test_identities),
    ):
        hands: dict[tuple[str, str], set[int]] = {}
        for record in records:
            known = dataset.attributes.get(record.path, {})
            if "person" in known and "hand" in known:
                hands.setdefault((known["person"], known["hand"]), set()).add(record.pid)
        for (person, hand), pids in hands.items():
            others = hands.get((person, "right"), set())
            if hand == "left" and others and not pids & others:
                return identities[min(pids)], identities[min(others)]
    return None


def mirrored_images(mirror: str, dataset: ReIDDataset) -> frozenset[str]:
    """Paths of the images of ``dataset`` that ``INPUT.MIRROR`` names.

    Args:
        mirror: ``left``, ``right``, a view, or several words that an image must have, ``dorsal left``; alternatives are
            separated by commas. ``all`` and ``none`` need no attributes.
        dataset: its attributes ``hand``, ``side`` and ``view`` are read.

    Raises:
        ReIDError: no image is mirrored, or it is not known of some images which hand they show.
    """
    records = (*dataset.train, *dataset.val, *dataset.test_images)
    paths = dict.fromkeys(record.path for record in records)
    if _whole(mirror) is not None:
        return frozenset(paths) if _whole(mirror) else frozenset()
    words = {path: _words(dataset.attributes.get(path, {})) for path in paths}
    unknown = [path for path, known in words.items() if _needs_hand(mirror) and not known & _HANDS]
    if unknown:
        raise ReIDError(
            f"INPUT.MIRROR = {mirror!r}: {dataset.name} does not say which hand {number_of(len(unknown), 'image')} of "
            f"{len(paths)} show: {some(unknown)}. Name it: group side of DATASETS.PATTERN, or column hand of a listing."
        )
    mirrored = frozenset(path for path, known in words.items() if _is_named(mirror, known))
    if not mirrored:
        there = sorted({word for known in words.values() for word in known})
        raise ReIDError(
            f"INPUT.MIRROR = {mirror!r}: none of the {len(paths)} images of {dataset.name} has this label; found: "
            f"{some(there) or 'none'}."
        )
    return mirrored


class MirroredByName(Container[str]):
    """Loose images: those whose names, by ``DATASETS.PATTERN``, are what ``INPUT.MIRROR`` says.

    The expression may match the end of a path, as images lie elsewhere than in training. Asking for an image whose name
    it does not match raises :class:`ReIDError`: to leave it as it is might compare a left hand with a right one.
    """

    def __init__(self, mirror: str, pattern: str) -> None:
        self.mirror = mirror
        self.expression = re.compile(nfc(pattern)) if pattern else None

    def __contains__(self, path: object) -> bool:
        if _whole(self.mirror) is not None:
            return bool(_whole(self.mirror))
        words = _words(named_attributes(self._groups(nfc(str(path)).replace("\\", "/"))))
        if not words or (_needs_hand(self.mirror) and not words & _HANDS):
            raise ReIDError(
                f"INPUT.MIRROR = {self.mirror!r}, and the name of {path} does not say what it shows. Set "
                "DATASETS.PATTERN to an expression with a group side (or view) that the names match, or "
                "INPUT.MIRROR to all or none here."
            )
        return _is_named(self.mirror, words)

    def _groups(self, path: str) -> Mapping[str, str]:
        parts = path.split("/") if self.expression else []
        for depth in range(len(parts)):
            if match := self.expression.fullmatch("/".join(parts[depth:])):
                return {name: value for name, value in match.groupdict().items() if value}
        return {}


_HANDS = frozenset({"left", "right"})


def _whole(mirror: str) -> bool | None:
    """True for all images, False for none, None where it depends on the image."""
    return {"": False, "none": False, "all": True}.get(mirror.strip().lower())


def _needs_hand(mirror: str) -> bool:
    return bool(_HANDS & set(re.split(r"[\s,]+", mirror.lower())))


def _words(attributes: Mapping[str, str]) -> frozenset[str]:
    """What an image shows in words: its hand, its side and its view."""
    shown = " ".join(attributes.get(name, "") for name in ("hand", "side", "view"))
    return frozenset(shown.lower().split())


def _is_named(mirror: str, words: Iterable[str]) -> bool:
    return any(set(part.split()) <= set(words) for part in mirror.lower().split(",") if part.strip())
