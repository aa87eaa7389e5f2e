"""11k Hands: the counts of the published protocol and the rules of its splits."""

import csv
import random
from collections import Counter

import pytest

from datasets.hands.hand_11k import ASPECTS, LAST_TRAIN_ID, Hand11k, read_hands, split_11k
from datasets.listing import Listing
from datasets.parsing.splits import split_of, write_split
from tests.datasets.hand_trees import message, plant, shared

COLUMNS = (
    "id",
    "age",
    "gender",
    "skinColor",
    "accessories",
    "nailPolish",
    "aspectOfHand",
    "imageName",
    "irregularities",
)
LEAKING = (1039, 1042, 1043, 1046, 1050, 1051)

# ids, images, train_all ids and images, train, val, test ids and images, query, gallery: as published
FACTS = {
    "dorsal right": (143, 2004, 72, 962, 890, 72, 71, 1042, 971, 71),
    "dorsal left": (146, 1869, 73, 808, 735, 73, 73, 1061, 988, 73),
    "palmar right": (143, 1965, 72, 977, 905, 72, 71, 988, 917, 71),
    "palmar left": (151, 2027, 76, 1004, 928, 76, 75, 1023, 948, 75),
}


def _people() -> dict[str, tuple[list[int], list[int]]]:
    """Train and test people of each aspect: 172 in all; six train in one aspect and test in another."""
    low = [*range(73), 500]
    high = [1060 + 7 * i for i in range(91)] + [1_200_000]
    return {
        "dorsal right": ([*low[:67], 1039, 1042, 1043, 1046, 1050], [1051, *high[-70:]]),
        "dorsal left": (low[:73], [*LEAKING, *high[:67]]),
        "palmar right": ([*low[-66:], *LEAKING], high[:71]),
        "palmar left": ([*low, 1039, 1042], [1043, 1046, 1050, 1051, *high[10:81]]),
    }


def _rows() -> list[dict[str, str]]:
    """A table with the marginal counts of the real one: 11,076 images, of which 7,865 without accessories."""
    rng = random.Random(11)
    drawn: list[tuple[int, str, int]] = []
    for aspect, groups in _people().items():
        for people, images in zip(groups, (FACTS[aspect][3], FACTS[aspect][7]), strict=True):
            repeats = [person for person in people for _ in range(2)]
            repeats += rng.choices(people, k=images - len(repeats))
            drawn += [(person, aspect, 0) for person in repeats]
    adorned = [*range(2000, 2018), *LEAKING]
    drawn += [(rng.choice(adorned), rng.choice(ASPECTS), 1) for _ in range(11_076 - len(drawn))]
    rng.shuffle(drawn)
    rows = []
    for number, (person, aspect, accessories) in enumerate(drawn):
        values = (f"{person:07d}", 27, "male", "fair", accessories, 0, aspect, f"Hand_{number:07d}.jpg", 0)
        rows.append(dict(zip(COLUMNS, map(str, values), strict=True)))
    blank = next(r for r in rows if r["id"] == "1200000" and r["aspectOfHand"] == "dorsal right")
    blank["id"] = "1200000 "
    return rows


