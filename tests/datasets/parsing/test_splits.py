"""Several random splits of one data set, and the split that chooses a checkpoint."""

from collections import Counter

import pytest

from configs import load_config
from datasets import make_dataset, write_drawn_splits
from datasets.bases import Photo, QueryGallerySplit, ReIDDataset
from datasets.hands.hand_11k import Hand11k
from datasets.hands.hand_hd import HandHD
from datasets.listing import Listing
from datasets.vehicleid import VehicleID
from tests.datasets.hand_trees import message, plant


@pytest.fixture
def hands_11k(tmp_path):
    """Four people who train and four who test, five images of each in every aspect."""
    people = [0, 1, 2, 3, 1060, 1061, 1062, 1063]
    aspects = ("dorsal right", "dorsal left", "palmar right", "palmar left")
    images = [(person, aspect) for aspect in aspects for person in people for _ in range(5)]
    lines = [f"{person:07d},0,{aspect},Hand_{i:07d}.jpg" for i, (person, aspect) in enumerate(images)]
    plant(tmp_path / "11k_hands", *(f"Hands/{line.rpartition(',')[2]}" for line in lines))
    table = "\n".join(["id,accessories,aspectOfHand,imageName", *lines])
    (tmp_path / "11k_hands" / "HandInfo.csv").write_text(table)
    return tmp_path / "11k_hands"


@pytest.fixture
def hd(tmp_path):
    names = [f"1-501/{person}_{n}.jpg" for person in (1, 2, 448, 449, 450) for n in range(4)]
    plant(tmp_path / "HD" / "Original Images", *names, *(f"502-712/{i}_{n}.jpg" for i in (502, 503) for n in range(2)))
    return tmp_path / "HD"


@pytest.fixture
def vehicleid(tmp_path):
    root = plant(tmp_path / "VehicleID_V1.0", *(f"image/{i:07d}.jpg" for i in range(20)))
    (root / "train_test_split").mkdir()
    (root / "train_test_split" / "train_list.txt").write_text("0000000 1\n0000001 1\n0000002 2\n0000003 2\n")
    (root / "train_test_split" / "test_list_800.txt").write_text(
        "".join(f"{i:07d} {i % 4 + 9}\n" for i in range(4, 20))
    )
    return root


def seen(dataset, trial):
    """Paths and names of people, which do not depend on the numbering."""
    return [{(r.path, dataset.test_identities[r.pid], r.viewid) for r in part} for part in (trial.query, trial.gallery)]


@pytest.mark.parametrize(
    ("kind", "folder", "options"),
    [
        (Hand11k, "hands_11k", {"aspect": "palmar right"}),
        (Hand11k, "hands_11k", {"aspect": "all"}),
        (HandHD, "hd", {}),
        (VehicleID, "vehicleid", {}),
    ],
    ids=("11k", "joint", "hd", "vehicleid"),
)
def test_runs_together_are_the_runs_alone(kind, folder, options, request, tmp_path):
    root = request.getfixturevalue(folder)
    together = kind(root, run=2, runs=5, **options)
    assert [trial.run for trial in together.trials] == [2, 3, 4, 5, 6]
    for trial in together.trials:
        alone = kind(root, run=trial.run, **options)
        assert seen(together, trial) == seen(alone, alone.trials[0])
        assert together.train == alone.train
    assert together.trials[0].query == together.query and together.trials[0].gallery == together.gallery
    assert len({frozenset(trial.gallery) for trial in together.trials}) > 1
    images = together.test_images
    assert len({record.path for record in images}) == len(images)
    assert set(images) == {record for trial in together.trials for record in trial.images}
    assert images[: len(together.query)] == together.query
    files = write_drawn_splits(together, tmp_path / "out")
    assert [file.name for file in files] == [f"split_run{i}.csv" for i in range(2, 7)]
    for file, trial in zip(files, together.trials, strict=True):
        listed = Listing(file, together.root)
        assert seen(listed, listed.trials[0]) == seen(together, trial)
    assert listed.trials[0].run is None and not write_drawn_splits(listed, tmp_path / "none")


