"""Unusable training data, and the messages about it before training starts."""

import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from datasets import check_data, make_dataloader, make_dataset
from tests.datasets.hand_trees import message
from tests.datasets.pictures import hand_config, pixels, plant_hands, save, whole


@pytest.fixture
def root(tmp_path):
    return plant_hands(tmp_path / "hands")


def start(root, *pairs):
    """All that happens before training: configuration, data set, checks."""
    cfg = hand_config(root, *pairs)
    dataset = make_dataset(cfg)
    check_data(cfg, dataset)
    return cfg, dataset


def refused(root, *pairs):
    return message(start, root, *pairs)


def assert_trains(cfg, dataset):
    """An epoch of every loader runs, with labels as the model and the losses need them."""
    made = make_dataloader(cfg, dataset)
    assert list(made.augmented(2))
    for loader, records in ((made.plain, dataset.train), (made.test, [*dataset.query, *dataset.gallery])):
        images, pids, camids, viewids, _ = whole(loader)
        assert len(images) == len(records) and torch.isfinite(images).all()
        assert pids.tolist() == [r.pid for r in records]
        assert set(viewids.tolist()) <= set(range(dataset.num_views)) and set(camids.tolist()) == {0}
    assert {r.pid for r in dataset.train} == set(range(dataset.num_train_pids))
    assert dataset.num_train_pids == len(dataset.train_identities)
    for record in dataset.train:
        assert dataset.train_identities[record.pid] == record.path.split("/")[-2]
    for record in (*dataset.query, *dataset.gallery):
        assert dataset.test_identities[record.pid] == record.path.split("/")[-2]


# ------------------------------------------------------------------------------------------- files that are broken
def _truncated(path):
    save(path, pixels(0, 64, 64), format="JPEG")
    path.write_bytes(path.read_bytes()[:-300])


def _bomb(path):
    save(path, np.zeros((400, 400), np.uint8), format="PNG")


def _half_a_header(path):
    path.write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00")


BROKEN = {
    "truncated": _truncated,
    "text": lambda path: path.write_text("a note to myself"),
    "html": lambda path: path.write_text("<html>404 not found</html>"),
    "empty": lambda path: path.touch(),
    "header": _half_a_header,
    "zeros": lambda path: path.write_bytes(bytes(5000)),
    "bomb": _bomb,
    "pipe": os.mkfifo,
    "dangling link": lambda path: path.symlink_to(path.parent / "nowhere.jpg"),
}
PLACES = {"train": "train/cem", "query": "test/query/xi", "gallery": "test/gallery/yo"}


