"""Points of drawn hands under known transforms, whose truth is exact, and agreement against a slow search."""

import sys

import numpy as np
import pytest
from PIL import Image

from datasets.synthetic_hand.dataset import _rng, identity_hand
from datasets.synthetic_hand.drawing import draw_hand
from utils.errors import ReIDError
from utils.retrieval.points import BORDER, MOST, NONE, Points, agreeing_points, find_points

SIZE = 160


def hand(identity, size=SIZE):
    return Image.fromarray(draw_hand(identity_hand(0, identity), "palmar", _rng(0, identity, 1), size))


@pytest.fixture(scope="module")
def one():
    pytest.importorskip("cv2")
    return hand(1)


@pytest.fixture(scope="module")
def points(one):
    return find_points(one)


def moved(image, turn, scale):
    """``image`` turned clockwise by ``turn`` degrees and enlarged about its centre; where places [P, 2] come to lie."""
    inverse = np.exp(-1j * np.radians(turn)) / scale
    middle = SIZE / 2
    shift = middle - inverse * (middle + 1j * middle)
    coefficients = (inverse.real, -inverse.imag, shift.real, inverse.imag, inverse.real, shift.imag + middle)
    picture = image.transform(image.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC)

    def place(places):
        z = (places - 0.5) @ np.array([1, 1j]) / inverse
        return np.stack([z.real, z.imag], 1) + 0.5

    return picture, place


@pytest.mark.parametrize(("turn", "scale"), [(0, 1.0), (20, 1.0), (-33, 1.0), (0, 1.25), (0, 0.75), (12, 0.85)])
def test_a_known_transform_is_found_again(one, points, turn, scale):
    picture, place = moved(one, turn, scale)
    found = agreeing_points(points, find_points(picture))
    assert found.count >= 60
    assert found.turn == pytest.approx(turn, abs=0.6) and found.scale == pytest.approx(scale, rel=0.01)
    error = np.linalg.norm(place(found.left) - found.right, axis=1)
    assert error.max() < 0.03 and np.median(error) < 0.004


def test_limits_on_turn_and_scale_are_kept(one, points):
    for turn, scale, limits in ((30, 1.0, {"turn": 15}), (0, 1.3, {"scale": 1.1})):
        other = find_points(moved(one, turn, scale)[0])
        assert agreeing_points(points, other).count > 10 * agreeing_points(points, other, **limits).count


def test_two_identical_images_agree_in_every_point_and_two_people_in_next_to_none(one, points):
    assert agreeing_points(points, find_points(one.copy())).count == len(points.places) > 200
    assert agreeing_points(points, find_points(hand(2))).count < 10


def test_the_count_is_the_same_both_ways(one, points):
    for other in (find_points(hand(2)), find_points(moved(one, 10, 1.1)[0])):
        forth, back = agreeing_points(points, other), agreeing_points(other, points)
        assert forth.count == back.count
        assert {*map(tuple, forth.left)} == {*map(tuple, back.right)}
        assert forth.scale == pytest.approx(1 / back.scale) and forth.turn == pytest.approx(-back.turn)


def test_images_without_points(points):
    pytest.importorskip("cv2")
    for grey in (0, 128, 255):
        empty = find_points(Image.new("RGB", (90, 70), (grey,) * 3))
        assert empty.places.shape == (0, 2) and empty.described.shape == (0, 128)
        assert agreeing_points(points, empty).count == agreeing_points(empty, empty).count == 0
    tiny = find_points(np.zeros((1, 1), np.uint8))
    assert agreeing_points(tiny, points).count == 0
    assert agreeing_points(NONE, NONE).left.shape == (0, 2)


def test_size_and_colour_of_the_image_do_not_matter(points):
    """Places are in units of the longer side, whatever the pixels; a flat image has its shorter side below 1."""
    large = find_points(hand(1).resize((2 * SIZE, 2 * SIZE), Image.Resampling.BICUBIC))
    assert agreeing_points(points, large).count > 150
    flat = find_points(hand(1).crop((0, 40, SIZE, 120)))
    assert flat.places[:, 1].max() < 0.5 < flat.places[:, 0].max() < 1
    assert len(points.places) <= MOST and points.described.dtype == np.uint8