def test_distractors_are_embedded_once(hands_11k):
    """Every run has the 20 images of the aspect, and of each of the 12 distractors the images that were drawn."""
    data = Hand11k(hands_11k, runs=10)
    drawn = {r.path for trial in data.trials for r in trial.gallery} - {r.path for r in data.query + data.gallery[:4]}
    assert 20 + 12 < len(data.test_images) == 20 + len(drawn - {r.path for t in data.trials for r in t.query})


def test_broken_images_leave_every_run(hands_11k):
    data = Hand11k(hands_11k, runs=3)
    names = {record.path: data.test_identities[record.pid] for record in data.test_images}
    broken = {data.trials[0].query[0].path, data.trials[2].gallery[-1].path}
    data.leave_out(broken)
    assert [trial.run for trial in data.trials] == [0, 1, 2]
    assert {r.path: data.test_identities[r.pid] for r in data.test_images} == {
        path: name for path, name in names.items() if path not in broken
    }


def test_the_number_of_runs_is_that_of_the_configuration(hands_11k, tmp_path):
    keys = ["DATASETS.NAMES", "hand_11k", "DATASETS.ROOT_DIR", str(hands_11k), "TEST.RUNS"]
    assert len(make_dataset(load_config(None, [*keys, "10"])[0]).trials) == 10
    assert len(make_dataset(load_config(None, [*keys, "1"])[0]).trials) == 1
    assert "must be at least 1" in message(load_config, None, [*keys, "0"])


def photos(split, people, images):
    return [Photo(f"{split}/{person}/{n}", person) for person in people for n in range(images)]


def made(val):
    test = photos("query", "xy", 1), photos("gallery", "xy", 1)
    return ReIDDataset(photos("train", "abc", 3), *test, name="made", camera_rule="none", val=val)


def test_held_out_images_of_training_people_are_queries_against_training_images():
    data = made([Photo("val/a", "a"), Photo("val/c", "c"), Photo("val/lone", "z")])
    assert [record.path for record in data.validation.query] == ["val/a", "val/c"]
    assert data.validation.gallery == data.train
    assert {r.pid for r in data.validation.query} <= {r.pid for r in data.train}


def test_held_out_people_are_query_and_gallery():
    data = made([*photos("val", "uvw", 3), Photo("val/a", "a")])
    query, gallery = data.validation[1:]
    assert Counter(r.pid for r in gallery) == dict.fromkeys((3, 4, 5), 1)
    assert Counter(r.pid for r in query) == dict.fromkeys((3, 4, 5), 2)
    assert not set(query) & set(gallery) and all(r.path.startswith("val/") for r in [*query, *gallery])


def test_without_held_out_images_there_is_no_validation():
    assert made([]).validation is None
    assert made([Photo("val/z", "z")]).validation is None


def test_trials_share_the_numbering_of_people():
    """A person who is only in the second run has a number of their own."""
    first = photos("query", "xy", 1), photos("gallery", "xy", 1)
    second = QueryGallerySplit(1, photos("query", "xy", 1), photos("gallery", "vxy", 1))
    data = ReIDDataset(photos("train", "ab", 2), *first, name="made", camera_rule="none", run=0, redrawn=[second])
    assert data.test_identities == ["v", "x", "y"]
    assert [r.pid for r in data.gallery] == [1, 2] and [r.pid for r in data.trials[1].gallery] == [0, 1, 2]


def test_a_published_set_is_evaluated_by_the_configured_rule(tmp_path):
    """All images under one camera: no match under the set's own rule, which must not apply."""
    root = tmp_path / "Market-1501-v15.09.15"
    plant(root / "bounding_box_train", "0002_c1s1_000451_03.jpg", "0010_c1s1_000001_01.jpg")
    plant(root / "query", "0001_c1s1_001051_00.jpg")
    plant(root / "bounding_box_test", "0001_c1s1_000301_01.jpg", "0003_c1s1_000301_01.jpg")
    keys = ["DATASETS.NAMES", "market1501", "DATASETS.ROOT_DIR", str(tmp_path)]
    assert "once images of the same camera are ignored" in message(make_dataset, load_config(None, keys)[0])
    data = make_dataset(load_config(None, [*keys, "DATASETS.CAMERA_RULE", "none"])[0])
    assert data.camera_rule == "none" and all(data.has_positive())
