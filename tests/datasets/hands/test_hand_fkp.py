"""PolyU finger knuckles: sessions as cameras, people disjoint."""

from pathlib import Path

import pytest

from datasets.hands.hand_fkp import PolyUFKP
from tests.datasets.hand_trees import message, plant, shared

FINGERS = ("001_left_index", "001_right_index", "083_left_middle", "084_left_middle", "165_right middle")


@pytest.fixture
def root(tmp_path):
    return plant(tmp_path, *(f"{finger}/{n:02d}ROI.jpg" for finger in FINGERS for n in (1, 6, 7, 12)))


def test_split(root):
    data = PolyUFKP(root)
    assert data.train_identities == ["001_left_index", "001_right_index", "083_left_middle"]
    assert data.test_identities == ["084_left_middle", "165_right_middle"]
    assert (len(data.train), len(data.query), len(data.gallery)) == (12, 4, 4)
    assert {Path(r.path).name for r in data.gallery} == {"01ROI.jpg", "06ROI.jpg"}
    assert {Path(r.path).name for r in data.query} == {"07ROI.jpg", "12ROI.jpg"}
    for record in data.train:
        assert record.camid == (0 if Path(record.path).name < "07" else 1)
    assert {r.camid for r in data.gallery} == {0} and {r.camid for r in data.query} == {1}
    assert data.num_train_cams == 2 and data.notes == [] and data.prompt == "A photo of a {} finger knuckle."


def test_the_camera_rule_makes_no_difference(root):
    assert all(PolyUFKP(root, camera_rule="market").has_positive()) and all(PolyUFKP(root).has_positive())


def test_the_folder_above_is_accepted(tmp_path):
    plant(tmp_path / "polyu_fkp_roi", *(f"{f}/{n:02d}ROI.jpg" for f in FINGERS for n in (1, 7)))
    assert PolyUFKP(tmp_path).root == tmp_path / "polyu_fkp_roi"


def test_other_files_are_noted(root):
    plant(root, "002_left_thumb/01ROI.jpg", "readme.txt", "001_left_index/cover.jpg", "001_left_index/x.txt")
    notes = PolyUFKP(root).notes
    assert len(notes) == 3
    assert any("002_left_thumb" in note for note in notes) and any(".txt 1" in note for note in notes)
    assert any("001_left_index: 2 files" in note for note in notes)


def test_missing_files_are_named(tmp_path):
    text = message(PolyUFKP, tmp_path)
    assert "no finger folders" in text and "Hong Kong Polytechnic" in text
    assert "no such folder" in message(PolyUFKP, tmp_path / "x")
    plant(tmp_path, *(f"{finger}/01ROI.jpg" for finger in FINGERS))
    assert "the query set is empty" in message(PolyUFKP, tmp_path)
    plant(tmp_path, "084_left_middle/07ROI.jpg")
    assert PolyUFKP(tmp_path).num_train_cams == 1


def test_real_photographs():
    data = PolyUFKP(shared("polyu_fkp_roi"))
    assert (data.num_train_pids, len(data.train)) == (332, 3961)
    assert len({r.pid for r in data.query}) == len({r.pid for r in data.gallery}) == 328
    assert (len(data.query), len(data.gallery)) == (1967, 1952)
    assert len(data.train) + len(data.query) + len(data.gallery) == 7880 and data.notes == []
    assert all(data.has_positive())
    people = [{name[:3] for name in names} for names in (data.train_identities, data.test_identities)]
    assert max(people[0]) == "083" and min(people[1]) == "084" and len(people[0] | people[1]) == 165
