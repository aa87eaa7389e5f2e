"""Perceptual hashes: copies are found however they were saved, other pictures are not, and memory is bounded."""

import numpy as np
import pytest
from PIL import Image

from datasets.inspect.fingerprints import NEAR_IDENTICAL, fingerprint, fingerprints, similar_pairs
from tests.datasets.hand_trees import shared
from tests.toy_hands import toy_hand


def test_cells_are_those_of_the_definition(tmp_path):
    """A grid of 16 x 16 cells of one value each needs no resizing: the product is NumPy's correlation."""
    grids = np.random.default_rng(0).integers(0, 256, (2, 16, 16), dtype=np.uint8)
    found = []
    for i, grid in enumerate(grids):
        Image.fromarray(np.kron(grid, np.ones((10, 20), np.uint8))).save(tmp_path / f"{i}.png")
        found.append(fingerprint(str(tmp_path / f"{i}.png")))
    expected = np.corrcoef(grids[0].ravel(), grids[1].ravel())[0, 1]
    assert float(found[0].cells @ found[1].cells) == pytest.approx(expected, abs=1e-5)
    assert (found[0].width, found[0].height) == (320, 160)


def test_pictures_of_one_colour_have_no_near_duplicates(tmp_path):
    for name, value in (("a.png", 10), ("b.png", 200)):
        Image.new("L", (50, 50), value).save(tmp_path / name)
    cells = np.stack([fingerprint(str(tmp_path / name)).cells for name in ("a.png", "b.png")])
    assert not list(similar_pairs(cells, cells, NEAR_IDENTICAL))


@pytest.mark.parametrize("copy", ["smaller", "jpeg", "brighter", "grey"])
def test_changed_copies_stay_near(tmp_path, copy):
    photo = Image.open(next(shared("11k_hands").glob("Hands/*.jpg"))).resize((800, 600))
    photo.save(tmp_path / "a.png")
    changed = {
        "smaller": lambda: photo.resize((400, 300)).save(tmp_path / "b.png"),
        "jpeg": lambda: photo.save(tmp_path / "b.png", format="JPEG", quality=80),
        "brighter": lambda: photo.point(lambda v: 0.8 * v).save(tmp_path / "b.png"),
        "grey": lambda: photo.convert("L").save(tmp_path / "b.png"),
    }
    changed[copy]()
    first, second = (fingerprint(str(tmp_path / name)) for name in ("a.png", "b.png"))
    assert first.cells @ second.cells >= NEAR_IDENTICAL and first.digest != second.digest


def test_other_pictures_are_far(tmp_path):
    rng = np.random.default_rng(1)
    for i in range(20):
        toy_hand(0.5, rng, 0.1).resize((128, 128)).save(tmp_path / f"{i}.png")
    found, broken = fingerprints((str(tmp_path / f"{i}.png") for i in range(20)), 2)
    cells = np.stack([f.cells for f in found.values()])
    assert not broken and {(i, j) for i, j, _ in similar_pairs(cells, cells, NEAR_IDENTICAL)} == {
        (i, i) for i in range(20)
    }


def test_pairs_against_one_at_a_time(monkeypatch):
    monkeypatch.setattr("datasets.inspect.fingerprints._TILE", 7)
    rng = np.random.default_rng(2)
    first, second = rng.standard_normal((30, 8)), rng.standard_normal((23, 8))
    expected = {(i, j) for i in range(30) for j in range(23) if float(first[i] @ second[j]) >= 2}
    assert {(i, j) for i, j, _ in similar_pairs(first, second, 2)} == expected and expected


def test_unreadable_files_are_named_with_the_reason(tmp_path):
    toy_hand(0.1, np.random.default_rng(0), 0.1).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"")
    found, broken = fingerprints([str(tmp_path / name) for name in ("good.png", "bad.png", "gone.png")], 1)
    assert [path.rpartition("/")[2] for path in found] == ["good.png"]
    assert [facts.unreadable for facts in broken.values()] == ["the file is empty", "there is no such file"]
