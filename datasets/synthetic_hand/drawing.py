"""Draws a hand: signed distances give its outline, a height map its shading, ellipses and curves its details.

Every step on pixels is an addition, multiplication, division, square root or comparison of float32 numbers,
which IEEE 754 fixes to the last bit: the same seed gives the same picture on any machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import numpy as np
import numpy.typing as npt

from datasets.synthetic_hand.anatomy import (
    ASPECTS,
    LITTLE,
    MIDDLE,
    THUMB,
    Curve,
    Floats,
    Hand,
    Mark,
    Pose,
    average_shape,
    flat_pose,
    make_pose,
)
from datasets.synthetic_hand.scene import Pixels, expose, light_scene, limit, make_light, make_table

_SUPERSAMPLING = 2
_GREY = np.float32(0.5)
_STEPS = np.linspace(0, 1, 9)[:, None]
_BEZIER = ((1 - _STEPS) ** 2, 2 * _STEPS * (1 - _STEPS), _STEPS**2)
_TAPER = np.array([0.35, 0.7, 0.9, 1.0, 1.0, 1.0, 0.9, 0.7, 0.35])
"""Width of a line along its length."""

_FAR = 0.2
"""Decimetres from the palm where it no longer makes a difference: no shadow reaches there, no finger melts there."""


def draw_hand(hand: Hand, aspect: str, rng: np.random.Generator, size: int) -> npt.NDArray[np.uint8]:
    """One photograph [size, size, 3] of ``hand``; pose, light, table and noise come from ``rng``."""
    pose = make_pose(rng, hand, aspect)
    light = make_light(rng)
    fine = size * _SUPERSAMPLING
    canvas = _Canvas(hand, aspect, pose, fine)
    canvas.draw_details()
    table = make_table(rng, fine)
    picture = light_scene(canvas.distance, canvas.height, canvas.colour, canvas.unit, table, light)
    return expose(_halved(picture), light, rng)


def draw_texture(hand: Hand, size: int) -> npt.NDArray[np.uint8]:
    """The surface of ``hand`` [size, 2 size, 3], its back beside its palm: the colour of the skin, without light, on a
    hand of average shape, so that each place of the skin has its pixel. What is no hand is grey.
    """
    shape = average_shape(hand)
    sides = []
    for aspect in ASPECTS:
        canvas = _Canvas(shape, aspect, flat_pose(shape), size * _SUPERSAMPLING)
        canvas.draw_details()
        inside = np.clip(np.float32(0.5) - canvas.distance, 0, 1)
        sides.append(_halved(_GREY + (canvas.colour - _GREY) * inside))
    picture = np.concatenate(sides, 2) * 255 + np.float32(0.5)
    return np.ascontiguousarray(np.clip(np.floor(picture), 0, 255).astype(np.uint8).transpose(1, 2, 0))


def _halved(picture: Pixels) -> Pixels:
    """Each pixel is the mean of four."""
    four = picture[:, 0::2, 0::2] + picture[:, 1::2, 0::2] + picture[:, 0::2, 1::2] + picture[:, 1::2, 1::2]
    return four * np.float32(0.25)


class _Canvas:
    """Outline, height and colour of a hand on a square grid of pixels.

    ``distance`` [N, N] is negative inside the outline, in pixels; ``height`` [N, N] is in pixels over
    the table; ``colour`` [3, N, N] is the skin under white light.
    """

    def __init__(self, hand: Hand, aspect: str, pose: Pose, size: int) -> None:
        self.hand, self.aspect, self.pose, self.size = hand, aspect, pose, size
        self.unit = float(round(pose.scale * size * 1024) / 1024)  # pixels in a decimetre
        grid = np.arange(size, dtype=np.float32) + np.float32(0.5)
        self.x, self.y = grid[None, :], grid[:, None]
        self.frame = pose.joints(hand)
        self.joints = pose.to_picture(self.frame, size)
        self.colour = np.empty((3, size, size), np.float32)
        self.colour[:] = self._skin()[:, None, None]
        self._model()

    def _skin(self) -> Floats:
        """The skin of this aspect; palms are paler and pinker, the more so the darker the hand is."""
        skin = self.hand.skin
        if self.aspect == "dorsal":
            return skin
        pale = np.array([0.93, 0.72, 0.62])
        return (skin + (pale - skin) * 0.14) * self.hand.palm_tint

    def _box(self, points: Floats, margin: float) -> tuple[slice, slice]:
        """Rows and columns of the pixels within ``margin`` of the box around ``points`` [..., 2]."""

        def span(places: Sequence[float]) -> slice:
            first, last = math.floor(min(places) - margin), math.ceil(max(places) + margin)
            return slice(min(max(first, 0), self.size), min(max(last, 0), self.size))

        x, y = zip(*points.reshape(-1, 2).tolist(), strict=True)
        return span(y), span(x)

    def _model(self) -> None:
        """Outline and height: palm and forearm first, then fingers, melted into the palm, not together."""
        unit, radii = self.unit, self.hand.radii * self.unit
        palm = self._palm()
        self.distance, self.height = palm.copy(), _dome(palm, 0.24 * unit) * np.float32(0.62)
        for finger in range(THUMB, LITTLE + 1):
            chain = self.joints[finger]
            box = self._box(chain, float(radii[finger].max()) + 0.1 * unit)
            ends = np.stack([radii[finger, :-1], radii[finger, 1:]], 1)
            first, second, third = _cones(self.x[:, box[1]], self.y[box[0]], chain[:-1], chain[1:], ends)
            shape = _melt(_melt(first, second, 0.03 * unit), third, 0.03 * unit)
            dome = _dome(shape, float(radii[finger, 1:].mean()))
            self.height[box] = -_melt(-self.height[box], -dome, 0.05 * unit)
            self.distance[box] = np.minimum(self.distance[box], _melt(shape, palm[box], 0.07 * unit))

    def _palm(self) -> Pixels:
        """Signed distance [N, N] of palm, ball of the thumb and forearm; :data:`_FAR` outside the box around them."""
        hand, unit = self.hand, self.unit
        wrist = np.array([[-0.45, -0.62], [-0.1, -0.60], [0.2, -0.60], [0.6, -0.58]]) * [hand.wrist, 1.0]
        roots = self.pose.to_picture(hand.roots, self.size)
        base = self.pose.to_picture(wrist, self.size)
        thumb, ends = self.joints[THUMB], self.pose.to_picture([[0.0, -0.62], [0.0, -3.0]], self.size)
        bones = [
            *(
                (base[i], roots[i + 1], 0.62 * hand.wrist * unit, 1.12 * (hand.radii[i + 1, 0] * unit))
                for i in range(4)
            ),
            (roots[THUMB], thumb[1], *(1.05 * hand.radii[THUMB, :2] * unit)),
            (roots[MIDDLE] * 0.5 + roots[THUMB] * 0.5, thumb[1], 0.16 * unit, 0.09 * unit),
            (*ends, hand.wrist * unit, hand.wrist * 1.35 * unit),
        ]
        start, end, first, last = (np.array(part) for part in zip(*bones, strict=True))
        joints, radii = np.stack([start, end], 1), np.stack([first, last], 1)
        box = self._box(np.stack([joints - radii[..., None], joints + radii[..., None]]), _FAR * unit)
        # Bone by bone, so that few numbers at a time leave the processor's cache.
        near = [
            _cones(self.x[:, box[1]], self.y[box[0]], start[i : i + 1], end[i : i + 1], radii[i : i + 1])[0]
            for i in range(len(bones))
        ]
        *metacarpals, ball, web, forearm = near
        palm = reduce(lambda a, b: _melt(a, b, 0.12 * unit), metacarpals)
        palm = _melt(_melt(palm, ball, 0.16 * unit), web, 0.14 * unit)
        found = np.full((self.size, self.size), _FAR * unit, np.float32)
        found[box] = _melt(palm, forearm, 0.2 * unit)
        return found

    def draw_details(self) -> None:
        """Lines, wrinkles, knuckles, nails and marks of the aspect that is seen."""
        dorsal = self.aspect == "dorsal"
        for line in self.hand.lines[self.aspect]:
            self._draw_vein(line) if dorsal else self._draw_crease(line)
        if not dorsal:
            self._draw_mounds()
        for finger in range(THUMB, LITTLE + 1):
            self._draw_finger(finger, dorsal)
        for mark in self.hand.marks[self.aspect]:
            self._draw_mark(mark)

    def _draw_vein(self, vein: Curve) -> None:
        box, near = self._curve(vein.points, vein.width * 1.6)
        self.height[box] += near * np.float32(0.030 * vein.strength * self.unit)
        self._tint(box, near * np.float32(0.55 * vein.strength), (0.74, 0.86, 0.94))

    def _draw_crease(self, crease: Curve, tint: tuple[float, float, float] = (0.50, 0.34, 0.32)) -> None:
        box, near = self._curve(crease.points, crease.width)
        self.height[box] -= near * np.float32(0.02 * crease.strength * self.unit)
        self._tint(box, near * np.float32(min(crease.strength, 1.0)), tint)

    def _draw_mounds(self) -> None:
        """The balls of the thumb and of the little finger, and the hollow of the palm between them."""
        unit = self.unit
        for place, radii, height in (
            ((-0.22, -0.18), (0.30, 0.44), 0.07),
            ((0.24, -0.20), (0.26, 0.46), 0.05),
            ((0.0, 0.08), (0.28, 0.34), -0.04),
        ):
            box, inside = self._ellipse(np.array(place), np.array([0.0, 1.0]), radii[::-1])
            self.height[box] += inside * np.float32(height * unit)
            self._tint(box, inside * np.float32(0.35 if height > 0 else 0.0), (1.02, 0.87, 0.85))

    def _draw_finger(self, finger: int, dorsal: bool) -> None:
        """Wrinkles over the joints, or folds under them; reddish knuckles and nails, or finger pads."""
        hand = self.hand
        if dorsal and finger != THUMB:
            self._bulge(self.frame[finger, 0], 0.15, 0.03 * hand.relief, 0.25 + hand.knuckles)
        for joint in (1, 2):
            strength = float(hand.wrinkles[finger, joint])
            if dorsal:
                self._bulge(self.frame[finger, joint], 0.09, 0.008, hand.knuckles)
            for along in (-0.045, 0.0, 0.045) if dorsal else (-0.018, 0.022):
                self._draw_crease(self._across(finger, joint, along, 0.62 if dorsal else 0.85, strength))
        if not dorsal:
            if finger != THUMB:
                self._draw_crease(self._across(finger, 1, -0.24 * hand.bones[finger, 0] / 0.45, 0.9, 0.5))
            self._bulge(self.frame[finger, 2:].mean(0), 0.09, 0.01, 0.35)
            return
        self._draw_nail(finger)

    def _across(self, finger: int, joint: int, along: float, reach: float, strength: float) -> Curve:
        """A fold across a finger, ``along`` decimetres past a joint, bent a little towards the wrist."""
        chain, radius = self.frame[finger], self.hand.radii[finger, joint] * reach
        axis = chain[joint + 1 if along > 0 else joint] - chain[joint if along > 0 else joint - 1]
        axis = axis / np.sqrt((axis * axis).sum())
        side = np.array([-axis[1], axis[0]])
        middle = chain[joint] + axis * along
        sag = axis * (-0.02 if along <= 0 else 0.02)
        return Curve(np.array([middle - side * radius, middle + sag, middle + side * radius]), 0.013, strength)

    def _bulge(self, place: Floats, radius: float, height: float, redness: float) -> None:
        box, inside = self._ellipse(place, np.array([0.0, 1.0]), (radius, radius))
        self.height[box] += inside * np.float32(height * self.unit)
        self._tint(box, inside * np.float32(min(redness, 1.0) * 0.6), (0.96, 0.80, 0.78))

    def _draw_nail(self, finger: int) -> None:
        """A nail: pink plate with a pale half-moon and free edge, set off by a darker rim."""
        length, width, moon = self.hand.nail
        start, end = self.frame[finger, 2:]
        bone = end - start
        reach = float(np.sqrt((bone * bone).sum()))
        axis = bone / reach
        half = length * reach / 0.18 * (0.82 if finger == THUMB else 0.9)
        across = width * float(self.hand.radii[finger, 3]) * 1.05
        centre = end + axis * (float(self.hand.radii[finger, 3]) * 0.78 - half)
        tint = tuple((self.hand.nail_tint * [1.16, 1.20, 1.22]).tolist())
        self._tint(*self._ellipse(centre, axis, (half * 1.14, across * 1.18), sharp=6.0), (0.72, 0.62, 0.60))
        box, plate = self._ellipse(centre, axis, (half, across), sharp=6.0)
        self._tint(box, plate, (1.39, 1.61, 1.67))
        self._tint(box, plate, tint)
        self._tint(
            *self._ellipse(centre - axis * half * 0.7, axis, (half * 0.3, across * 0.6), 3.0, moon),
            (1.1, 1.2, 1.2),
        )
        self._tint(
            *self._ellipse(centre + axis * half * 0.9, axis, (half * 0.18, across * 0.8), 3.0, 0.7),
            (1.1, 1.2, 1.2),
        )

    def _draw_mark(self, mark: Mark) -> None:
        axis = np.array([np.cos(mark.angle), np.sin(mark.angle)])
        place = np.array(mark.place)
        if mark.bone is not None:
            finger, bone = mark.bone
            start, end = self.frame[finger, bone : bone + 2]
            along = (end - start) / np.sqrt(((end - start) ** 2).sum())
            side = np.array([-along[1], along[0]])
            radius = float(self.hand.radii[finger, bone + 1])
            place = start + (end - start) * mark.place[0] + side * radius * mark.place[1]
            axis = along * axis[0] + side * axis[1]
            # On a narrow finger a mark runs along the bone and stays on it.
            axis = along if mark.radii[0] > radius else axis
        self._tint(*self._ellipse(place, axis, mark.radii, sharp=2.5), mark.tint)

    def _tint(self, box: tuple[slice, slice], amount: Pixels, tint: tuple[float, ...]) -> None:
        """Multiply the colour in ``box`` by ``tint`` where ``amount`` is 1, by nothing where it is 0."""
        factors = np.array([factor - 1 for factor in tint], np.float32)[:, None, None]
        self.colour[:, *box] *= 1 + amount * factors

    def _ellipse(
        self,
        centre: Floats,
        axis: Floats,
        radii: tuple[float, float],
        sharp: float = 1.0,
        amount: float = 1.0,
    ) -> tuple[tuple[slice, slice], Pixels]:
        """``amount`` inside an ellipse (hand's frame, ``radii`` along and across ``axis``), 0 at its rim.

        ``sharp`` is the slope of the fade: 1 is a soft hill, 6 a plate with a clear rim.
        """
        points = self.pose.to_picture(np.array([centre, centre + axis]), self.size)
        (cx, cy), (ex, ey) = points.tolist()
        norm = max(((ex - cx) ** 2 + (ey - cy) ** 2) ** 0.5, 1e-6)
        ux, uy = (ex - cx) / norm, (ey - cy) / norm
        box = self._box(points[:1], max(radii) * self.unit * 1.1 + 1)
        dx, dy = self.x[:, box[1]] - np.float32(cx), self.y[box[0]] - np.float32(cy)
        along = (dx * np.float32(ux) + dy * np.float32(uy)) * np.float32(1 / (radii[0] * self.unit))
        across = (dy * np.float32(ux) - dx * np.float32(uy)) * np.float32(1 / (radii[1] * self.unit))
        inside = limit((1 - along * along - across * across) * np.float32(sharp))
        return box, inside * inside * (3 - 2 * inside) * np.float32(amount)

    def _curve(self, points: Floats, width: float) -> tuple[tuple[slice, slice], Pixels]:
        """1 on a Bezier curve (hand's frame), fading to 0 at ``width`` from it and towards its ends."""
        first, middle, last = _BEZIER
        path = self.pose.to_picture(first * points[0] + middle * points[1] + last * points[2], self.size)
        width = max(width * self.unit, 1.2)
        box = self._box(path, width + 1)
        x, y = self.x[:, box[1]], self.y[box[0]]
        widths = width * _TAPER
        best = _cones(x, y, path[:-1], path[1:], np.stack([widths[:-1], widths[1:]], 1)).min(0)
        inside = limit(best * np.float32(-1 / width))
        return box, inside * inside * (3 - 2 * inside)


def _cones(x: Pixels, y: Pixels, start: Floats, end: Floats, radii: Floats) -> Pixels:
    """Signed distances [B, N, N] of pixels to bones from ``start`` [B, 2] to ``end`` [B, 2], radii [B, 2] there.

    On the few pixels of a fold, many bones take as long as one.
    """
    step, growth = end - start, radii[:, 1] - radii[:, 0]
    inverse = 1 / np.maximum(step[:, 0] * step[:, 0] + step[:, 1] * step[:, 1], 1e-6)
    numbers = np.array([*start.T, *step.T, inverse, radii[:, 0], growth], np.float32)
    ax, ay, ux, uy, inverse, radius, growth = numbers[:, :, None, None]
    dx, dy = x - ax, y - ay
    t = limit(dx * (ux * inverse) + dy * (uy * inverse))
    qx, qy = dx - t * ux, dy - t * uy
    qx *= qx
    qy *= qy
    qx += qy
    np.sqrt(qx, out=qx)
    t *= growth
    qx -= t
    qx -= radius
    return qx


def _melt(a: Pixels, b: Pixels, softness: float) -> Pixels:
    """The smaller of two distances, with the corner between them rounded over ``softness`` pixels."""
    corner = np.subtract(np.float32(softness), np.abs(a - b))
    np.maximum(corner, np.float32(0), out=corner)
    corner *= corner
    corner *= np.float32(0.25 / softness)
    return np.subtract(np.minimum(a, b), corner, out=corner)


def _dome(distance: Pixels, radius: float) -> Pixels:
    """Height of a rounded body: a quarter circle from the outline inwards, then flat."""
    inner = limit(distance * np.float32(-1 / radius))
    return np.sqrt(inner * (2 - inner)) * np.float32(radius)