def _write(root, rows) -> None:
    root.mkdir(exist_ok=True)
    with (root / "HandInfo.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def rows():
    return _rows()


@pytest.fixture(scope="module")
def table(tmp_path_factory, rows):
    root = tmp_path_factory.mktemp("full")
    _write(root, rows)
    return root / "HandInfo.csv"


@pytest.fixture(scope="module")
def hands(table):
    return read_hands(table)[0]


@pytest.fixture(scope="module")
def full(tmp_path_factory, rows):
    """All images without accessories, as files that cannot be opened as images."""
    root = tmp_path_factory.mktemp("data")
    _write(root / "11k_hands", rows)
    (root / "11k_hands" / "Hands").mkdir()
    for row in rows:
        if row["accessories"] == "0":
            (root / "11k_hands" / "Hands" / row["imageName"]).touch()
    return root


def _split(hands, aspect, run=0, seed=0, distractors=True, hold_out=True):
    return split_11k(hands, aspect, run=run, seed=seed, distractors=distractors, hold_out=hold_out)


def test_the_table(rows, hands, table):
    assert len(rows) == 11_076
    assert len(hands) == 7_865 and len({hand.person for hand in hands}) == 172
    assert read_hands(table)[1] == []


@pytest.mark.parametrize("aspect", ASPECTS)
def test_published_counts(hands, aspect):
    ids, images, train_all_ids, train_all, train, val, test_ids, test, query, gallery = FACTS[aspect]
    mine = [hand for hand in hands if hand.aspect == aspect]
    assert (len({h.person for h in mine}), len(mine)) == (ids, images)
    for run in range(10):
        rows = _split(hands, aspect, run)
        count = Counter(row.split for row in rows)
        assert count == {"train": train, "val": val, "query": query, "gallery": 290}
        alone = Counter(row.split for row in _split(hands, aspect, run, distractors=False))
        assert alone == {"train": train, "val": val, "query": query, "gallery": gallery}
        trained = [row for row in rows if row.split in ("train", "val")]
        assert (len({row.identity for row in trained}), len(trained)) == (train_all_ids, train_all)
        tested = [row for row in rows if row.split in ("query", "gallery") and len(row.identity) == 7]
        assert (len({row.identity for row in tested}), len(tested)) == (test_ids, test)
    assert Counter(row.split for row in _split(hands, aspect, hold_out=False))["train"] == train_all


@pytest.mark.parametrize("aspect", ASPECTS)
def test_split_against_the_table(rows, hands, aspect):
    """Every row of the split is checked against HandInfo.csv itself."""
    table = {f"Hands/{row['imageName']}": row for row in rows}
    split = _split(hands, aspect, run=4)
    assert len({row.path for row in split}) == len(split)
    for row in split:
        truth = table[row.path]
        assert truth["accessories"] == "0"
        offset = int(row.identity) - int(truth["id"])
        if offset:
            assert row.split == "gallery" and truth["aspectOfHand"] != aspect
            assert offset in (11_000_000, 21_000_000, 31_000_000)
            assert int(truth["id"]) > LAST_TRAIN_ID[truth["aspectOfHand"]]
        else:
            assert truth["aspectOfHand"] == aspect
            assert (int(truth["id"]) <= LAST_TRAIN_ID[aspect]) == (row.split in ("train", "val"))
        assert row.view == "" and row.camera == ""
    for split_name, of in (("val", ("train", "val")), ("gallery", ("query", "gallery"))):
        people = {row.identity for row in split if row.split in of}
        assert Counter(row.identity for row in split if row.split == split_name) == dict.fromkeys(people, 1)


def test_distractors_are_the_galleries_of_the_other_aspects(hands):
    expected = {
        "dorsal right": ("dorsal left", "palmar right", "palmar left"),
        "dorsal left": ("dorsal right", "palmar right", "palmar left"),
        "palmar right": ("palmar left", "dorsal right", "dorsal left"),
        "palmar left": ("palmar right", "dorsal right", "dorsal left"),
    }

    def gallery(aspect, distractors):
        rows = _split(hands, aspect, run=2, distractors=distractors)
        return [(row.path, int(row.identity)) for row in rows if row.split == "gallery"]

    for aspect, others in expected.items():
        wanted = gallery(aspect, False)
        for i, other in enumerate(others, start=1):
            wanted += [(path, person + i * 10_000_000 + 1_000_000) for path, person in gallery(other, False)]
        assert gallery(aspect, True) == wanted


def test_splits_are_reproducible_and_vary_with_run_and_seed(hands):
    again = random.Random(0).sample(hands, len(hands))  # rows in another order
    assert sorted(_split(again, "dorsal right", 3)) == sorted(_split(hands, "dorsal right", 3))

    def chosen(split, **how):
        return {row.path for row in _split(hands, "palmar left", **how) if row.split == split}

    galleries = [chosen("gallery", run=run, distractors=False) for run in range(10)]
    assert len(set(map(frozenset, galleries))) == 10
    assert chosen("gallery", seed=1) != chosen("gallery", seed=0)
    assert chosen("val", run=7) == chosen("val", run=0)  # the model is trained once, and tested ten times
    assert chosen("val", seed=1) != chosen("val", seed=0)


def test_a_trailing_blank_does_not_make_a_second_person(table, hands):
    assert "1200000 ," in table.read_text()
    right = [hand for hand in hands if hand.aspect == "dorsal right" and hand.person == 1_200_000]
    gallery = [row for row in _split(hands, "dorsal right") if row.identity == "1200000" and row.split == "gallery"]
    assert len(right) > 1 and len(gallery) == 1


def test_joint_mode_keeps_people_apart(rows, hands):
    table = {f"Hands/{row['imageName']}": row for row in rows}
    split = _split(hands, "all")
    people = {True: set(), False: set()}
    for row in split:
        truth = table[row.path]
        assert row.view == truth["aspectOfHand"]
        assert row.identity == f"{int(truth['id']):07d} {truth['aspectOfHand'].split()[1]}"
        people[row.split in ("train", "val")].add(int(truth["id"]))
    assert not people[True] & people[False] and people[True] | people[False] == {h.person for h in hands}
    assert set(LEAKING) <= people[False]
    assert len(split) == 7_865
    # one gallery image of each test hand in each aspect; validation images of training hands likewise
    for name, of in (("val", ("train", "val")), ("gallery", ("query", "gallery"))):
        groups = {(row.identity, row.view) for row in split if row.split in of}
        assert Counter((r.identity, r.view) for r in split if r.split == name) == dict.fromkeys(groups, 1)


def test_a_joint_model_may_be_tested_on_every_single_aspect(hands):
    trained = {row.identity[:7] for row in _split(hands, "all") if row.split in ("train", "val")}
    for aspect in ASPECTS:
        tested = [r for r in _split(hands, aspect) if r.split in ("query", "gallery")]
        assert not {f"{int(r.identity) % 10_000_000:07d}" for r in tested if len(r.identity) == 7} & trained


def test_data_set(full):
    data = Hand11k(full, aspect="palmar left", run=1, part="train")
    assert (len(data.train), len(data.val), len(data.query), len(data.gallery)) == (928, 76, 948, 290)
    assert data.num_train_pids == 76 and data.num_train_views == 1 and data.notes == []
    assert {(r.camid, r.viewid) for r in (*data.train, *data.query, *data.gallery)} == {(0, 0)}
    assert all(data.has_positive()) and data.camera_rule == "none"
    assert data.root == full / "11k_hands"
    alone = Hand11k(full / "11k_hands", aspect="palmar left", gallery="aspect")
    assert (len(alone.train), len(alone.val), len(alone.gallery)) == (1004, 0, 75)


def test_joint_data_set(full):
    data = Hand11k(full, aspect="all")
    assert data.num_train_views == 4 and data.num_train_cams == 1 and data.notes == []
    views = {}
    for record in data.train:
        views.setdefault(data.train_identities[record.pid].split()[1], set()).add(record.viewid)
    assert views == {"left": {0, 2}, "right": {1, 3}}  # dorsal left, dorsal right, palmar left, palmar right
    assert all(data.has_positive())


def test_two_people_evaluate_the_same_split(full, tmp_path):
    for aspect in ("dorsal left", "all"):
        data = Hand11k(full, aspect=aspect, run=6, seed=3, part="train")
        write_split(tmp_path / "split.csv", split_of(data, data.root))
        again = Listing(tmp_path / "split.csv", full / "11k_hands")
        for split in ("train", "val", "query", "gallery"):
            assert getattr(again, split) == getattr(data, split)


def test_missing_images_are_counted(full, tmp_path, rows):
    _write(tmp_path / "11k", rows)
    assert "has none of the 7865 images" in message(Hand11k, tmp_path)
    present = [row for row in rows if row["accessories"] == "0"][:600]
    plant(tmp_path / "11k", *(f"Hands/{row['imageName']}" for row in present))
    data = Hand11k(tmp_path)
    assert data.notes[0].startswith("7265 of 7865 images of HandInfo.csv are not in Hands/: Hand_")
    assert any("dorsal right, train: expected 72 identities and 962 images, found" in n for n in data.notes)
    used = {r.path for r in (*data.train, *data.query, *data.gallery)}
    assert used <= {str(tmp_path / "11k" / "Hands" / row["imageName"]) for row in present}


def test_only_the_test_images_are_needed_for_a_test(tmp_path, rows):
    _write(tmp_path, rows)
    test = [
        row["imageName"]
        for row in rows
        if row["accessories"] == "0" and row["aspectOfHand"] == "dorsal right" and int(row["id"]) > 1050
    ]
    plant(tmp_path, *(f"Hands/{name}" for name in test))
    data = Hand11k(tmp_path, require_train=False)
    assert (len(data.train), len(data.query), len(data.gallery)) == (0, 971, 71)
    assert "the train set has no image" in message(Hand11k, tmp_path)
    joint = Hand11k(tmp_path, aspect="all", require_train=False)
    assert {r.viewid for r in joint.query} == {1}  # the number it has when all aspects train


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"aspect": "dorsal"}, "DATASETS.ASPECT = 'dorsal': choose one of dorsal left"),
        ({"gallery": "own"}, "DATASETS.GALLERY = 'own'"),
        ({"part": "val"}, "part = 'val'"),
        ({"run": -1}, "DATASETS.RUN is -1"),
    ],
)
def test_arguments(full, arguments, expected):
    assert expected in message(Hand11k, full, **arguments)


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("id", "anna", "line 3, column 'id': 'anna' is not a whole number"),
        ("accessories", "yes", "line 3, column 'accessories': 'yes' is not 0 or 1"),
        ("aspectOfHand", "dorsal", "line 3, column 'aspectOfHand': 'dorsal' is not one of dorsal left"),
        ("imageName", "../x.jpg", "line 3, column 'imageName': '../x.jpg' is not a file name"),
        ("imageName", "", "line 3, column 'imageName'"),
    ],
)
def test_damaged_tables(tmp_path, rows, column, value, expected):
    _write(tmp_path, [rows[0], rows[1] | {column: value}])
    assert expected in message(read_hands, tmp_path / "HandInfo.csv")


