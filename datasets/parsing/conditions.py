"""Which images a role of a protocol takes, by values of the groups of their names: ``{session: 1, sample: 1-3}``."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

import yaml

from datasets.bases import some
from utils.errors import ReIDError
from utils.files.text_files import nfc

EXAMPLE = "for example {session: 1, sample: 1-3}, {person: 1-150}, {side: [l, L]} or {person: 50%}"

_RANGE = re.compile(r"(\d+)\s*-\s*(\d+)")
_SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*%")


class Condition(NamedTuple):
    """Allowed values of one group: texts, ranges of numbers, and shares of the values that there are."""

    group: str
    items: tuple[str, ...]


def read_conditions(key: str, text: str, groups: Collection[str]) -> list[Condition]:
    """The conditions in ``text``, a YAML mapping from group to value, range, share or a list of them.

    Args:
        key: the configuration key, for messages.
        text: empty for no condition.
        groups: names that may be used.

    Raises:
        ReIDError: the text is no such mapping, it names another group, or a range or share cannot be.
    """
    text = nfc(text)  # as the groups of names are
    if not text.strip():
        return []
    try:
        mapping = yaml.load(text if text.lstrip().startswith("{") else f"{{{text}}}", yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError):
        mapping = None
    if not isinstance(mapping, dict) or not all(isinstance(group, str) for group in mapping):
        raise ReIDError(f"{key} = {text!r} is not read: expected groups with their values, {EXAMPLE}.")
    conditions = []
    for group, value in mapping.items():
        if group not in groups:
            known = ", ".join(sorted(groups)) or "none"
            raise ReIDError(f"{key} = {text!r}: DATASETS.PATTERN has no group {group!r}; its groups are {known}.")
        items = value if isinstance(value, list) else re.split(r"\s*,\s*", value) if isinstance(value, str) else [None]
        if not items or not all(isinstance(item, str) and item for item in items):
            raise ReIDError(f"{key} = {text!r}: {group} has no value; expected one value or a list, {EXAMPLE}.")
        for item in items:
            _check(key, group, item)
        conditions.append(Condition(group, tuple(items)))
    return conditions


def _check(key: str, group: str, item: str) -> None:
    bounds, share = _RANGE.fullmatch(item), _SHARE.fullmatch(item)
    if bounds and int(bounds[1]) > int(bounds[2]):
        raise ReIDError(f"{key}: {group}: {item} ends before it begins; write {bounds[2]}-{bounds[1]}.")
    if share and not 0 < float(share[1]) < 100:
        raise ReIDError(f"{key}: {group}: {item} must lie between 0% and 100%.")


def matcher(
    key: str, conditions: Iterable[Condition], images: Collection[Mapping[str, str]], seed: int
) -> Callable[[Mapping[str, str]], bool]:
    """Whether an image, given by the text of its groups, fulfils all conditions.

    Args:
        key: the configuration key, for messages.
        images: all images there are: a share is one of their values, and a value that none of them has is an error.
        seed: of the choice of a share. It depends on the values alone, not on the machine.

    Raises:
        ReIDError: no image has any of a condition's values.
    """
    allowed: dict[str, frozenset[str]] = {}
    for group, items in conditions:
        values = {image[group] for image in images if group in image}
        chosen = frozenset().union(*(_chosen(item, values, group, seed) for item in items))
        if not chosen:
            raise ReIDError(
                f"{key}: {group}: {', '.join(items)}: none of the {len(images)} images has it; {group} is one of "
                f"{some(sorted(values, key=_by_value), 8) or 'no values at all'}."
            )
        allowed[group] = chosen
    return lambda image: all(image.get(group) in values for group, values in allowed.items())


def _chosen(item: str, values: Collection[str], group: str, seed: int) -> frozenset[str]:
    """Those of ``values`` that ``item`` stands for; numbers are equal whatever zeros stand before them."""
    if share := _SHARE.fullmatch(item):
        order = sorted(values, key=lambda value: hashlib.sha256(repr((seed, group, value)).encode()).digest())
        return frozenset(order[: max(1, round(len(order) * float(share[1]) / 100))])
    if bounds := _RANGE.fullmatch(item):
        first, last = int(bounds[1]), int(bounds[2])
        return frozenset(v for v in values if v == item or (_is_number(v) and first <= int(v) <= last))
    if _is_number(item):
        return frozenset(v for v in values if _is_number(v) and int(v) == int(item))
    return frozenset(v for v in values if v == item)


def _is_number(text: str) -> bool:
    return text.isdecimal() and len(text) < 19


def _by_value(text: str) -> tuple[int, str]:
    return (int(text) if _is_number(text) else 0, text)