def test_no_points_near_the_border_nor_near_what_a_mask_leaves_out(one):
    pixel = 1 / 512
    free = find_points(one).places
    assert free.min() >= BORDER - 2 * pixel and free.max() <= 1 - BORDER + 2 * pixel
    mask = np.zeros((SIZE, SIZE), bool)
    mask[:, SIZE // 2 :] = True
    inside = find_points(one, mask).places
    assert len(inside) > 30 and inside[:, 0].min() >= 0.5 + BORDER - 3 * pixel
    assert len(find_points(one, np.zeros_like(mask)).places) == 0
    with pytest.raises(ReIDError, match=r"mask is \[3, 3\], the image \[160, 160\]"):
        find_points(one, mask[:3, :3])


def slow_count(a, b, ratio=0.9, tolerance=0.02, turn=40.0, scale=1.6):
    """Most matches within ``tolerance`` of any similarity transform through two matches, by loops."""
    left, right = (p.described.astype(float) for p in (a, b))
    left, right = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (left, right))
    distance = np.sqrt(np.maximum(2 - 2 * left @ right.T, 0))
    matches = []
    for i, row in enumerate(distance):
        j = int(row.argmin())
        column = distance[:, j]
        clear = row[j] < ratio * np.partition(row, 1)[1] and column[i] < ratio * np.partition(column, 1)[1]
        if column.argmin() == i and clear:
            matches.append((a.places[i].astype(float), b.places[j].astype(float)))
    best = 0
    for p, (a1, b1) in enumerate(matches):
        for a2, b2 in matches[p + 1 :]:
            if min(np.linalg.norm(a2 - a1), np.linalg.norm(b2 - b1)) < 0.04:
                continue
            size = np.linalg.norm(b2 - b1) / np.linalg.norm(a2 - a1)
            angle = np.arctan2(*(b2 - b1)[::-1]) - np.arctan2(*(a2 - a1)[::-1])
            if max(size, 1 / size) > scale or abs((np.degrees(angle) + 180) % 360 - 180) > turn:
                continue
            cos, sin = size * np.cos(angle), size * np.sin(angle)
            matrix = np.array([[cos, -sin], [sin, cos]])
            errors = [np.linalg.norm(b1 + matrix @ (m - a1) - n) for m, n in matches]
            best = max(best, sum(error <= tolerance * np.sqrt(size) for error in errors))
    return best


def test_agreement_without_opencv_equals_a_slow_search(monkeypatch):
    """Made-up points: 20 of 34 follow a transform with an error, the others lie anywhere."""
    monkeypatch.setitem(sys.modules, "cv2", None)
    for seed in range(4):
        random = np.random.default_rng(seed)
        described = random.integers(0, 90, (34, 128)).astype(np.uint8)
        places = random.uniform(0.1, 0.9, (34, 2)).astype(np.float32)
        cos, sin = 1.2 * np.cos(np.radians(17)), 1.2 * np.sin(np.radians(17))
        turned = (places - 0.5) @ np.array([[cos, sin], [-sin, cos]]) + 0.5
        turned += random.normal(0, 0.006, turned.shape)
        turned[20:] = random.uniform(0, 1, (14, 2))
        noisy = (described + random.integers(0, 9, described.shape)).astype(np.uint8)
        order = random.permutation(34)
        a, b = Points(places, described), Points(turned[order].astype(np.float32), noisy[order])
        found, slow = agreeing_points(a, b), slow_count(a, b)
        # The transform fitted to all agreeing points may explain more than any two of them.
        assert slow >= 15 and slow <= found.count <= slow + 3
        assert found.turn == pytest.approx(17, abs=2)


def test_without_opencv_the_message_has_the_line_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ReIDError, match=r"needs the package OpenCV; cv2 is not.*pip install opencv-python-headless"):
        find_points(Image.new("RGB", (20, 20)))
