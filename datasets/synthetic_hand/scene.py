"""The scene of a drawn hand: table, light and camera.

As in ``hand_drawing``, pixels meet only float32 operations that IEEE 754 fixes to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datasets.synthetic_hand.anatomy import Floats

Pixels = npt.NDArray[np.float32]

_LIGHT_HEIGHT = 0.75  # of the light over the table, as the z of its unit direction
_TABLES = np.array(
    [
        [0.93, 0.92, 0.90],
        [0.75, 0.76, 0.76],
        [0.55, 0.56, 0.57],
        [0.62, 0.66, 0.70],
        [0.80, 0.78, 0.74],
        [0.38, 0.39, 0.41],
    ]
)
_TABLE_COLOURS = ("white", "light grey", "grey", "blue grey", "beige", "dark")


def limit(values: np.ndarray, highest: float = 1) -> np.ndarray:
    """Numbers from 0 to ``highest``, in place; on few numbers three times as fast as np.clip."""
    np.maximum(values, values.dtype.type(0), out=values)
    return np.minimum(values, values.dtype.type(highest), out=values)


@dataclass(frozen=True)
class Light:
    """One picture's light and camera.

    ``direction`` (x, y) points to the lamp, ``gains`` [3] are exposure times white balance, ``slope`` is how
    the light falls off over the picture, ``shadow`` is (reach in decimetres, depth).
    """

    direction: tuple[float, float]
    ambient: float
    gains: Floats
    slope: tuple[float, float]
    shine: float
    shadow: tuple[float, float]
    blur: float
    noise: float


def make_light(rng: np.random.Generator) -> Light:
    """A lamp, a camera's exposure and white balance, its focus and its noise."""
    side = rng.uniform([-1.0, -1.4], [1.0, 0.6])
    side = side / max(float(np.sqrt((side * side).sum())), 0.5)
    exposure, warmth, green = rng.uniform(0.92, 1.08), rng.uniform(-0.035, 0.035), rng.uniform(0.985, 1.015)
    return Light(
        direction=(float(side[0]), float(side[1])),
        ambient=float(rng.uniform(0.5, 0.65)),
        gains=exposure * np.array([1 + warmth, green, 1 - warmth]),
        slope=(float(rng.uniform(-0.12, 0.12)), float(rng.uniform(-0.12, 0.12))),
        shine=float(rng.uniform(0.0, 0.16)),
        shadow=(float(rng.uniform(0.02, 0.07)), float(rng.uniform(0.2, 0.55))),
        blur=float(rng.uniform(0.0, 0.9)),
        noise=float(rng.uniform(0.004, 0.018)),
    )


def _surface(rng: np.random.Generator) -> tuple[int, int]:
    """Kind and colour of a table, the first random numbers of a table."""
    return int(rng.integers(0, 4)), int(rng.integers(0, len(_TABLES)))


def table_colour(rng: np.random.Generator) -> str:
    """The colour of the table that :func:`make_table` draws from ``rng``, in words."""
    return _TABLE_COLOURS[_surface(rng)[1]]


def make_table(rng: np.random.Generator, size: int) -> Pixels:
    """What the hand lies on [3, size, size]: a plain, grained, speckled or two-part surface of any colour."""
    kind, colour = _surface(rng)
    base = _TABLES[colour] * rng.uniform(0.9, 1.06) + rng.uniform(-0.03, 0.03, 3)
    rows, columns = [(3, 4), (3, 40), (70, 70), (9, 9)][kind]
    if rng.random() < 0.5:
        rows, columns = columns, rows
    texture = _clouds(rng, size, rows, columns) * np.float32(0.6)
    texture += _clouds(rng, size, 2 * rows + 1, 2 * columns + 1) * np.float32(0.4)
    strength = rng.uniform(0.03, 0.2)
    tone = 1 + texture * np.float32(strength) + _clouds(rng, size, 2, 2) * np.float32(0.12)
    table = tone[None] * base.astype(np.float32)[:, None, None]
    if rng.random() < 0.15:  # the edge of a cloth or of the table
        other = _TABLES[int(rng.integers(0, len(_TABLES)))].astype(np.float32)
        slant, start = float(rng.uniform(-0.4, 0.4)), float(rng.uniform(0.1, 0.9)) * size
        grid = np.arange(size, dtype=np.float32)
        beyond = limit(grid[None, :] + np.float32(slant) * grid[:, None] - np.float32(start))
        beyond = beyond if rng.random() < 0.5 else np.ascontiguousarray(beyond.T)
        table += (other[:, None, None] * tone - table) * beyond
    return table


