"""What file names and tables say of a picture, in the words of :mod:`datasets.hands.attributes`."""

from __future__ import annotations

from collections.abc import Mapping

_HANDS = {"l": "left", "left": "left", "lefthand": "left", "r": "right", "right": "right", "righthand": "right"}
_SIDES = {"palm": "palmar", "palmar": "palmar", "dorsal": "dorsal", "dorsum": "dorsal", "back": "dorsal"}
_GENDERS = {"m": "male", "male": "male", "f": "female", "female": "female"}
_POSITIONS = ("identity", "camera", "sample", "number")
"""Groups that say which picture it is, not what is on it."""


def named_attributes(groups: Mapping[str, str]) -> dict[str, str]:
    """The attributes that named groups of a file name, or columns of a table, hold.

    Left and right (``side``) become ``hand``, palmar and dorsal (``view``) become ``side``, in whatever form they are
    written; a view of another kind stays ``view``. All else keeps its name and value.
    """
    found = {}
    for name, value in groups.items():
        if name in _POSITIONS or not value:
            continue
        word = "".join(filter(str.isalpha, value.lower()))
        if name in ("side", "hand") and word in _HANDS:
            found["hand"] = _HANDS[word]
        elif name in ("side", "view") and word in _SIDES:
            found["side"] = _SIDES[word]
        elif name == "gender":
            found["gender"] = _GENDERS.get(word, value)
        else:
            found[name] = value
    return found
