"""From file names to the likeliest regular expression with named groups, and what is doubtful about it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from datasets.bases import some

WORDS = {
    "side": "l r left right",
    "finger": "thumb index middle ring little pinky fore",
    "view": "palm palmar dorsal back dorsum wrist red green blue nir visible infrared",
    "gender": "m f male female",
    "camera": "led laser flash nature scanner phone smartphone iphone huawei samsung",
    "session": "f s first second",
    "set": "train test val validation evidence",
}
"""Words by which a part of a name is known, if all of its values are among them."""
HINTS = {
    "session": "session sess series visit day s",
    "person": "person subject subj user volunteer client id p o",
    "finger": "finger",
    "camera": "camera cam device c",
    "sample": "sample image img nr no n shot frame trial",
}
"""Words in front of a number that say what it counts."""
ORDINALS = {"st", "nd", "rd", "th"}
FEW = 12
"""Values up to which an expression lists them."""
FINGERS = 10
TIME = 6
"""Digits from which a number beside others is taken for a date or a time."""
IN_A_ROW = (10, 12, 8, 6, 5, 4, 3, 2)
"""Guesses of how many images with running numbers are one identity's."""
COMMON = 0.6
"""Share of the names that one form must have."""

_MARKS = re.compile(r"([\W_]+)")
PARTS = re.compile(r"\d+|[^\W\d_]+")
"""Numbers and words of a name."""
_HINT = {word: group for group, words in HINTS.items() for word in words.split()}


@dataclass
class Proposal:
    """A proposed expression.

    Attributes:
        pattern: for ``DATASETS.PATTERN``.
        identity: for ``DATASETS.IDENTITY``; empty where groups make the identity.
        sessions: values of the group ``session``, sorted; empty without one.
        sides: whether there is a group ``side``.
        doubts: what was guessed and should be looked at.
    """

    pattern: str
    identity: str
    sessions: list[str]
    sides: bool
    doubts: list[str]


@dataclass
class _Column:
    """One part of all names: digits, letters, or both mixed."""

    values: list[str]
    folder: bool
    group: str = ""
    repeats: _Column | None = None

    def __post_init__(self) -> None:
        self.distinct = sorted(set(self.values))
        self.digits = all(value.isdecimal() for value in self.distinct)
        self.constant = len(self.distinct) == 1

    def expression(self) -> str:
        """The part as an expression, with its group's name if it has one."""
        if self.constant and not self.group:
            return literal(self.values[0])
        if self.repeats is not None and self.repeats.group and self.repeats.values == self.values:
            return f"(?P={self.repeats.group})"
        if self.digits:
            lengths = {len(value) for value in self.distinct}
            inner = rf"\d{{{min(lengths)}}}" if len(lengths) == 1 and lengths != {1} else r"\d" + "+" * (lengths != {1})
        elif len(self.distinct) <= FEW and self.group != "person":
            inner = "|".join(map(literal, self.distinct))
        else:
            inner = r"[^\W_]+"
        return f"(?P<{self.group}>{inner})" if self.group else f"(?:{inner})" if "|" in inner else inner


def propose(paths: Sequence[str]) -> Proposal | None:
    """The likeliest expression for ``paths``, or None where most names have no form in common and no folders do.

    Args:
        paths: of images, relative to the data set's folder, with forward slashes.
    """
    return _by_form(paths) or _by_folders(paths)


