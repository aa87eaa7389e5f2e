"""The folder layout for one's own hands."""

import os
import shutil

import pytest
from PIL import Image

from datasets.hands.folder import HandFolder
from tests.datasets.hand_trees import message, names, plant

TRAIN = ("train/zoe/1.jpg", "train/zoe/2.JPG", "train/9/a.png", "train/10/b.jpeg")
TEST = ("test/query/eve/q.jpg", "test/gallery/eve/g.jpg", "test/gallery/max/g.jpg")


def test_identities_are_folder_names_in_sorted_order(tmp_path):
    data = HandFolder(plant(tmp_path, *TRAIN, *TEST))
    assert data.train_identities == ["10", "9", "zoe"]
    assert names(data.train, data.train_identities, tmp_path) == [
        ("train/10/b.jpeg", "10"),
        ("train/9/a.png", "9"),
        ("train/zoe/1.jpg", "zoe"),
        ("train/zoe/2.JPG", "zoe"),
    ]
    assert [r.pid for r in data.train] == [0, 1, 2, 2]
    assert names(data.query, data.test_identities, tmp_path) == [("test/query/eve/q.jpg", "eve")]
    assert {r.pid for r in data.gallery} == {0, 1}
    assert {(r.camid, r.viewid) for r in (*data.train, *data.query, *data.gallery)} == {(0, 0)}
    assert data.camera_rule == "none" and data.prompt == "A photo of a {} hand."
    assert data.notes == []


def test_query_and_gallery_beside_train(tmp_path):
    plant(tmp_path, *TRAIN, *(path.removeprefix("test/") for path in TEST))
    data = HandFolder(tmp_path)
    assert [r.path for r in data.query] == [str(tmp_path / "query/eve/q.jpg")]


def test_flat_folders(tmp_path):
    plant(tmp_path, *TRAIN, "query/eve_2_x.jpg", "query/max_1.jpg", "gallery/eve_1.jpg", "gallery/max_9.bmp")
    data = HandFolder(tmp_path)
    assert names(data.query, data.test_identities, tmp_path) == [
        ("query/eve_2_x.jpg", "eve"),
        ("query/max_1.jpg", "max"),
    ]
    assert all(data.has_positive())
    assert "gallery/007.jpg" in message(HandFolder, plant(tmp_path, "gallery/007.jpg"))


def test_folders_and_loose_images_together_are_refused(tmp_path):
    text = message(HandFolder, plant(tmp_path, *TRAIN, *TEST, "train/overview_1.jpg"))
    assert "loose images (overview_1.jpg)" in text


def test_a_test_alone_needs_no_train_folder(tmp_path):
    plant(tmp_path, *TEST)
    assert HandFolder(tmp_path, require_train=False).train == []
    text = message(HandFolder, tmp_path)
    assert str(tmp_path / "train") in text and "test/query/<identity>" in text


@pytest.mark.parametrize("gone", ["train", "test/query", "test/gallery"])
def test_missing_and_empty_folders(tmp_path, gone):
    plant(tmp_path, *TRAIN, *TEST)
    shutil.rmtree(tmp_path / gone)
    assert f"{tmp_path / gone}: no such folder" in message(HandFolder, tmp_path)
    (tmp_path / gone).mkdir()
    assert f"{tmp_path / gone}: no images found" in message(HandFolder, tmp_path)
    plant(tmp_path, f"{gone}/eve/photo.heic")
    assert ".heic 1" in message(HandFolder, tmp_path)


def test_missing_root(tmp_path):
    text = message(HandFolder, tmp_path / "nowhere")
    assert "nowhere: no such folder" in text and "DATASETS.ROOT_DIR" in text


def test_litter_is_ignored_and_other_files_are_counted(tmp_path):
    plant(tmp_path, *TRAIN, *TEST)
    plant(tmp_path, "train/zoe/Thumbs.db", "train/zoe/.DS_Store", "train/.cache/x.jpg", "train/zoe/._1.jpg")
    plant(tmp_path, "train/zoe/notes.txt", "train/readme.txt", "train/9/raw.HEIC", "train/9/old/c.jpg")
    (tmp_path / "train/empty").mkdir()
    data = HandFolder(tmp_path)
    assert len(data.train) == len(TRAIN) and data.num_train_pids == 3
    assert data.notes == [
        "train: 3 files left out, not images (.heic 1, .txt 2)",
        "train: 1 folders inside identity folders are not read: 9/old",
        "train: 1 identity folders hold no image: empty",
    ]


def test_one_training_identity_cannot_be_trained_on(tmp_path):
    plant(tmp_path, "train/zoe/1.jpg", *TEST)
    assert "one identity (zoe)" in message(HandFolder, tmp_path)
    assert len(HandFolder(tmp_path, require_train=False).train) == 1


