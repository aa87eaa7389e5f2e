"""Turned rectangles of pictures, against the position of each pixel in float64 and against Pillow's own operations."""

import math

import numpy as np
import pytest
from PIL import Image

from utils.images import Reading, decode, read_image
from utils.windows import Frame, Target, Window, border_colour, contained, covering, cut, to_picture

RNG = np.random.default_rng(5)


def ramp(width, height):
    """Red grows to the right, green downwards: a pixel encodes its place."""
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return Image.fromarray(np.stack([x, y, 0 * x + 90], -1).round().astype(np.uint8))


def noise(width, height):
    return Image.fromarray(RNG.integers(0, 256, (height, width, 3)).astype(np.uint8))


@pytest.mark.parametrize("turn", [0, 17, 90, -133.7, 180])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_each_pixel_comes_from_where_the_window_is(turn, interpolation):
    """The axes of the window: (cos, sin) to the right, (-sin, cos) downwards, whatever the matrix says."""
    centre, size, (rows, columns) = (120.0, 110.0), (70.0, 56.0), (28, 35)
    seen = np.asarray(cut(ramp(240, 220), Frame(turn, centre, size), 1.0, Target((rows, columns), interpolation)))
    cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    for row, column in ((0, 0), (3, 30), (14, 17), (27, 34)):
        right = ((column + 0.5) / columns - 0.5) * size[0]
        down = ((row + 0.5) / rows - 0.5) * size[1]
        expected = (centre[0] + cos * right - sin * down, centre[1] + sin * right + cos * down)
        assert np.abs(seen[row, column, :2] - expected).max() < 1.5


def test_nothing_to_do_changes_nothing():
    picture = noise(30, 20)
    for interpolation in ("nearest", "bilinear", "bicubic"):
        same = cut(picture, Frame(0, (15, 10), (30, 20)), 1.0, Target((20, 30), interpolation))
        assert np.array_equal(same, picture)
    assert np.array_equal(cut(picture, Frame(0, (15, 10), (30, 20))), picture)


@pytest.mark.parametrize(("turn", "back"), [(90, Image.Transpose.ROTATE_90), (180, Image.Transpose.ROTATE_180)])
def test_right_angles_are_pillow_s_turns(turn, back):
    picture = noise(24, 24)
    found = cut(picture, Frame(turn, (12, 12), (24, 24)), 1.0, Target((24, 24), "bilinear"))
    assert np.abs(np.asarray(found, int) - np.asarray(picture.transpose(back), int)).max() <= 1


def test_much_smaller_results_are_averages_not_samples():
    picture = noise(240, 160)
    found = cut(picture, Frame(0, (120, 80), (240, 160)), 1.0, Target((40, 60), "bilinear"))
    assert np.array_equal(found, picture.reduce(4))


def test_a_draft_is_the_same_part():
    large = ramp(200, 160)
    frame, target = Frame(31, (90, 80), (60, 60)), Target((30, 30), "bilinear")
    small = cut(large.reduce(2), frame, 0.5, target)
    assert np.abs(np.asarray(cut(large, frame, 1.0, target), int) - np.asarray(small, int)).max() <= 2


def test_crop_keeps_the_shape_of_what_it_shows():
    frame = covering(Frame(10, (50, 40), (80, 40)), (32, 16))
    assert frame.size == (20, 40) and frame.centre == (50, 40)
    step = to_picture(frame, (32, 16))[:, :2]
    assert np.hypot(*step[:, 0]) == pytest.approx(np.hypot(*step[:, 1]))


@pytest.mark.parametrize(("size", "expected"), [((80, 40), (20, 40)), ((30, 90), (40, 13)), ((50, 50), (40, 40))])
def test_of_a_letterbox_the_inside_is_cut(size, expected):
    """The black border comes afterwards, so that it is black whatever lies around the window."""
    frame = Frame(10, (50, 40), size)
    found = cut(noise(120, 100), frame, 1.0, Target((40, 40), "bilinear", "letterbox"))
    assert found.size[::-1] == expected == contained(size, (40, 40))


def test_outside_is_the_colour_of_the_border():
    pixels = np.full((20, 30, 3), (200, 210, 220), np.uint8)
    pixels[5:15, 5:25] = 0
    picture = Image.fromarray(pixels)
    assert border_colour(picture) == (200, 210, 220)
    assert tuple(np.asarray(cut(picture, Frame(0, (-40, -40), (30, 30))))[15, 15]) == (200, 210, 220)


def save(path, picture):
    picture.save(path, quality=95)
    return str(path)


def test_reading_cuts_a_window_where_there_is_one(tmp_path):
    path, picture = save(tmp_path / "a.png", noise(40, 30)), noise(40, 30)
    picture = Image.open(path)
    window, target = Window(25, (20, 15), (20, 20)), Target((16, 16), "bilinear")
    expected = cut(picture, Frame(*window[:3]), 1.0, target)
    found = read_image(path, Reading(windows={path: window}), target=target)
    assert np.array_equal(found, expected)
    mirrored = read_image(path, Reading(windows={path: window}, mirrored={path}), target=target)
    assert np.array_equal(mirrored, expected.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    assert np.array_equal(read_image(path, Reading(windows={"b": window}), target=target), picture)
    # A window without a place is that of the box, or of the whole picture.
    boxed = Reading(windows={path: Window(0)}, boxes={path: (4, 6, 20, 10)})
    assert np.array_equal(read_image(path, boxed), picture.crop((4, 6, 24, 16)))
    assert np.array_equal(read_image(path, Reading(windows={path: Window(0)})), picture)


def test_a_window_of_another_picture_is_refused(tmp_path):
    path = save(tmp_path / "a.png", noise(40, 30))
    with pytest.raises(ValueError, match="of a picture of 80x60 pixels, it has 40x30: find them again"):
        decode(path, Reading(windows={path: Window(0, of=(80, 60))}))


def test_a_draft_decodes_enough_for_the_window(tmp_path):
    path = save(tmp_path / "a.jpg", ramp(240, 240).resize((960, 960)))
    window, target = Window(40, (480, 480), (240, 240)), Target((60, 60), "bilinear")
    reading = Reading(windows={path: window})
    whole = np.asarray(read_image(path, reading, target=target), int)
    draft = np.asarray(read_image(path, reading, 60, target=target), int)
    assert np.abs(whole - draft).max() <= 6
