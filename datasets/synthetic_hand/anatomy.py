"""What distinguishes one drawn hand from another (:class:`Hand`), and how it is held (:class:`Pose`).

Lengths are in decimetres in the frame of the hand: x runs from the thumb's side to the little finger's, y
from the wrist to the fingertips, the origin is the middle of the palm. Every number is the same on every
machine: it comes from NumPy's PCG64 stream, and points are rounded before they are drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

ASPECTS = ("dorsal", "palmar")
THUMB, INDEX, MIDDLE, RING, LITTLE = range(5)

# An average hand: where each chain of three bones starts (the thumb's at its metacarpal, the others at the
# knuckle), its direction at rest in degrees towards the thumb, its bones' lengths, the radii at its joints.
_ROOTS = np.array([[-0.20, -0.36], [-0.29, 0.40], [-0.09, 0.46], [0.11, 0.42], [0.29, 0.31]])
_DIRECTIONS = np.array([41.0, 7.0, 1.0, -6.0, -15.0])
AVERAGE_BONES = np.array(
    [[0.44, 0.33, 0.24], [0.44, 0.26, 0.17], [0.48, 0.30, 0.18], [0.45, 0.28, 0.18], [0.37, 0.20, 0.16]]
)
AVERAGE_RADII = np.array(
    [
        [0.175, 0.125, 0.105, 0.088],
        [0.105, 0.093, 0.082, 0.070],
        [0.108, 0.095, 0.084, 0.071],
        [0.103, 0.090, 0.079, 0.067],
        [0.092, 0.078, 0.069, 0.058],
    ]
)
_WRIST = np.array([0.0, -0.62])
_AVERAGE_WRIST = 0.295  # half its width
_MIDDLE = np.array([-0.08, 0.40])  # of a hand with its fingers
_THUMB_TURNS = np.array([0.0, -14.0, -8.0])  # the thumb's bones turn towards the fingers, in degrees

_TONES = (
    np.array(
        [
            [248, 222, 205],
            [236, 199, 175],
            [214, 168, 139],
            [184, 136, 106],
            [148, 103, 78],
            [110, 76, 59],
            [76, 54, 45],
        ]
    )
    / 255
)


@dataclass(frozen=True)
class Curve:
    """A line on the palm or the back of the hand: a quadratic Bezier curve through ``points`` [3, 2]."""

    points: Floats
    width: float
    strength: float


@dataclass(frozen=True)
class Mark:
    """A mole, freckle, birthmark or scar: an ellipse at ``place`` in the frame of bone ``bone``.

    ``bone`` is (finger, bone) with ``place`` = (share of the bone's length, share of the radius to the side),
    or None for the palm with ``place`` in decimetres. ``tint`` [3] multiplies the skin's red, green and blue.
    """

    bone: tuple[int, int] | None
    place: tuple[float, float]
    radii: tuple[float, float]
    angle: float
    tint: tuple[float, float, float]


@dataclass(frozen=True)
class Hand:
    """One identity: everything that stays the same from picture to picture.

    ``roots`` [5, 2], ``directions`` [5] (degrees), ``bones`` [5, 3] and ``radii`` [5, 4] describe thumb to
    little finger; ``lines`` and ``marks`` are indexed by aspect; ``skin`` [3] is RGB in 0..1 in white light.
    """

    right: bool
    roots: Floats
    directions: Floats
    bones: Floats
    radii: Floats
    wrist: float
    skin: Floats
    palm_tint: Floats
    nail: tuple[float, float, float]
    nail_tint: Floats
    wrinkles: Floats
    knuckles: float
    relief: float
    lines: dict[str, tuple[Curve, ...]]
    marks: dict[str, tuple[Mark, ...]]


def make_hand(rng: np.random.Generator) -> Hand:
    """A new identity."""
    build = rng.uniform(0.76, 1.28)  # slender to broad
    reach = rng.uniform(0.78, 1.14)
    per_finger = rng.uniform(0.86, 1.12, (5, 1))
    radii = AVERAGE_RADII * build * rng.uniform(0.90, 1.10, (5, 1)) * rng.uniform(0.95, 1.05, (5, 4))
    radii[:, 3] *= rng.uniform(0.84, 1.14)  # pointed to blunt tips
    radii[:, 1:3] *= rng.uniform(0.95, 1.10)  # knotty joints
    roots = _ROOTS * [rng.uniform(0.90, 1.14) * build, rng.uniform(0.88, 1.12)]
    roots = roots + rng.uniform(-0.03, 0.03, (5, 2)) * [0.5, 1.0]
    skin = _skin(rng)
    return Hand(
        right=bool(rng.random() < 0.5),
        roots=roots,
        directions=_DIRECTIONS * [1.0, *[rng.uniform(0.5, 1.7)] * 4]
        + rng.uniform(-1, 1, 5) * [14.0, 2.5, 1.5, 2.5, 5.0],
        bones=AVERAGE_BONES * reach * per_finger * rng.uniform(0.93, 1.07, (5, 3)),
        radii=radii,
        wrist=build * rng.uniform(0.26, 0.33),
        skin=skin,
        palm_tint=np.array([1.0, rng.uniform(0.94, 1.0), rng.uniform(0.93, 1.0)]),
        nail=(rng.uniform(0.085, 0.135), rng.uniform(0.62, 0.84), rng.uniform(0.0, 0.6)),
        nail_tint=np.array([1.0, rng.uniform(0.74, 0.92), rng.uniform(0.72, 0.92)]),
        wrinkles=rng.uniform(0.10, 0.55, (5, 3)),
        knuckles=rng.uniform(0.0, 0.30),
        relief=rng.uniform(0.6, 1.3),
        lines={"dorsal": _veins(rng), "palmar": _creases(rng)},
        marks={"dorsal": _marks(rng, 1.0), "palmar": _marks(rng, 0.6)},
    )


def average_shape(hand: Hand) -> Hand:
    """The skin, lines and marks of ``hand`` on a right hand of average shape."""
    return replace(
        hand,
        right=True,
        roots=_ROOTS,
        directions=_DIRECTIONS,
        bones=AVERAGE_BONES,
        radii=AVERAGE_RADII,
        wrist=_AVERAGE_WRIST,
    )


def _skin(rng: np.random.Generator) -> Floats:
    """A natural skin colour, very light to very dark, with a warm or cool undertone."""
    depth = rng.uniform(0, len(_TONES) - 1)
    lower = min(int(depth), len(_TONES) - 2)
    tone = _TONES[lower] + (_TONES[lower + 1] - _TONES[lower]) * (depth - lower)
    return tone * [1.0, rng.uniform(0.91, 1.05), rng.uniform(0.82, 1.08)]


def _veins(rng: np.random.Generator) -> tuple[Curve, ...]:
    """Veins of the back of the hand: from the wrist towards the gaps between the fingers, some forked."""
    strength = rng.uniform(0.15, 1.0)
    veins = []
    for gap in np.array([-0.36, -0.19, 0.01, 0.20]) + rng.uniform(-0.06, 0.06, 4):
        if rng.random() < 0.2:
            continue
        start = np.array([0.5 * gap + rng.uniform(-0.14, 0.14), rng.uniform(-0.75, -0.4)])
        end = np.array([gap, rng.uniform(0.2, 0.38)])
        middle = (start + end) / 2 + rng.uniform(-0.16, 0.16, 2)
        veins.append(Curve(np.stack([start, middle, end]), rng.uniform(0.018, 0.032), strength))
        if rng.random() < 0.6:
            branch = middle + np.array([rng.choice([-1.0, 1.0]) * rng.uniform(0.12, 0.26), rng.uniform(0.05, 0.3)])
            bend = (middle + branch) / 2 + rng.uniform(-0.05, 0.05, 2)
            veins.append(Curve(np.stack([middle, bend, branch]), rng.uniform(0.014, 0.024), strength))
    return tuple(veins)


def _creases(rng: np.random.Generator) -> tuple[Curve, ...]:
    """Lines of the palm: heart, head and life line, often a fate line, and a few fine ones."""
    main = np.array(
        [
            [[0.42, 0.12], [0.12, 0.16], [-0.15, 0.36]],
            [[-0.40, 0.16], [-0.05, 0.10], [0.28, -0.10]],
            [[-0.40, 0.17], [-0.02, 0.02], [-0.08, -0.52]],
            [[0.03, -0.48], [0.02, -0.10], [-0.02, 0.28]],
        ]
    )
    main = main + rng.uniform(-0.09, 0.09, main.shape) * [[0.7], [1.3], [1.0]]
    deep = rng.uniform(0.35, 0.75)
    widths = rng.uniform(0.014, 0.026, 4)
    count = 4 if rng.random() < 0.6 else 3
    curves = [Curve(main[i], float(widths[i]), deep * rng.uniform(0.8, 1.2)) for i in range(count)]
    for _ in range(rng.integers(2, 7)):
        start = rng.uniform([-0.35, -0.45], [0.35, 0.3])
        turn = rng.uniform(0, 2 * math.pi)
        end = start + rng.uniform(0.12, 0.32) * np.array([math.cos(turn), math.sin(turn)])
        bend = (start + end) / 2 + rng.uniform(-0.04, 0.04, 2)
        curves.append(Curve(np.stack([start, bend, end]), rng.uniform(0.010, 0.016), deep * rng.uniform(0.5, 0.9)))
    return tuple(curves)


def _marks(rng: np.random.Generator, amount: float) -> tuple[Mark, ...]:
    """Moles, freckles, birthmarks and scars of one side of the hand, between two and about eight."""

    def somewhere() -> tuple[tuple[int, int] | None, tuple[float, float]]:
        if rng.random() < 0.55:
            return None, (float(rng.uniform(-0.34, 0.34)), float(rng.uniform(-0.45, 0.38)))
        bone = (int(rng.integers(0, 5)), int(rng.integers(0, 2)))
        return bone, (float(rng.uniform(0.25, 0.9)), float(rng.uniform(-0.6, 0.6)))

    marks = []
    for _ in range(1 + int(rng.integers(0, 6) * amount)):  # moles
        size = float(rng.uniform(0.026, 0.052))
        shade = float(rng.uniform(0.30, 0.60))
        tint = (shade, shade * 0.8, shade * 0.75)
        marks.append(Mark(*somewhere(), (size, size * float(rng.uniform(0.8, 1.2))), 0.0, tint))
    for _ in range(int(rng.integers(0, 3))):  # birthmarks
        radii = (float(rng.uniform(0.07, 0.17)), float(rng.uniform(0.05, 0.11)))
        shade = float(rng.uniform(0.6, 0.8))
        marks.append(Mark(*somewhere(), radii, float(rng.uniform(0, 3.14)), (shade * 1.12, shade, shade * 0.95)))
    for _ in range(int(rng.integers(0, 3))):  # scars, paler or redder than the skin
        tint = (1.25, 1.22, 1.25) if rng.random() < 0.6 else (1.08, 0.72, 0.72)
        radii = (float(rng.uniform(0.09, 0.20)), float(rng.uniform(0.016, 0.026)))
        marks.append(Mark(*somewhere(), radii, float(rng.uniform(0, 3.14)), tint))
    return tuple(marks)


@dataclass(frozen=True)
class Pose:
    """How a hand is held in one picture: angle and visible length of every bone, the way into the picture.

    ``angles`` and ``shortening`` [5, 3] are per bone (degrees towards the thumb; 1 = flat on the
    table); ``matrix`` [2, 2] and ``offset`` [2] take decimetres to shares of the picture's side, x to the
    right and y down.
    """

    angles: Floats
    shortening: Floats
    matrix: Floats
    offset: Floats

    @property
    def scale(self) -> float:
        """Shares of the picture's side in a decimetre."""
        (a, b), (c, d) = self.matrix
        return math.sqrt(abs(a * d - b * c))

    def to_picture(self, points: npt.ArrayLike, size: int) -> Floats:
        """Points [..., 2] of the hand's frame in pixels of a picture ``size`` wide, to 1/1024 pixel.

        The rounding takes out the last bits, in which the sines of two machines may differ.
        """
        placed = (np.asarray(points) @ self.matrix.T + self.offset) * size
        return np.rint(placed * 1024) / 1024

    def joints(self, hand: Hand) -> Floats:
        """The chains of joints [5, 4, 2] in the hand's frame."""
        turn = np.deg2rad(self.angles)
        steps = np.stack([-np.sin(turn), np.cos(turn)], -1) * (hand.bones * self.shortening)[..., None]
        return np.concatenate([hand.roots[:, None], hand.roots[:, None] + np.cumsum(steps, 1)], 1)

    def key_points(self, hand: Hand, size: int) -> Floats:
        """The wrist and the four joints of each finger [21, 2] in pixels of a picture ``size`` wide.

        They stand in the order of :mod:`datasets.parsing.keypoints`. The last of a finger is the middle of its round
        end.
        """
        points = np.concatenate([_WRIST[None], self.joints(hand).reshape(-1, 2)])
        return self.to_picture(points, size)


def flat_pose(hand: Hand) -> Pose:
    """``hand`` flat and upright, seen in its own frame: the thumb is on the left, whatever the aspect."""
    angles = np.repeat(hand.directions[:, None], 3, axis=1)
    angles[THUMB] += np.cumsum(_THUMB_TURNS)
    matrix = 0.42 * np.diag([1.0, -1.0])
    return Pose(angles, np.ones((5, 3)), matrix, 0.5 - matrix @ _MIDDLE)


def make_pose(rng: np.random.Generator, hand: Hand, aspect: str) -> Pose:
    """A new way to hold ``hand`` with its ``aspect`` to the camera."""
    spread = rng.uniform(0.85, 1.2)
    first = hand.directions * np.array([1.0, spread, spread, spread, spread])
    first = first + rng.uniform(-1, 1, 5) * [5.0, 1.5, 1.0, 1.5, 2.0]
    sideways = rng.uniform(-2.5, 2.5, (5, 3)) * [0, 1, 1]
    sideways[THUMB] += _THUMB_TURNS * rng.uniform(0.3, 1.5)
    bend = rng.uniform(0.0, 0.12) * rng.uniform(0.2, 1.0, (5, 1)) * np.array([0.4, 1.0, 1.0])

    # A back of a right hand shows its thumb on the left, as in the hand's frame; either change mirrors it.
    mirror = -1.0 if hand.right == (aspect == "palmar") else 1.0
    turn = math.radians(rng.uniform(-7, 7))
    rotate = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    tilt = np.array([[rng.uniform(0.97, 1.0), rng.uniform(-0.03, 0.03)], [0.0, rng.uniform(0.96, 1.0)]])
    scale = rng.uniform(0.405, 0.43)
    matrix = scale * rotate @ tilt @ np.diag([mirror, -1.0])
    centre = np.array([0.5, 0.5]) + rng.uniform(-0.02, 0.02, 2)
    offset = centre - matrix @ _MIDDLE
    return Pose(first[:, None] + np.cumsum(sideways, 1), 1.0 - bend, matrix, offset)
