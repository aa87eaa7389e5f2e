"""The ranking sheet: frames, captions and pictures where they belong."""

import numpy as np
import pytest
from PIL import Image

from utils.plots.sheets import QUERY, RIGHT, WRONG, Answer, Ranking, Seen, ranking_sheet, saliency_sheet

BLUE = (0, 0, 204)  # which every palette has


@pytest.fixture
def picture(tmp_path):
    def draw(width, height, mode="RGB"):
        path = tmp_path / f"{width}x{height}{mode}.png"
        Image.new("RGB", (width, height), BLUE).convert(mode).save(path)
        return str(path)

    return draw


def boxes(sheet, colour):
    """Left, top, right and bottom (inclusive) of each frame: rows of its colour as wide as a frame's edge."""
    mask = (np.asarray(sheet) == colour).all(-1)
    found = []
    for y, row in enumerate(mask):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
        for left, right in edges.reshape(-1, 2):
            if right - left >= 20 and (y == 0 or not mask[y - 1, left:right].all()):
                found.append((left, y, right - 1))
    return found


def test_frames_distinguish_query_right_and_wrong(picture):
    square = picture(40, 40)
    answers = [Answer(square, "a", 0.1, True), Answer(square, "b", 0.2, False), Answer(square, "a", 0.3, True)]
    sheet = ranking_sheet([Ranking(square, "a", 0.83, answers)] * 2, "title", cell=(40, 40))
    pixels = np.asarray(sheet)
    outer = {colour: [box for box in boxes(sheet, colour) if box[2] - box[0] == 47] for colour in (QUERY, RIGHT, WRONG)}
    # Each frame has a top and a bottom edge: two boxes. Those of wrong answers are dashed.
    assert [len(outer[c]) for c in (QUERY, RIGHT, WRONG)] == [2 * 2, 2 * 4, 0]
    columns = [sorted({left for left, _, _ in outer[c]}) for c in (QUERY, RIGHT)]
    assert columns[0][0] < columns[1][0] < columns[1][1], "query, right, wrong, right"
    between, top = sum(columns[1]) // 2, outer[RIGHT][0][1]
    for edge in (pixels[top + 1, between : between + 48], pixels[top : top + 48, between + 1]):
        assert {tuple(pixel) for pixel in edge.tolist()} == {WRONG, (255, 255, 255)}
        assert (edge[[0, 11, 36, 47]] == WRONG).all() and (edge[12:24] == 255).all()
    del outer[WRONG]
    for colour, found in outer.items():
        for left, top, _ in found[:1]:
            assert tuple(pixels[top + 2, left + 2]) == colour and tuple(pixels[top + 20, left + 1]) == colour
            assert tuple(pixels[top + 24, left + 24]) == BLUE, "the picture is inside its frame"
            assert tuple(pixels[top + 24, left - 2]) == (255, 255, 255), "white is between frames"


@pytest.mark.parametrize("size", [(400, 100), (100, 400), (7, 3), (40, 40)])
@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_pictures_keep_their_shape(picture, size, mode):
    path = picture(*size, mode)
    sheet = ranking_sheet([Ranking(path, "q", 1.0, [])], "", cell=(60, 60))
    inside = np.asarray(sheet).astype(int)
    shade = np.asarray(Image.open(path).convert("RGB"))[0, 0]
    rows, columns = np.nonzero((abs(inside - shade) < 3).all(-1))
    width, height = np.ptp(columns) + 1, np.ptp(rows) + 1
    assert max(width, height) == 60
    assert width / height == pytest.approx(size[0] / size[1], abs=0.06 * size[0] / size[1] + 0.02)


def test_rows_are_as_high_as_their_pictures(picture):
    flat, square = picture(400, 100), picture(40, 40)

    def height(*paths):
        return ranking_sheet([Ranking(path, "q", 1.0, []) for path in paths], "", cell=(60, 60)).height

    assert height(square) - height(flat) == 60 - 15
    assert height(flat, square) == height(square, square)


def test_long_captions_stay_in_their_column(picture):
    square = picture(40, 40)

    def columns_with_ink(identity):
        sheet = ranking_sheet([Ranking(square, identity, 1.0, [])], "", cell=(60, 60))
        caption = np.asarray(sheet)[30 + 60 + 8 :]  # below title, picture and its frame
        ink = np.flatnonzero((caption != 255).any((0, 2)))
        return ink.min(), ink.max()

    short, long = columns_with_ink("1"), columns_with_ink("a_very_long_folder_name_of_one_person_0001")
    assert short[0] == long[0]
    assert short[1] <= long[1] <= 10 + 60 + 2 * 4, "the sheet itself is wider"


def ink(sheet):
    """First and last column of the sheet that is not white."""
    columns = np.flatnonzero((np.asarray(sheet) != 255).any((0, 2)))
    return columns[0], columns[-1]


@pytest.mark.parametrize("pictures", [1, 8])
def test_titles_and_captions_have_their_room(picture, pictures):
    title = "1 of 1 queries, from best to worst; ten nearest each"
    seen = Seen(Image.new("RGB", (40, 40), BLUE), np.ones((2, 2)), "Hand\nAP 100 %")
    sheets = {
        "rankings": ranking_sheet([Ranking(picture(40, 40), "a", 1.0, [])] * pictures, title, cell=(40, 40)),
        "attention": saliency_sheet([seen] * pictures, title, cell=(40, 40)),
    }
    for name, sheet in sheets.items():
        left, right = ink(sheet.crop((0, 0, sheet.width, 26)))
        assert 10 <= left <= 13 and right > 330 and sheet.width - right >= 10, name
    attention = sheets["attention"]
    edges = [ink(attention.crop((0, top, 52, bottom)))[0] for top, bottom in ((32, 68), (90, 118), (132, 160))]
    assert edges[0] == edges[1] == 10 and 10 <= edges[2] <= 12, "picture, overlay and caption begin alike"


def test_rows_of_different_length(picture):
    square = picture(40, 40)
    rows = [Ranking(square, "a", 0.5, [Answer(square, "a", 1.0, True)] * n) for n in (0, 3)]
    sheet = ranking_sheet(rows, "t", cell=(40, 40))
    assert len([b for b in boxes(sheet, RIGHT) if b[2] - b[0] == 47]) == 2 * 3
    assert len([b for b in boxes(sheet, QUERY) if b[2] - b[0] == 47]) == 2 * 2
    assert ranking_sheet([], "nothing").size[0] > 0


def test_the_first_right_image_is_named_where_it_is_not_shown(picture, monkeypatch):
    written = []
    monkeypatch.setattr("utils.plots.sheets.write_lines", lambda sheet, at, caption, *rest: written.append(caption))
    path = picture(20, 20)
    answers = [Answer(path, "b", 0.1, False)] * 2
    ranking_sheet([Ranking(path, "a", 0.02, answers, 37), Ranking(path, "a", 0.5, answers, 2)], "")
    queries = [caption for caption in written if caption.startswith("query")]
    assert queries == ["query a\nAP 2 %, first right 37", "query a\nAP 50 %"]


@pytest.mark.parametrize("size", [(600, 1), (1, 600), (5000, 2)])
def test_a_thin_picture_keeps_at_least_a_pixel(picture, size):
    ranking_sheet([Ranking(picture(*size), "a", 1.0, [])], "")
    saliency_sheet([Seen(Image.new("RGB", size), np.zeros((2, 2)), "thin")], "")