@pytest.fixture(autouse=True)
def _small_bombs(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_stops_the_run_or_is_left_out_and_counted(root, kind, place):
    path = root / PLACES[place] / "bad.jpg"
    BROKEN[kind](path)
    text = refused(root)
    assert f"1 of 18 images cannot be read: {path} (" in text
    assert "DATASETS.BAD_IMAGES" in text and "Replace or remove" in text

    cfg, dataset = start(root, "DATASETS.BAD_IMAGES", "skip")
    assert len(dataset.train) == 11 and len(dataset.query) == 2 and len(dataset.gallery) == 4
    assert any(note.startswith("1 of 18 images") and note.endswith("; left out") for note in dataset.notes)
    assert_trains(cfg, dataset)


def test_the_check_can_be_switched_off_but_not_against_skipping(root):
    path = root / "train/ann/bad.jpg"
    path.touch()
    _, dataset = start(root, "DATASETS.CHECK_IMAGES", "False")
    assert len(dataset.train) == 12
    _, dataset = start(root, "DATASETS.CHECK_IMAGES", "False", "DATASETS.BAD_IMAGES", "skip")
    assert len(dataset.train) == 11


def test_many_broken_files_are_counted_and_five_named(root):
    for i in range(9):
        (root / f"train/ann/bad{i}.jpg").touch()
    text = refused(root)
    assert "9 of 26 images cannot be read" in text and "and 4 more" in text and text.count("bad") == 5


def test_people_who_vanish_with_their_images_leave_no_gap_in_the_numbers(root):
    for name in ("ann/0", "ann/1", "ann/2", "cem/1"):
        (root / f"train/{name}.png").write_text("broken")
    (root / "test/query/xi/q.png").write_text("broken")
    cfg, dataset = start(root, "DATASETS.BAD_IMAGES", "skip")
    assert dataset.train_identities == ["ben", "cem", "dee"]
    assert [r.pid for r in dataset.train] == [0, 0, 1, 1, 1, 2, 2]
    assert [r.pid for r in dataset.query] == [1] and [r.pid for r in dataset.gallery] == [0, 0, 1, 1]
    assert any("5 of 17 images" in note for note in dataset.notes)
    assert_trains(cfg, dataset)


@pytest.mark.parametrize(
    ("spoilt", "expected"),
    [
        ("train/[bcd]*/*", "one identity (ann)"),
        ("train/*/*", "no image"),
        ("test/query/*/*", "query set is empty"),
        ("test/gallery/*/*", "gallery set is empty"),
    ],
)
def test_when_too_little_is_left_both_reasons_are_given(root, spoilt, expected):
    for path in root.glob(spoilt):
        path.write_text("broken")
    text = refused(root, "DATASETS.BAD_IMAGES", "skip")
    assert expected in text and "images cannot be read" in text


def test_leaving_images_out_renews_the_note_on_lost_queries(root):
    for path in root.glob("test/gallery/xi/*"):
        path.write_text("broken")
    cfg, dataset = start(root, "DATASETS.BAD_IMAGES", "skip")
    assert dataset.has_positive() == [False, True]
    assert sum("1 of 2 queries have no match" in note for note in dataset.notes) == 1
    assert_trains(cfg, dataset)


def _name_views(root, views):
    rows = [f"{path.relative_to(root)},{views(path)}" for path in sorted(root.rglob("*.png"))]
    (root / "views.csv").write_text("\n".join(["path,view", *rows]))


def test_views_keep_the_model_s_numbers_in_a_test_without_training_images(root):
    _name_views(root, lambda path: "palm" if "test" in path.parts else "back")
    shutil.rmtree(root / "train")
    cfg = hand_config(root, "DATASETS.BAD_IMAGES", "skip")
    (root / "test/gallery/xi/g0.png").write_text("broken")
    dataset = make_dataset(cfg, require_train=False)
    check_data(cfg, dataset)
    assert len(dataset.gallery) == 3
    assert {r.viewid for r in (*dataset.query, *dataset.gallery)} == {1}  # "back" is 0, though no file shows it


# ------------------------------------------------------------------------------------------ files that only look odd
def _rotated(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    save(path, pixels(0, 8, 20), exif=exif)


def _animated(path):
    first, *others = (Image.new("RGB", (9, 9), colour) for colour in ("red", "lime", "blue"))
    save(path, first, format="GIF", save_all=True, append_images=others)


ODD = {
    "one pixel": lambda path: save(path, pixels(0, 1, 1)),
    "a line": lambda path: save(path, pixels(0, 1, 900)),
    "sixteen bits": lambda path: save(path, np.full((9, 9), 30_000, np.uint16), format="PNG"),
    "floats": lambda path: save(path, np.full((9, 9), 0.5, np.float32), format="TIFF"),
    "cmyk": lambda path: save(path, Image.new("CMYK", (9, 9), (9, 99, 0, 30))),
    "transparent palette": lambda path: save(
        path, Image.fromarray(pixels(0)).quantize(8), format="PNG", transparency=b"\0\x80"
    ),
    "animated": _animated,
    "rotated": _rotated,
    "another suffix": lambda path: save(path, pixels(0), format="BMP"),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("exif", ["True", "False"])
def test_an_odd_file_is_used(root, kind, exif):
    ODD[kind](root / "train/dee/odd.jpg")
    cfg, dataset = start(root, "INPUT.EXIF", exif)
    assert len(dataset.train) == 12 and not any("cannot be read" in note for note in dataset.notes)
    assert_trains(cfg, dataset)


def test_equal_file_names_of_different_people_are_different_images(root):
    _, dataset = start(root)
    assert [r.path.rpartition("/")[2] for r in dataset.train].count("0.png") == 4
    assert len({r.path for r in dataset.train}) == 11


# ---------------------------------------------------------------------------------------------- folders and splits
@pytest.mark.parametrize("folder", ["", "train", "test/query", "test/gallery"])
def test_missing_and_empty_folders(root, folder):
    shutil.rmtree(root / folder)
    assert f"{root / folder}".rstrip("/") in refused(root)
    (root / folder).mkdir()
    assert "Expected: train/<identity>" in refused(root)


def test_an_identity_with_one_image_is_noted(root):
    save(root / "train/eli/0.png", pixels(99))
    cfg, dataset = start(root)
    assert "1 of 5 training identities have fewer than 2 images (1 have one): " in " ".join(dataset.notes)
    assert_trains(cfg, dataset)


def test_a_query_without_a_match_is_noted(root):
    save(root / "test/query/stranger/q.png", pixels(99))
    cfg, dataset = start(root)
    note = next(note for note in dataset.notes if "have no match" in note)
    assert "1 of 3 queries" in note and "stranger" in note
    assert_trains(cfg, dataset)


def test_no_query_with_a_match(root):
    (root / "test/query/xi").rename(root / "test/query/ping")
    (root / "test/query/yo").rename(root / "test/query/pong")
    assert "no query identity appears in the gallery" in refused(root)


def test_one_class_only(root):
    for name in ("ben", "cem", "dee"):
        shutil.rmtree(root / "train" / name)
    assert "one identity (ann); at least two" in refused(root)


def test_fewer_identities_than_a_batch_needs(root):
    text = refused(root, "SOLVER.STAGE2.IMS_PER_BATCH", "10")
    assert "has 4 identities" in text and "needs 5" in text
    assert "SOLVER.STAGE2.IMS_PER_BATCH" in text and "DATALOADER.NUM_INSTANCE" in text and "to 8 or less" in text
    assert_trains(*start(root, "SOLVER.STAGE2.IMS_PER_BATCH", "8"))
    assert_trains(*start(root, "SOLVER.STAGE2.IMS_PER_BATCH", "10", "DATALOADER.SAMPLER", "softmax"))
    start(root, "SOLVER.STAGE2.IMS_PER_BATCH", "10", "SOLVER.STAGES", "[1]")


def test_a_gallery_of_fewer_than_fifty_is_noted(root):
    assert any("gallery has 4 images" in note for note in start(root)[1].notes)
    for i in range(46):
        save(root / f"test/gallery/yo/more{i}.png", pixels(i))
    assert not any("gallery has" in note for note in start(root)[1].notes)


def test_the_camera_rule_leaves_no_match(root):
    text = refused(root, "DATASETS.CAMERA_RULE", "market")
    assert "no query identity appears in the gallery once images of the same camera are ignored" in text
    assert "set DATASETS.CAMERA_RULE to 'none'" in text


@pytest.mark.parametrize("key", ["MODEL.SIE_VIEW", "MODEL.SIE_CAMERA"])
def test_labels_of_the_test_that_training_never_saw(root, key):
    _name_views(root, lambda path: "palm" if path.parent.name == "yo" else "back")
    table = (root / "views.csv").read_text()
    if key == "MODEL.SIE_CAMERA":
        (root / "views.csv").write_text(
            "\n".join(f"{row},{row.split(',')[1] if i else 'camera'}" for i, row in enumerate(table.split("\n")))
        )
    text = refused(root, key, "True")
    assert key in text and "3 of 6 test images" in text and "training has 1" in text and "yo/q.png" in text
    start(root)
    save(root / "train/ann/palm.png", pixels(50))
    other = ",palm" if key == "MODEL.SIE_CAMERA" else ""
    (root / "views.csv").write_text(f"{(root / 'views.csv').read_text()}\ntrain/ann/palm.png,palm{other}")
    start(root, key, "True")


def test_labels_that_are_no_numbers_are_labels(root):
    (root / "train/ann").rename(root / "train/Ämne Ω")
    _name_views(root, lambda path: "höger" if "train" in path.parts else "3.5")
    cfg, dataset = start(root)
    assert dataset.train_identities[-1] == "Ämne Ω" and dataset.num_train_views == 1
    assert_trains(cfg, dataset)


def test_labels_of_11k_hands_must_be_numbers(root):
    (root / "HandInfo.csv").write_text("id,accessories,aspectOfHand,imageName\nanna,0,dorsal right,a.jpg\n")
    text = refused(root, "DATASETS.NAMES", "hand_11k")
    assert "HandInfo.csv: line 2, column 'id': 'anna' is not a whole number" in text


def _listing(root, *rows):
    (root / "listing.csv").write_text("\n".join(["path,identity,split", *rows]))


def test_a_file_listed_twice(root):
    _listing(root, "train/ann/0.png,ann,train", "train/ben/0.png,ben,train", "./train/ann/0.png,ann,gallery")
    text = refused(root, "DATASETS.NAMES", "listing")
    assert "line 4" in text and "already given at line 2" in text


def test_a_listing_that_climbs_out_of_its_folder(root):
    _listing(root, "../../etc/passwd.jpg,ann,train")
    assert "leaves the data set's folder" in refused(root, "DATASETS.NAMES", "listing")


def test_the_message_of_an_unknown_data_set_has_the_nearest_name(root):
    text = refused(root, "DATASETS.NAMES", "market_1501")
    assert "DATASETS.NAMES = 'market_1501'" in text and "Did you mean market1501?" in text


def test_nothing_is_written_into_the_data(root):
    (root / "train/ann/bad.jpg").touch()
    before = sorted((p, p.stat().st_mtime_ns) for p in root.rglob("*"))
    start(root, "DATASETS.BAD_IMAGES", "skip")
    assert sorted((p, p.stat().st_mtime_ns) for p in root.rglob("*")) == before


# ------------------------------------------------------------------------------------------ what is noted beforehand
def test_a_query_that_is_in_the_gallery_under_another_name_is_counted(root):
    query = root / "test/query/xi/q.png"
    shutil.copy(query, root / "test/gallery/yo/copy.png")
    _, dataset = start(root)
    (note,) = [note for note in dataset.notes if "their first match is a copy" in note]
    assert note.startswith("warning: 1 query is also in the gallery, as identical files under other names, so")
    assert f"{query} = {root}/test/gallery/yo/copy.png" in note and "--drop-duplicates" in note


def test_what_an_epoch_of_pk_batches_covers(root):
    cfg, dataset = start(root)
    loader = make_dataloader(cfg, dataset).augmented(2)
    loader.batch_sampler.set_epoch(1)
    batches = list(loader)
    labels, index = ({int(i) for batch in batches for i in batch[name]} for name in ("labels", "index"))
    covered = f"{len(index)} of 11 training images and {len(labels)} of 4 identities"
    assert f"an epoch is 2 PK batches with {covered}" in dataset.notes
    for i in range(4, 40):
        save(root / f"train/cem/{i}.png", pixels(i))
    _, dataset = start(root)
    (note,) = [note for note in dataset.notes if "PK batch" in note]
    assert note.startswith("warning: an epoch is") and "of 47 training images" in note
    assert "the epoch ends when too few identities have images left" in note


@pytest.mark.parametrize(("white", "expected"), [("auto", "set INPUT.WHITE 4095"), ("4095", "")])
def test_twelve_bits_in_sixteen_are_warned_of_and_read_by_the_key(root, white, expected):
    values = np.random.default_rng(0).integers(0, 4096, (16, 16), dtype=np.uint16)
    values[0, 0] = 4095
    for path in root.rglob("*.png"):
        save(path, values)
    cfg, dataset = start(root, "INPUT.WHITE", white)
    notes = [note for note in dataset.notes if "almost black" in note]
    assert bool(notes) == bool(expected) and all(expected in note for note in notes)
    images = next(iter(make_dataloader(cfg, dataset).test))["images"].to("cpu")
    grey = images[0, 0].numpy() * cfg.INPUT.PIXEL_STD[0] + cfg.INPUT.PIXEL_MEAN[0]
    assert np.abs(grey - values / (65535 if white == "auto" else 4095)).max() < 3e-3


def test_files_that_state_no_white_are_refused_with_the_value_to_set(root):
    for i, path in enumerate(root.rglob("*.png")):
        save(path.with_suffix(".tif"), np.full((16, 16), 100 + i, np.int32))
        path.unlink()
    text = refused(root)
    assert "17 files do not state what white is" in text and "set INPUT.WHITE 255" in text
    start(root, "INPUT.WHITE", "255")
    assert "expected auto" in refused(root, "INPUT.WHITE", "white")