def test_a_link_to_nowhere_is_no_picture_of_the_gallery(tmp_path):
    plant(tmp_path, *TRAIN, *TEST, "test/gallery/eve/q.jpg")
    (tmp_path / "test/query/eve/q.jpg").unlink()
    (tmp_path / "test/query/eve/q.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert len(HandFolder(tmp_path).query) == 1  # DATASETS.BAD_IMAGES says what becomes of it


def test_the_same_file_in_query_and_gallery_is_refused(tmp_path):
    plant(tmp_path, *TRAIN, *TEST, "test/gallery/eve/q.jpg")
    for split, content in (("query", "a"), ("gallery", "b")):  # same name, size and time, other content
        file = tmp_path / "test" / split / "eve/q.jpg"
        file.write_text(content)
        os.utime(file, (0, 0))
    HandFolder(tmp_path)
    shutil.copy(tmp_path / "test/query/eve/q.jpg", tmp_path / "test/gallery/eve/q.jpg")
    text = message(HandFolder, tmp_path)
    assert "test/query/eve/q.jpg and test/gallery/eve/q.jpg are the same file" in text


def test_one_photo_in_two_formats_is_noted(tmp_path):
    data = HandFolder(plant(tmp_path, *TRAIN, *TEST, "train/zoe/1.png"))
    assert len(data.notes) == 1 and "perhaps the same photo twice: zoe" in data.notes[0]


def test_people_in_train_and_test_and_lost_queries_are_noted(tmp_path):
    plant(tmp_path, *TRAIN, *TEST, "test/query/zoe/1.jpg", "test/query/zoe/2.jpg")
    data = HandFolder(tmp_path)
    assert data.has_positive() == [True, False, False]
    assert any("2 of 3 queries have no match" in note and "zoe" in note for note in data.notes)
    assert any("1 identity is both in the train and in the test set" in note for note in data.notes)


def test_no_query_with_a_match_is_an_error(tmp_path):
    plant(tmp_path, *TRAIN, "test/query/a/1.jpg", "test/gallery/b/1.jpg")
    assert "no query identity appears in the gallery" in message(HandFolder, tmp_path)


def test_images_are_not_opened_while_reading(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("a reader opened an image")

    monkeypatch.setattr(Image, "open", fail)
    HandFolder(plant(tmp_path, *TRAIN, *TEST))


def _views(root, *lines, header="path,view"):
    (root / "views.csv").write_text("\n".join((header, *lines)), encoding="utf-8")


ALL_VIEWS = [f"{path},{'palm' if path.endswith('jpg') else 'back'}" for path in (*TRAIN, *TEST)]


def test_views_are_numbered_in_sorted_order(tmp_path):
    plant(tmp_path, *TRAIN, *TEST)
    _views(tmp_path, *ALL_VIEWS)
    data = HandFolder(tmp_path)
    assert [r.viewid for r in data.train] == [
        0,
        0,
        1,
        0,
    ]  # b.jpeg, a.png, 1.jpg are back, back, palm; 2.JPG is back
    assert data.num_train_views == 2
    assert {r.viewid for r in (*data.query, *data.gallery)} == {1}


def test_views_by_file_name_and_numbers_and_cameras(tmp_path):
    plant(tmp_path, "train/a/1.jpg", "train/b/2.jpg", "query/c/3.jpg", "gallery/c/4.jpg")
    _views(tmp_path, "1.jpg,10,x", "2.jpg,9,y", "query\\c\\3.jpg,10,y", "4.jpg,10,x", header="path,view,camera")
    data = HandFolder(tmp_path, camera_rule="market")
    assert [r.viewid for r in data.train] == [1, 0]  # 9 before 10, by value
    assert [r.camid for r in (*data.train, *data.query, *data.gallery)] == [0, 1, 1, 0]
    assert data.num_train_cams == 2


def test_views_keep_their_numbers_without_the_training_images(tmp_path):
    plant(tmp_path, *TRAIN, *TEST)
    _views(tmp_path, *ALL_VIEWS)
    before = HandFolder(tmp_path)
    shutil.rmtree(tmp_path / "train")
    after = HandFolder(tmp_path, require_train=False)
    assert after.query == before.query and after.gallery == before.gallery


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([*ALL_VIEWS, "train/zoe/1.jpg,back"], "line 9: train/zoe/1.jpg has other labels here"),
        ([*ALL_VIEWS, "train/zoe/99.jpg,palm"], "1 of its images are not in"),
        (ALL_VIEWS[1:], "1 of 7 images are not named in it: train/zoe/1.jpg"),
        ([*ALL_VIEWS[1:], "train/zoe/1.jpg,"], "line 8, column 'view' is empty"),
        ([*ALL_VIEWS, "g.jpg,palm"], "'g.jpg' could be test/gallery/eve/g.jpg, test/gallery/max/g.jpg"),
        ([*ALL_VIEWS, "x.jpg"], "line 9 has 1 cells, the header 2"),
    ],
)
def test_views_that_do_not_fit(tmp_path, lines, expected):
    plant(tmp_path, *TRAIN, *TEST)
    _views(tmp_path, *lines)
    text = message(HandFolder, tmp_path)
    assert expected in text and "views.csv" in text


def test_a_repeated_view_with_the_same_label_is_harmless(tmp_path):
    plant(tmp_path, *TRAIN, *TEST)
    _views(tmp_path, *ALL_VIEWS, ALL_VIEWS[0])
    assert HandFolder(tmp_path).num_train_views == 2