def test_repeated_rows(tmp_path, rows):
    first = rows[0] | {"accessories": "0"}
    _write(tmp_path, [first, first])
    hands, notes = read_hands(tmp_path / "HandInfo.csv")
    assert len(hands) == 1 and "1 rows are repeated" in notes[0]
    _write(tmp_path, [first, first | {"id": "77"}])
    assert "line 3: " in message(read_hands, tmp_path / "HandInfo.csv")


def test_the_error_for_missing_data_names_its_source(tmp_path):
    text = message(Hand11k, tmp_path)
    assert "HandInfo.csv" in text and "sites.google.com/view/11khands" in text and "it holds: nothing" in text
    assert "no such folder" in message(Hand11k, tmp_path / "x")


# train ids and images, test ids and images, test ids with two images or more (README of the data)
REAL = {
    "dorsal right": (19, 81, 10, 25, 7),
    "dorsal left": (17, 50, 17, 51, 14),
    "palmar right": (17, 37, 16, 33, 13),
    "palmar left": (24, 69, 17, 75, 16),
}


@pytest.mark.parametrize("aspect", ASPECTS)
def test_real_photographs(aspect):
    train_ids, train, test_ids, test, findable_ids = REAL[aspect]
    data = Hand11k(shared("11k_hands"), aspect=aspect)
    assert (data.num_train_pids, len(data.train)) == (train_ids, train)
    assert len(data.gallery) == 10 + 17 + 16 + 17
    assert len(data.query) == test - test_ids
    assert len({record.pid for record in data.query}) == findable_ids
    assert all(data.has_positive())


def test_real_photographs_jointly():
    data = Hand11k(shared("11k_hands"), aspect="all")
    assert len(data.train) + len(data.query) + len(data.gallery) == 421
    assert not {name[:7] for name in data.train_identities} & {name[:7] for name in data.test_identities}
