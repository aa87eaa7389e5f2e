"""Identities that may mix several: both hands, or several fingers, in one folder."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from datasets.bases import ReIDDataset, some
from datasets.inspect.naming import PARTS, WORDS
from datasets.pattern import PatternDataset

ALIKE = 0.8
"""Share of the identities that a number must split alike to be suspected."""
MOST = 10
"""Values that a number of fingers or sessions does not exceed."""

_PAIRS = (frozenset({"l", "r"}), frozenset({"left", "right"}))
_FINGERS = frozenset(WORDS["finger"].split())


def mixed_identities(dataset: ReIDDataset, root: Path) -> list[str]:
    """Warnings about identities whose file names say two hands or several fingers; none of them is certain.

    Args:
        dataset: of any kind.
        root: folder that its paths start from.
    """
    names = _names(dataset, root)
    warnings = []
    for words, question in (
        *((pair, "are both hands in one identity") for pair in _PAIRS),
        (_FINGERS, "are several fingers in one identity"),
    ):
        mixed = {identity: found for identity, paths in names.items() if (found := _spread(paths, words))}
        if mixed:
            identity, examples = next(iter(mixed.items()))
            said = " and ".join(sorted(examples))
            shown = ", ".join(examples[word] for word in sorted(examples))
            warnings.append(
                f"{len(mixed)} of {len(names)} identities have names with {said}, such as {identity} ({shown}): "
                f"{question}?"
            )
    numbers = {} if warnings or isinstance(dataset, PatternDataset) else _alike(names)  # a pattern names its numbers
    if numbers:
        listed = "; ".join(f"{some(values, MOST)} in {example}" for values, example in numbers.items())
        warnings.append(
            f"numbers split the images of most identities alike ({listed}): if one of them counts fingers or hands, "
            "several are in one identity"
        )
    return warnings


def _names(dataset: ReIDDataset, root: Path) -> dict[str, list[str]]:
    """Paths relative to ``root`` by identity."""
    names: dict[str, dict[str, None]] = defaultdict(dict)
    for records, identities in (
        ((*dataset.train, *dataset.val), dataset.val_identities),
        (dataset.test_images, dataset.test_identities),
    ):
        for record in records:
            names[identities[record.pid]][record.path.removeprefix(f"{root}/")] = None
    return {identity: list(paths) for identity, paths in sorted(names.items())}


def _spread(paths: Sequence[str], words: frozenset[str]) -> dict[str, str]:
    """An example of each of ``words``, if each path has exactly one of them and together they have several."""
    found: dict[str, str] = {}
    for path in paths:
        said = words & {part.lower() for part in PARTS.findall(path)}
        if len(said) != 1:
            return {}
        found.setdefault(next(iter(said)), path)
    return found if len(found) > 1 else {}


def _alike(names: dict[str, list[str]]) -> dict[tuple[str, ...], str]:
    """Values of those places in file names that split most identities into the same groups of several images."""
    votes: Counter[tuple[int, tuple[str, ...]]] = Counter()
    examples: dict[tuple[int, tuple[str, ...]], str] = {}
    for paths in names.values():
        parts = [PARTS.findall(Path(path).stem) for path in paths]
        if len({len(found) for found in parts}) != 1:
            continue
        for place, values in enumerate(zip(*parts, strict=True)):
            counts = Counter(values)
            if 1 < len(counts) <= MOST and min(counts.values()) > 1 and all(value.isdecimal() for value in counts):
                key = (place, tuple(sorted(counts)))
                votes[key] += 1
                examples.setdefault(key, paths[0])
    return {key[1]: examples[key] for key, count in votes.items() if count >= ALIKE * len(names) and count > 1}
