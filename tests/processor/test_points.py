"""The chart of agreeing points, and agreeing points in a search."""

import re
import sys
from collections import namedtuple

import numpy as np
import pytest
from PIL import Image

from processor import points as command
from processor.extract import list_folder
from processor.points import draw_pairs, main
from processor.search.answers import search
from processor.search.command import run
from processor.search.formats import as_html, as_json, as_text
from processor.search.points import Detail
from tests.datasets.pictures import save
from tests.utils.retrieval.test_points import SIZE, hand
from utils.images import AS_STORED
from utils.plots.points import _INK, SHOWN, TOO_FEW, in_words, well_spread


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    """Three drawn people with two photographs each, the second one turned."""
    pytest.importorskip("cv2")
    root = tmp_path_factory.mktemp("people")
    for person in range(3):
        picture = hand(person)
        save(root / f"p{person}" / "a.png", picture)
        save(root / f"p{person}" / "b.png", picture.rotate(8, fillcolor=(80, 80, 80)))
    return root


def circles(chart):
    """Whether rows [h] of a chart hold the colour of the circles."""
    return (np.asarray(chart) == _INK).all(2).any(1)


def test_a_chart_of_two_images(gallery, tmp_path, capsys):
    chart = tmp_path / "chart.png"
    assert main([str(gallery / "p0" / "a.png"), str(gallery / "p0" / "b.png"), "--output", str(chart)]) == 0
    said = capsys.readouterr()
    count = int(re.match(r"(\d+) agreeing points; rotated by -8 degrees, scale 1\.00", said.out)[1])
    assert count > 40 and "biometric data" in said.out + said.err
    picture = Image.open(chart)
    left, right = (picture.crop((x, 0, x + 490, picture.height)) for x in (0, 495))
    assert circles(left).any() and circles(right).any() and not picture.info


def test_a_gallery_gives_another_pair_of_people_for_contrast(gallery, tmp_path, capsys):
    files = [str(gallery / "p1" / name) for name in ("a.png", "b.png")]
    assert main([*files, "--gallery", str(gallery), "--output", str(tmp_path / "c.png")]) == 0
    first, second = capsys.readouterr().out.strip().splitlines()[:2]
    assert second.startswith("for comparison, two different people: ")
    few, most = (int(re.search(r"(\d+) agreeing", line)[1]) for line in (second, first))
    assert few < TOO_FEW < most and f"{few} agreeing points (too few to decide), the most of 12 pairs" in second
    pairs = draw_pairs(list_folder(gallery), 0)
    assert (
        len(pairs) == 12 and all(a.identity != b.identity for a, b in pairs) and draw_pairs(pairs[0][:1] * 5, 0) == []
    )


def test_masks_and_limits(gallery, tmp_path, capsys):
    files = [str(gallery / "p0" / name) for name in ("a.png", "b.png")]
    half = np.zeros((SIZE, SIZE), np.uint8)
    half[:, : SIZE // 2] = 255
    mask = save(tmp_path / "mask.png", half)
    output = ["--output", str(tmp_path / "c.png")]
    counts = []
    for more in ([], ["--mask-a", mask], ["--turn", "3"]):
        assert main([*files, *more, *output]) == 0
        counts.append(int(re.match(r"(\d+) agreeing", capsys.readouterr().out)[1]))
    assert counts[0] > counts[1] > counts[2] and counts[2] < TOO_FEW


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--output", "c.jpg"], "must end in .png"),
        (["--output", "c.png", "--scale", "0.5"], "--scale 0.5: expected at least 1"),
        (["--output", "c.png", "--gallery", "one"], "it shows one person"),
        (["--output", "c.png", "--mask-b", "one/x/small.png"], "Give a mask of the image's size"),
    ],
)
def test_mistakes(gallery, tmp_path, monkeypatch, capsys, more, message):
    monkeypatch.chdir(tmp_path)
    save("one/x/small.png", np.zeros((5, 5), np.uint8))
    assert main([str(gallery / "p0" / "a.png"), str(gallery / "p1" / "a.png"), *more]) == 2
    said = capsys.readouterr()
    assert message in said.out + said.err


def test_without_opencv(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert main(["a.png", "b.png", "--output", str(tmp_path / "c.png")]) == 2
    given = namedtuple("Given", "top points format output")(1, 5, "text", None)
    said = capsys.readouterr()
    assert "pip install opencv-python-headless" in said.out + said.err
    with pytest.raises(command.ReIDError, match=r"--points needs the package OpenCV"):
        run(given)


def test_numbered_points_are_well_spread():
    places = np.random.default_rng(0).random((200, 2))
    chosen = well_spread(places)
    assert len(chosen) == SHOWN == len(set(chosen)) and chosen[0] == 0
    between = np.linalg.norm(places[chosen][:, None] - places[chosen], axis=2) + 9 * np.eye(SHOWN)
    assert between.min() > 0.2  # twelve points of a unit square cannot be farther apart than about 0.39
    assert well_spread(places[:0]) == [] and well_spread(np.zeros((4, 2))) == [0]
    assert in_words(1) == "1 agreeing point (too few to decide)" and in_words(TOO_FEW) == "10 agreeing points"


def test_a_search_is_ordered_by_points(gallery, tmp_path):
    """Features rank p2, then p1, then p0; the points of the nearest images give another order."""
    listed = list_folder(gallery)
    query = str(gallery / "p0" / "a.png")
    known = np.array([[1.0, 0.4 + 0.2 * int(image.identity[1])] for image in listed])
    paths = [str(gallery / image.name) for image in listed]
    given = ([query], known, listed, 3)
    plain = search(np.array([[1.0, 0.9]]), *given)
    assert [a.identity for a in plain] == ["p2", "p1", "p0"] and plain[0].points is None
    detail = Detail(6, paths, tmp_path / "kept", AS_STORED)
    found = search(np.array([[1.0, 0.9]]), *given, detail=detail)
    assert found[0].identity == "p0" and found[0].points > 200 > 20 > found[1].points >= found[2].points
    assert found[0].image == "p0/a.png"
    short = search(np.array([[1.0, 0.9]]), *given, detail=Detail(2, paths, tmp_path / "kept", AS_STORED))
    assert [a.identity for a in short] == ["p2", "p1", "p0"] and short[2].points is None
    assert len(list((tmp_path / "kept").glob("*.points"))) == 1
    assert "points" in as_text(found).splitlines()[0] and "points" not in as_text(plain)
    assert '"points": null' in as_json(plain)
    html = as_html(found, gallery, detail=detail)
    assert "Agreeing points of the first answer" in html and "not a likelihood ratio" in html
