"""Visible attributes of a drawn hand, from the parameters of the drawing."""

from __future__ import annotations

import numpy as np

from datasets.synthetic_hand.anatomy import AVERAGE_BONES, AVERAGE_RADII, INDEX, LITTLE, Hand, make_pose
from datasets.synthetic_hand.scene import make_light, table_colour


def drawn_attributes(hand: Hand, aspect: str, rng: np.random.Generator) -> dict[str, str]:
    """Attributes of one picture of ``hand``, whose ``aspect`` it shows; values in between are left out.

    Args:
        hand: the identity.
        aspect: ``dorsal`` or ``palmar``.
        rng: in the state from which :func:`datasets.synthetic_hand.drawing.draw_hand` draws the picture.
    """
    pose = make_pose(rng, hand, aspect)
    make_light(rng)
    fingers = float(pose.angles[INDEX, 0] - pose.angles[LITTLE, 0])
    found = {
        "side": aspect,
        "hand": "right" if hand.right else "left",
        "skin": _grade(float(hand.skin.mean()), ((0.40, "dark"), (0.58, "medium"), (0.74, "fair")), "very fair"),
        "build": _build(hand),
        "fingers": _fingers(hand),
        "pose": _grade(fingers, ((17.0, "closed"), (30.0, "")), "spread"),
        "marks": _marks(hand, aspect),
        "table": table_colour(rng),
        **_lines(hand, aspect),
    }
    return {name: value for name, value in found.items() if value}


def _grade(value: float, steps: tuple[tuple[float, str], ...], last: str) -> str:
    """The word of the first step above ``value``, else ``last``."""
    return next((word for limit, word in steps if value < limit), last)


def _build(hand: Hand) -> str:
    width = float((hand.radii / AVERAGE_RADII).mean())
    return _grade(width, ((0.95, "slender"), (1.11, "")), "broad")


def _fingers(hand: Hand) -> str:
    length = float(hand.bones[1:].sum() / AVERAGE_BONES[1:].sum())
    return _grade(length, ((0.90, "short"), (1.00, "")), "long")


def _lines(hand: Hand, aspect: str) -> dict[str, str]:
    """Veins and nails of the back, lines of the palm."""
    lines = hand.lines[aspect]
    if aspect == "palmar":
        return {"lines": _grade(lines[0].strength, ((0.45, "fine"), (0.60, "")), "deep")}
    veins = _grade(lines[0].strength, ((0.40, "faint"), (0.70, "")), "clear") if lines else ""
    return {"veins": veins, "nails": _grade(hand.nail[0], ((0.10, "short"), (0.12, "")), "long")}


def _marks(hand: Hand, aspect: str) -> str:
    """Scars are narrow, birthmarks large; moles count from four on."""
    marks = hand.marks[aspect]
    scars = sum(mark.radii[1] < 0.0265 and mark.radii[0] > 0.085 for mark in marks)
    birthmarks = sum(mark.radii[1] >= 0.05 and mark.radii[0] >= 0.07 for mark in marks)
    several = ["many moles"] if len(marks) - scars - birthmarks >= 4 else []
    return " and ".join([*(["a birthmark"] if birthmarks else []), *(["a scar"] if scars else []), *several])
