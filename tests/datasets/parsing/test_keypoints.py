"""Files of key points: what is read from them, and the messages about wrong files."""

from types import SimpleNamespace

import numpy as np
import pytest

from configs import get_defaults
from datasets.bases import Record
from datasets.parsing.keypoints import HAND, PERSON, keypoints_of, read_keypoints
from datasets.parsing.tables import csv_text
from utils.errors import ReIDError

RNG = np.random.default_rng(3)


def columns(count, *others):
    return ["path", *(f"{axis}{i}" for i in range(count) for axis in "xy"), *others]


def write(path, count, rows, *others):
    path.write_text(csv_text(columns(count, *others), rows), encoding="utf-8")
    return path


def refusal(path):
    with pytest.raises(ReIDError) as caught:
        read_keypoints(path)
    return str(caught.value)


@pytest.mark.parametrize("count", [PERSON, HAND])
def test_csv_and_npz_give_the_same_points(tmp_path, count):
    points = RNG.uniform(0, 900, (3, count, 2)).round(2)
    points[1] = np.nan
    points[2, 4] = np.nan
    scores = RNG.uniform(0, 1, (3, count)).round(3)
    facts = {"score": [0.9, 0, 0.5], "hand": ["left", "", "R"], "hands": [1, 0, 2]}
    facts |= {"width": [900, 900, 640], "height": [900, 900, 480]}
    names = ["a/1.jpg", "a/2.jpg", "b\\3.jpg"]
    rows = [
        [names[i], *("" if np.isnan(v) else v for v in points[i].ravel()), *scores[i], *(f[i] for f in facts.values())]
        for i in range(3)
    ]
    table = write(tmp_path / "points.csv", count, rows, *(f"s{i}" for i in range(count)), *facts)
    np.savez(tmp_path / "points.npz", path=names, points=points, scores=scores, **facts)
    for file in (table, tmp_path / "points.npz"):
        known = read_keypoints(file)
        assert known.count == count and list(known.images) == ["a/1.jpg", "a/2.jpg", "b/3.jpg"]
        first, none, two = known.images.values()
        assert np.array_equal(first.points, points[0]) and np.array_equal(first.scores, scores[0])
        assert (first.score, first.hand, first.hands, first.size) == (0.9, "left", 1, (900, 900))
        assert not none.found and none.score == 0 and (none.scores == 0).all()
        assert two.hand == "right" and two.hands == 2 and two.scores[4] == 0 and np.isnan(two.points[4]).all()
        assert np.array_equal(two.points[5:], points[2, 5:])


def test_omitted_columns_and_empty_cells(tmp_path):
    known = read_keypoints(write(tmp_path / "p.csv", HAND, [["a.png", *range(42)], ["b.png", *[""] * 42]]))
    found, none = known.images["a.png"], known.images["b.png"]
    assert found.found and found.score == 1 and found.hands == 1 and (found.scores == 1).all() and found.size is None
    assert not none.found and none.score == 0 and none.hands == 0


@pytest.mark.parametrize(
    ("count", "row", "others", "expected"),
    [
        (18, ["a.png", *range(36)], [], "has 18 points an image; expected 17 (a person, COCO) or 21 (a hand)"),
        (17, ["a.png", *range(33), "left"], [], "line 2, column 'y16': 'left' is not a number"),
        (17, ["a.png", *range(33), ""], [], "line 2: a point needs both coordinates"),
        (17, ["a.png", *range(34), 1.5], ["score"], "line 2: a score lies outside 0 to 1"),
        (17, ["a.png", *range(34), "both"], ["hand"], "hand is 'both'; expected left, right or nothing"),
        (17, ["a.png", *range(34), 1], ["s3"], "some of the columns s0 to s16 are missing"),
        (17, ["a.png", *range(34), 0, 5], ["width", "height"], "the picture is 0x5 pixels"),
    ],
)
def test_tables_that_are_no_key_points_are_refused(tmp_path, count, row, others, expected):
    assert expected in refusal(write(tmp_path / "p.csv", count, [row], *others))


def test_an_image_that_is_listed_twice_is_refused(tmp_path):
    rows = [["a.png", *range(34)], ["a.png", *range(34)]]
    assert "line 3: a.png is listed twice" in refusal(write(tmp_path / "p.csv", 17, rows))


def test_archives_that_are_no_key_points_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", path=["a.png"], points=np.zeros((1, 17, 3)))
    np.savez(tmp_path / "b.npz", points=np.zeros((1, 17, 2)))
    np.savez(tmp_path / "c.npz", path=np.array(["a.png"], object), points=np.zeros((1, 17, 2)))
    (tmp_path / "d.npz").write_bytes(b"PK\3\4")
    for name in "abcd":
        assert "is not a file of key points" in refusal(tmp_path / f"{name}.npz")


def data_set(tmp_path, *names):
    records = [Record(f"{tmp_path}/{name}", 0, 0, 0) for name in names]
    return SimpleNamespace(name="hands", root=tmp_path, train=records, val=[], test_images=records)


def test_points_are_found_by_the_path_below_the_data_set(tmp_path):
    cfg, dataset = get_defaults(), data_set(tmp_path, "p/1.png", "q/1.png")
    with pytest.raises(ReIDError, match=r"no such file\. Make it with python -m datasets\.keypoints"):
        keypoints_of(cfg, dataset)
    write(tmp_path / "keypoints.csv", HAND, [["q/1.png", *range(42)], ["r/1.png", *range(42)]])
    known = keypoints_of(cfg, dataset)
    assert known.count == 21 and list(known.images) == [f"{tmp_path}/q/1.png"]
    cfg.DATASETS.KEYPOINTS = str(write(tmp_path / "other.csv", HAND, [["1.png", *range(42)]]))
    with pytest.raises(ReIDError, match=r"none of the 2 images of hands: it has 1\.png, the images are p/1\.png"):
        keypoints_of(cfg, dataset)