def _clouds(rng: np.random.Generator, size: int, rows: int, columns: int) -> Pixels:
    """Smooth noise in -1..1 [size, size] with about ``rows`` x ``columns`` lumps."""
    knots = rng.random((rows + 1, columns + 1), dtype=np.float32) * 2 - 1

    def weights(cells: int) -> tuple[npt.NDArray[np.intp], Pixels]:
        at = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(cells / size)
        cell = np.minimum(np.floor(at).astype(np.intp), cells - 1)
        part = at - cell.astype(np.float32)
        return cell, part * part * (3 - 2 * part)

    cell, part = weights(rows)
    tall = knots[cell] + (knots[1:] - knots[:-1])[cell] * part[:, None]
    cell, part = weights(columns)
    wide = np.take(tall[:, 1:] - tall[:, :-1], cell, axis=1)
    wide *= part
    wide += np.take(tall, cell, axis=1)
    return wide


def light_scene(distance: Pixels, height: Pixels, colour: Pixels, unit: float, table: Pixels, light: Light) -> Pixels:
    """The lit hand with its shadow on the table [3, N, N].

    Args:
        distance: signed distance to the hand's outline [N, N] in pixels, negative inside.
        height: over the table [N, N] in pixels.
        colour: of the skin under white light [3, N, N].
        unit: pixels in a decimetre.
        table: [3, N, N].
        light: of the scene.
    """
    table = table * _shadow(distance, unit, light)
    alpha = limit(np.float32(0.5) - distance)
    if alpha.any():
        box = tuple(slice(seen[0], seen[-1] + 1) for seen in (alpha.any(side).nonzero()[0] for side in (1, 0)))
        below = table[:, *box]
        below += (_lit_skin(distance, height, colour, unit, light, box) - below) * alpha[box]
    return table


def _shadow(distance: Pixels, unit: float, light: Light) -> Pixels:
    """What a soft shadow leaves of the light: the outline again, moved away from the light."""
    (lx, ly), (reach, depth) = light.direction, light.shadow
    rows, columns = (
        limit(np.arange(len(distance)) + round(side * reach * unit * 2), len(distance) - 1) for side in (ly, lx)
    )
    moved = np.take(distance[rows], columns, axis=1)
    shadow = limit(np.float32(0.6) - moved * np.float32(1 / (2.5 * reach * unit)))
    return 1 - np.float32(depth) * shadow * shadow * (3 - 2 * shadow)


def _lit_skin(
    distance: Pixels, height: Pixels, colour: Pixels, unit: float, light: Light, box: tuple[slice, slice]
) -> Pixels:
    """The skin in the light, [3, h, w] of the rows and columns of ``box``."""
    lx, ly = light.direction
    slope_x, slope_y = np.zeros_like(height), np.zeros_like(height)
    np.subtract(height[:, 2:], height[:, :-2], out=slope_x[:, 1:-1])
    np.subtract(height[2:], height[:-2], out=slope_y[1:-1])
    slope_x, slope_y = slope_x[box] * np.float32(0.5), slope_y[box] * np.float32(0.5)
    flat = 1 / np.sqrt(slope_x * slope_x + slope_y * slope_y + 1)
    toward = -(slope_x * np.float32(lx) + slope_y * np.float32(ly))
    facing = limit((np.float32(_LIGHT_HEIGHT) + np.float32(0.6) * toward) * flat, 1.2)
    edge = limit(distance[box] * np.float32(-1 / (0.05 * unit)))
    shade = np.float32(light.ambient) + np.float32((1 - light.ambient) / _LIGHT_HEIGHT) * facing
    shade *= np.float32(0.72) + np.float32(0.28) * edge
    gloss = limit(facing * np.float32(1.1) - np.float32(0.2))
    gloss *= gloss
    gloss *= gloss
    gloss *= np.float32(light.shine)
    # Light scattered in skin is red: shadows keep more red than blue.
    red = np.array([0.12, 0.03, 0.0], np.float32)[:, None, None]
    skin = (1 - shade) * red
    skin += shade
    skin *= colour[:, *box]
    skin += gloss
    return skin


def expose(picture: Pixels, light: Light, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """The camera's 8 bits [N, N, 3] of a scene [3, N, N]: uneven light, white balance, focus, noise."""
    size = picture.shape[1]
    grid = np.arange(size, dtype=np.float32) * np.float32(2 / size) - 1
    fall = 1 + np.float32(light.slope[0]) * grid[None, :] + np.float32(light.slope[1]) * grid[:, None]
    picture = picture * (fall * light.gains.astype(np.float32)[:, None, None])
    soft = _soften(_soften(picture, 1), 2)
    picture = picture + (soft - picture) * np.float32(min(light.blur, 1.0))
    noise = rng.random(picture.shape, dtype=np.float32) + rng.random(picture.shape, dtype=np.float32) - 1
    picture = picture + noise * np.float32(2.4 * light.noise)
    return np.ascontiguousarray(
        np.clip(np.floor(picture * 255 + np.float32(0.5)), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    )


def _soften(picture: Pixels, axis: int) -> Pixels:
    """Weights 1-2-1 along ``axis``."""
    ahead = np.take(picture, np.clip(np.arange(1, picture.shape[axis] + 1), 0, picture.shape[axis] - 1), axis)
    behind = np.take(picture, np.clip(np.arange(-1, picture.shape[axis] - 1), 0, None), axis)
    return (ahead + behind + picture + picture) * np.float32(0.25)