def _by_form(paths: Sequence[str]) -> Proposal | None:
    """Of names that have the same marks (``/ _ -`` and blanks) in the same places."""
    stems = [str(PurePosixPath(path).with_suffix("")) for path in paths]
    split = [_MARKS.split(stem) for stem in stems]
    forms = Counter(tuple(parts[1::2]) for parts in split)
    marks, count = forms.most_common(1)[0]
    if count < COMMON * len(paths):
        return None
    rows = [parts[::2] for parts in split if tuple(parts[1::2]) == marks]
    endings = {PurePosixPath(p).suffix for p, parts in zip(paths, split, strict=True) if tuple(parts[1::2]) == marks}
    pieces: list[_Column | str] = []
    for i, values in enumerate(zip(*rows, strict=True)):
        pieces += _columns(values, folder=any("/" in mark for mark in marks[i:]))
        pieces += [literal(marks[i])] if i < len(marks) else []
    columns = [piece for piece in pieces if isinstance(piece, _Column)]
    _name_known(pieces)
    identity, doubts = _name_others(columns)
    if identity is None:
        return None
    expression = "".join(piece if isinstance(piece, str) else piece.expression() for piece in pieces)
    endings_of = "|".join(sorted(literal(ending[1:]) for ending in endings))
    ending = rf"\.(?:{endings_of})" if len(endings) > 1 else rf"\.{endings_of}"
    sessions = next((column.distinct for column in columns if column.group == "session"), [])
    sides = any(column.group == "side" for column in columns)
    return Proposal(expression + ending, identity, sessions, sides, doubts)


def literal(text: str) -> str:
    """``text`` in an expression; blanks and hyphens, which mean nothing there, stay as they are."""
    return re.escape(text).replace(r"\-", "-").replace(r"\ ", " ")


def _columns(values: Sequence[str], folder: bool) -> list[_Column]:
    """One part between marks, split where letters meet digits if all values are split alike."""
    if not any(values):
        return []
    parts = [PARTS.findall(value) for value in values]
    kinds = {tuple(part.isdecimal() for part in found) for found in parts}
    if len(kinds) > 1 or any("".join(found) != value for found, value in zip(parts, values, strict=True)):
        return [_Column(list(values), folder)]
    return [_Column(list(column), folder) for column in zip(*parts, strict=True)]


def _name_known(pieces: Sequence[_Column | str]) -> None:
    """Name the parts that words describe: their own values, or the word in front of a number."""
    named: set[str] = set()
    seen: list[_Column] = []
    for i, piece in enumerate(pieces):
        if isinstance(piece, str) or piece.constant:
            continue
        piece.repeats = next((earlier for earlier in seen if _one_to_one(earlier, piece)), None)
        if piece.repeats is not None:
            continue
        seen.append(piece)
        group = _hinted(pieces, i) if piece.digits else _worded(piece)
        if group and group not in named:
            piece.group = group
            named.add(group)


def _one_to_one(one: _Column, other: _Column) -> bool:
    """Whether each value of one stands for one of the other: ``Palm`` and ``P``, ``1`` and ``st``, the same number."""
    return len(one.distinct) == len(other.distinct) == len(set(zip(one.values, other.values, strict=True)))


def _worded(column: _Column) -> str:
    words = {value.lower() for value in column.distinct}
    return next((group for group, known in WORDS.items() if words <= set(known.split())), "")


def _hinted(pieces: Sequence[_Column | str], i: int) -> str:
    """What a word directly in front of a number, or behind an ordinal one (``1st_session``), says that it counts."""
    before = [p for p in pieces[max(0, i - 2) : i] if isinstance(p, _Column) or "/" in p]
    after = [p for p in pieces[i + 1 : i + 4] if isinstance(p, _Column)]
    if after and {value.lower() for value in after[0].distinct} <= ORDINALS:
        return _HINT.get(after[1].values[0].lower(), "") if len(after) > 1 and after[1].constant else "session"
    nearest = before[-1] if before else None
    return _HINT.get(nearest.values[0].lower(), "") if isinstance(nearest, _Column) and nearest.constant else ""


