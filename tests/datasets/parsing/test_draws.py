"""Repeated splits of a user's own data: other galleries, folds over people, shares of the training set."""

from collections import Counter
from itertools import pairwise

import pytest

from datasets import make_dataset
from datasets.parsing.draws import Draws, draw
from datasets.parsing.splits import SplitRow
from tests.datasets.hand_trees import message, plant
from tests.datasets.pictures import hand_config

PEOPLE = [f"p{i}_{side}" for i in range(8) for side in ("left", "right")]


@pytest.fixture
def root(tmp_path):
    paths = [f"train/{name}/{i}.jpg" for name in PEOPLE[:8] for i in range(4)]
    paths += [f"query/{name}/{i}.jpg" for name in PEOPLE[8:] for i in range(3)]
    paths += [f"gallery/{name}/{i}.jpg" for name in PEOPLE[8:] for i in range(3, 5)]
    return plant(tmp_path / "d", *paths, "gallery/stranger/9.jpg")


def paths(records):
    return {record.path for record in records}


def test_runs_enrol_other_images_as_many_as_the_split_does(root):
    fixed = make_dataset(hand_config(root))
    assert [trial.run for trial in fixed.trials] == [None]
    drawn = make_dataset(hand_config(root, "TEST.RUNS", "5", "DATASETS.RUN", "2"))
    assert [trial.run for trial in drawn.trials] == [2, 3, 4, 5, 6]
    assert drawn.train == fixed.train and not any("one fixed split" in note for note in drawn.notes)
    for trial in drawn.trials:
        assert paths(trial.query) | paths(trial.gallery) == paths(fixed.test_images)
        counts = Counter(record.pid for record in trial.gallery)
        assert counts == Counter(record.pid for record in fixed.gallery)  # 2 each, the distractor 1
        assert drawn.test_identities.index("stranger") not in {record.pid for record in trial.query}
    assert len({frozenset(paths(trial.gallery)) for trial in drawn.trials}) == 5
    again = make_dataset(hand_config(root, "DATASETS.RUN", "4", "TEST.RUNS", "2"))
    assert paths(again.gallery) == paths(drawn.trials[2].gallery)


@pytest.mark.parametrize("how", ["hand", "listing"])
def test_folds_test_every_person_once_and_no_training_person(root, how):
    keys = ["DATASETS.FOLDS", "3", "DATASETS.NAMES", how]
    if how == "listing":
        lines = []
        for path in sorted(root.rglob("*.jpg")):
            split, identity, _ = path.relative_to(root).parts
            lines.append(f"{path.relative_to(root)},{identity},{split},{identity.split('_')[0]}")
        (root / "listing.csv").write_text("\n".join(["path,identity,split,person", *lines]))
    else:
        keys += ["DATASETS.PERSON_SEPARATOR", "_"]
    tested = []
    for fold in range(3):
        data = make_dataset(hand_config(root, *keys, "DATASETS.FOLD", str(fold), "TEST.RUNS", "2"))
        train, test = ({n.split("_")[0] for n in names} for names in (data.train_identities, data.test_identities))
        assert not train & test and len(train | test) == 9
        assert Counter(r.pid for r in data.gallery) == dict.fromkeys(range(len(data.test_identities)), 1)
        assert len(data.train) + len(data.test_images) == len(list(root.rglob("*.jpg")))
        assert [trial.run for trial in data.trials] == [0, 1]
        tested += test
    assert len(tested) == len(set(tested)) == 9


def test_impossible_folds(root):
    assert "fewer than two for each" in message(make_dataset, hand_config(root, "DATASETS.FOLDS", "9"))
    assert "from 0 to FOLDS - 1" in message(hand_config, root, "DATASETS.FOLDS", "3", "DATASETS.FOLD", "3")
    assert "expected two folds" in message(hand_config, root, "DATASETS.FOLDS", "1")
    keys = ("DATASETS.NAMES", "hand_fkp", "DATASETS.FOLDS", "2")
    assert "for hand and listing, not for hand_fkp" in message(make_dataset, hand_config(root, *keys))


def test_more_images_of_one_person_leave_the_others_alone():
    rows = [SplitRow(f"{who}/{i}", who, "train") for who in map(str, range(40)) for i in range(2)]
    before = draw(rows, Draws(folds=2))[0]
    after = draw([*rows, SplitRow("7/2", "7", "train")], Draws(folds=2))[0]
    assert {row for row in after if row.identity != "7"} == {row for row in before if row.identity != "7"}


def fraction(root, share, by="ids", seed=0):
    keys = ("DATASETS.TRAIN_FRACTION", share, "DATASETS.TRAIN_FRACTION_BY", by, "DATASETS.TRAIN_FRACTION_SEED", seed)
    return make_dataset(hand_config(root, *map(str, keys)))


@pytest.mark.parametrize("by", ["ids", "images"])
def test_smaller_fractions_lie_in_larger_ones(root, by):
    whole = make_dataset(hand_config(root))
    parts = [fraction(root, share, by) for share in (0.25, 0.5, 0.75, 1.0)]
    assert [len(part.train) for part in parts] == [8, 16, 24, 32]
    for small, large in pairwise(parts):
        assert paths(small.train) < paths(large.train)
    for part in parts:
        assert part.query == whole.query and part.gallery == whole.gallery
        assert {r.pid for r in part.train} == set(range(part.num_train_pids))
        each = Counter(r.pid for r in part.train)
        assert len(set(each.values())) == 1
    assert [part.num_train_pids for part in parts] == ([2, 4, 6, 8] if by == "ids" else [8, 8, 8, 8])
    assert f"DATASETS.TRAIN_FRACTION 0.5 of the {by} (seed 0): 16 of 32 images" in parts[1].notes[-1]
    assert len({frozenset(paths(fraction(root, 0.5, by, seed).train)) for seed in range(4)}) > 1
    assert parts[3].train == whole.train


def test_fractions_leave_enrolled_training_images_in_the_gallery(tmp_path):
    lines = [f"{who}{i}.jpg,{who},train+gallery" for who in "abcd" for i in range(4)] + ["q.jpg,a,query"]
    plant(tmp_path, *(line.split(",")[0] for line in lines))
    (tmp_path / "listing.csv").write_text("\n".join(["path,identity,split", *lines]))
    data = make_dataset(hand_config(tmp_path, "DATASETS.NAMES", "listing", "DATASETS.TRAIN_FRACTION", "0.5"))
    assert len(data.train) == 8 and len(data.gallery) == 16


def test_too_little_is_refused(root):
    assert "at least two identities" in message(fraction, root, 0.1)
    assert "TRAIN_FRACTION = 0.0" in message(fraction, root, 0)