def _name_others(columns: Sequence[_Column]) -> tuple[str | None, list[str]]:
    """Name the remaining parts by their places and counts.

    Returns:
        The rule of identity (empty: groups make it; None: nothing in the names can), and what was guessed.
    """
    free = [column for column in columns if not (column.constant or column.group or column.repeats)]
    numbers = [column for column in free if column.digits]
    times = [column for column in numbers[1:] if min(map(len, column.distinct)) >= TIME]
    free = [column for column in free if column not in times]
    groups = {column.group for column in columns}
    doubts: list[str] = []
    if "person" not in groups and (person := _person(free)):
        person.group = "person"
        free.remove(person)
        groups.add("person")
    identity = ""
    if "person" not in groups:
        number = next((column for column in reversed(free) if column.digits), None)
        if number is None:
            return None, doubts
        free.remove(number)
        number.group, identity = "number", _running(number)
        doubts.append(
            f"the names give no person, only a running number; {identity} guesses how many images in a row are one "
            "identity's: look at the contact sheet"
        )
    elif "sample" not in groups and (last := next((c for c in reversed(free) if c.digits), None)):
        last.group = "sample"
        free.remove(last)
    return identity, doubts + _name_rest(free, groups)


def _name_rest(free: Sequence[_Column], groups: set[str]) -> list[str]:
    """Groups for what is left: two numbers may be sessions and some more fingers, words are parts to be named."""
    doubts = []
    for i, column in enumerate(free, start=1):
        values = some(column.distinct, 4)
        if column.digits and len(column.distinct) == 2 and "session" not in groups:
            column.group = "session"
        elif column.digits and len(column.distinct) <= FINGERS and "finger" not in groups:
            column.group = "finger"
        elif len(column.distinct) <= FEW:
            column.group = f"part{i}"
        else:
            continue
        groups.add(column.group)
        doubts.append(
            f"{column.group} is a guess for the part of the names with {values}: is it a session, a finger, a camera, "
            "a view? Only person, side and finger make the identity"
        )
    return doubts


def _person(free: Sequence[_Column]) -> _Column | None:
    """The part with most values among the folders, or else in the file names without their last number."""
    several = [column for column in free if 2 < len(column.distinct) < len(column.values)]
    folders = [column for column in several if column.folder]
    last = next((column for column in reversed(free) if column.digits), None)
    return max(
        folders or [column for column in several if column is not last],
        key=lambda column: len(column.distinct),
        default=None,
    )


def _running(number: _Column) -> str:
    first = min(map(int, number.distinct))
    count = len(number.distinct)
    row = next((k for k in IN_A_ROW if count % k == 0 and count > k), 1)
    return f"(number - {first}) // {row}" if first else f"number // {row}"


def _by_folders(paths: Sequence[str]) -> Proposal | None:
    """Of names with no common form: the folder level with most names is the person's."""
    depths = Counter(path.count("/") for path in paths)
    depth, count = depths.most_common(1)[0]
    if not depth or count < COMMON * len(paths):
        return None
    rows = [path.split("/")[:-1] for path in paths if path.count("/") == depth]
    levels = [_Column(list(level), folder=True) for level in zip(*rows, strict=True)]
    named: set[str] = set()
    for level in levels:
        group = folder_kind(level.distinct)
        if not level.constant and group and group not in named:
            level.group = group
            named.add(group)
    people = [level for level in levels if not (level.constant or level.group)]
    person = max(people, key=lambda level: len(level.distinct), default=None)
    if person is None:
        return None
    pieces = []
    for level in levels:
        inner = level.expression() if level.group or level.constant else r"[^/]+"
        pieces.append("(?P<person>[^/]+)" if level is person else inner)
    sessions = next((level.distinct for level in levels if level.group == "session"), [])
    return Proposal("/".join([*pieces, "[^/]+"]), "", sessions, "side" in named, [])


def folder_kind(names: Sequence[str]) -> str:
    """What folders called so are, if they are no people: ``side``, ``session``, ``view`` ...; empty if they may be."""
    words = [re.sub(r"[\W_]|hand$|hands$|session$", "", name.lower()) for name in names]
    for group, known in WORDS.items():
        if set(words) <= set(known.split()):
            return group
    if all(re.fullmatch(r"(session|sess|series|visit|day)?\d{1,2}(st|nd|rd|th)?", word) for word in words):
        numbered = all(re.search(r"session|sess|series|visit|day|\d(st|nd|rd|th)", name.lower()) for name in names)
        return "session" if numbered else ""
    return ""
