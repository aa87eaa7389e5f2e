"""The data set `pattern`: names, roles, people, and what is refused."""

import pytest

from configs import load_config
from datasets import make_dataset
from tests.datasets.hand_trees import message, names, plant, shared

PATTERN = r"(?P<person>\d{3})_(?P<side>[lr])_(?P<session>[12])_(?P<sample>\d)(?P<gender>[mf])?\.png"
FKP = r"(?P<person>\d{3})_(?P<side>left|right)[_ ](?P<finger>index|middle)/(?P<sample>\d\d)ROI\.jpg"


@pytest.fixture
def root(tmp_path):
    """Four people, both hands, two sessions of two images."""
    files = [f"{p:03d}_{side}_{s}_{n}.png" for p in range(1, 5) for side in "lr" for s in (1, 2) for n in (1, 2)]
    return plant(tmp_path, *(f"deep/er/{name}" for name in files))


def read(root, *pairs, require_train=True):
    keys = {"NAMES": "pattern", "ROOT_DIR": root, "PATTERN": f"deep/er/{PATTERN}"}
    keys |= dict(zip(pairs[::2], pairs[1::2], strict=True))
    words = [str(word) for key, value in keys.items() for word in (key if "." in key else f"DATASETS.{key}", value)]
    return make_dataset(load_config(None, words)[0], require_train)


def test_an_open_protocol(root):
    data = read(root, "TRAIN", "{person: 1-2}", "ENROL", "{session: 1}", "PROBE", "{session: 2}")
    assert data.train_identities == ["001_l", "001_r", "002_l", "002_r"]
    assert data.test_identities == ["003_l", "003_r", "004_l", "004_r"]
    assert (len(data.train), len(data.query), len(data.gallery)) == (16, 8, 8)
    assert names(data.gallery, data.test_identities, root)[:2] == [
        ("deep/er/003_l_1_1.png", "003_l"),
        ("deep/er/003_l_1_2.png", "003_l"),
    ]
    assert {r.camid for r in data.gallery} == {0} and {r.camid for r in data.query} == {1}
    assert data.protocol == "open" and data.person(data.query[0]) == "003"
    assert data.attributes[data.query[0].path] == {"person": "003", "hand": "left", "session": "2"}
    assert "32 images of 8 identities and 4 people; side l (16), r (16); session 1 (16), 2 (16)" in data.notes[0]


def test_halves_of_the_people_by_default(root):
    data = read(root, "TEST.RUNS", 2)
    people = [{data.person(r) for r in part} for part in (data.train, data.query, data.gallery)]
    assert len(people[0]) == 2 and people[1] == people[2] and not people[0] & people[1]
    assert (len(data.gallery), len(data.query), len(data.trials)) == (4, 12, 2)
    assert data.trials[0].gallery != data.trials[1].gallery
    assert people[0] != {r.path for r in read(root, "SPLIT_SEED", 3).train}


def test_what_is_not_named_is_the_rest(root):
    probes = read(root, "PROBE", "{session: 2, sample: 1}")
    assert (len(probes.query), len(probes.gallery)) == (4, 12)
    enrolled = read(root, "ENROL", "{sample: 1}")
    assert (len(enrolled.query), len(enrolled.gallery)) == (8, 8)
    none = read(root, "TRAIN", "none", require_train=False)
    assert (len(none.train), len(none.test_images)) == (0, 32)


def test_a_closed_protocol(root):
    data = read(root, "PROTOCOL", "closed", "ENROL", "{session: 1}", "PROBE", "{session: 2}")
    assert data.train_identities == data.test_identities and data.num_train_pids == 8
    assert {r.path for r in data.train} == {r.path for r in data.gallery} and len(data.query) == 16
    assert any("closed protocol: 8 of 8 test identities train too, and 16 of 16 gallery" in n for n in data.notes)
    assert not any("unseen people are recognised" in note for note in data.notes)
    samples = read(root, "PROTOCOL", "closed", "TRAIN", "{sample: 1}")
    assert (len(samples.train), len(samples.gallery), len(samples.query)) == (16, 16, 16)
    rest = read(root, "PROTOCOL", "closed", "PROBE", "{session: 2}")
    assert rest.train == data.train and rest.gallery == data.gallery


def test_all_pairs_and_fvc(root):
    data = read(root, "PROTOCOL", "all_pairs", "PROBE", "{side: l}")
    assert data.query == data.gallery and len(data.query) == 8 and all(data.has_positive())
    single = read(root, "PROTOCOL", "all_pairs", "PROBE", "{session: 1, sample: 1}", "IDENTITY", "person")
    assert all(single.has_positive())
    assert "no query identity appears" in message(
        read, root, "PROTOCOL", "all_pairs", "PROBE", "{session: 1, sample: 1}"
    )
    fvc = read(root, "PROTOCOL", "fvc", "PROBE", "{session: 2}")
    assert [r.path[-7] for r in fvc.query] == ["2"] * 8 and [r.path[-5] for r in fvc.query] == ["1", "2"] * 4


def test_rules_for_identity_and_camera(tmp_path):
    plant(tmp_path, *(f"session{s}/{n:05d}.bmp" for s in (1, 2) for n in range(1, 41)))
    keys = ["PATTERN", r"session(?P<session>[12])/(?P<number>\d{5})\.bmp", "IDENTITY", "(number - 1) // 10"]
    data = read(tmp_path, *keys, "PROTOCOL", "closed", "TRAIN", "{session: 1}", "PROBE", "{session: 2}")
    assert data.train_identities == ["0", "1", "2", "3"] and (len(data.train), len(data.query)) == (40, 40)
    assert data.test_identities[next(r for r in data.query if r.path.endswith("00010.bmp")).pid] == "0"
    half = read(tmp_path, *keys, "TRAIN", "{identity: 0-1}", "CAMERA", "(number - 1) % 10 // 5")
    assert half.num_cameras == 2 and "whose person the names do not say" in half.notes[0]
    assert half.person(half.query[0]) is None


def test_kept_and_left_out(root):
    plant(root, "deep/er/cover.png", "readme.txt", *(f"deep/{n}.png" for n in range(7)))
    data = read(root, "KEEP", "{side: l}", "TRAIN", "{person: 1-2}", "HOLD_OUT", True)
    assert len(data.train_identities) == 2 and len(data.val) == 2
    notes = " ".join(data.notes)
    assert "8 of 40 images do not match DATASETS.PATTERN" in notes and "and 3 more" in notes
    assert "DATASETS.KEEP {side: l} keeps 16 of 32 images" in notes and ".txt 1" in notes


def test_links_are_followed_once(root):
    (root / "deep" / "er" / "loop").symlink_to(root, target_is_directory=True)
    (root / "again").symlink_to(root / "deep", target_is_directory=True)
    data = read(root, "PATTERN", f"(deep|again)/er/{PATTERN}", "KEEP", "{session: 1}")
    assert "32 of 64" in " ".join(data.notes)


def test_pairs(root):
    first, genuine, impostor = (f"deep/er/{name}.png" for name in ("003_l_1_1", "003_l_2_1", "004_r_1_1"))
    (root / "pairs.csv").write_text(f"class,idx,idy\n1.0,{first},{genuine}\n0,{first},{impostor}\n")
    data = read(root, "PROTOCOL", "pairs", "PAIRS", "pairs.csv")
    assert [list(part) for part in data.pair_rows()] == [[0, 0], [0, 1], [True, False]]
    assert len(data.query) == 1 and len(data.gallery) == 2 and {data.person(r) for r in data.train} == {"001", "002"}
    data.leave_out({data.gallery[1].path})
    assert [list(part) for part in data.pair_rows()] == [[0], [0], [True]]


@pytest.mark.parametrize(
    ("keys", "part"),
    [
        (["PATTERN", ""], "DATASETS.PATTERN is empty"),
        (["PATTERN", "(?P<person>[0-9"], "is not a valid regular expression: unterminated character set"),
        (["PATTERN", "[a-z/0-9_.]+"], "has no named group"),
        (["PATTERN", "(?P<session>.+)"], "of which none says whose hand it is"),
        (["PATTERN", PATTERN], "none of its 32 images matches"),
        (["IDENTITY", "finger"], "there is no group 'finger'"),
        (["CAMERA", "phone"], "DATASETS.CAMERA = 'phone': there is no group 'phone'"),
        (["KEEP", "{view: palm}"], "DATASETS.KEEP = '{view: palm}': DATASETS.PATTERN has no group 'view'"),
        (["ENROL", "{session: 3}"], "DATASETS.ENROL: session: 3: none of the 32 images has it; session is one of 1, 2"),
        (["TRAIN", "{sample: 1}"], "takes images of all 4 people, so no person is left for the test"),
        (["TRAIN", "{person: 1-3}", "PROBE", "{person: 2-4}"], "2 of 3 training people are in DATASETS.PROBE too"),
        (["TRAIN", "none"], "leaves no image to train on (32 images)"),
        (
            ["TRAIN", "{person: 1-2}", "ENROL", "{person: 3, side: l}", "PROBE", "{person: 3-4}", "KEEP", "{side: r}"],
            "DATASETS.ENROL: side: l: none of the 16 images",
        ),
        (["ENROL", "{sample: 1-2}"], "DATASETS.PROBE: no image is left for the query. There are 32 images; sample: 1"),
        (["PROTOCOL", "closed"], "needs DATASETS.ENROL or DATASETS.PROBE"),
        (
            ["PROTOCOL", "closed", "TRAIN", "{sample: 1-2}", "PROBE", "{session: 2}"],
            "16 of 16 query images are training",
        ),
        (["PROTOCOL", "all_pairs", "ENROL", "{session: 1}"], "Leave DATASETS.ENROL empty"),
        (["PROTOCOL", "pairs"], "no such file"),
        (["PROTOCOL", "opne"], "Did you mean open?"),
    ],
)
def test_each_mistake_has_one_message(root, keys, part):
    assert part in message(read, root, *keys)


def test_another_root_is_proposed(root):
    said = message(read, root, "PATTERN", PATTERN)
    assert said.endswith(f"With DATASETS.ROOT_DIR {root}/deep/er it matches.")
    assert "deep/er/001_l_1_1.png, deep/er/002_r_2_2.png, deep/er/004_r_2_2.png" in said


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "has no pairs"),
        ("deep/er/003_l_1_1.png deep/er/003_l_2_1.png", "line 1"),
        ("a.png /b.png 1", "is not a pair"),
        ("a.png b.png 2", "is not a pair"),
        ("deep/er/003_l_1_1.png z.png 1", "names 1 images that are missing or left out"),
        ("deep/er/003_l_1_1.png deep/er/003_r_1_1.png 1", "label of 1 of 1 pairs contradicts the identities"),
        ("deep/er/003_l_1_1.png deep/er/003_l_2_1.png 1\ndeep/er/003_l_1_1.png deep/er/003_l_2_1.png 0", "other label"),
    ],
)
def test_bad_pairs(root, text, part):
    (root / "pairs.txt").write_text(text)
    assert part in message(read, root, "PROTOCOL", "pairs", "PAIRS", "pairs.txt")


def test_pairs_of_training_people(root):
    (root / "pairs.txt").write_text("deep/er/003_l_1_1.png deep/er/003_l_2_1.png 1")
    said = message(read, root, "PROTOCOL", "pairs", "PAIRS", "pairs.txt", "TRAIN", "{person: 3}")
    assert "1 of 1 people of DATASETS.PAIRS train too: 003" in said


def test_finger_knuckles_are_read_as_their_own_reader_does():
    keys = ["PATTERN", FKP, "TRAIN", "{person: 1-83}", "ENROL", "{sample: 1-6}", "PROBE", "{sample: 7-12}"]
    folder = shared("polyu_fkp_roi")
    data = read(folder, *keys, "CAMERA", "(sample - 1) // 6")
    own = read(folder, "NAMES", "hand_fkp", "PATTERN", "")
    assert (data.train, data.query, data.gallery) == (own.train, own.query, own.gallery)
    assert data.person(data.query[0]) == own.person(own.query[0]) == "084"


def test_one_aspect_of_11k_hands_has_the_same_people(tmp_path):
    folder = shared("11k_hands")
    own = read(folder, "NAMES", "hand_11k", "ASPECT", "dorsal left", "GALLERY", "aspect", "PATTERN", "")
    for records, identities in ((own.train, own.train_identities), (own.test_images, own.test_identities)):
        for record in records:
            person = tmp_path / "dorsal left" / identities[record.pid]
            person.mkdir(parents=True, exist_ok=True)
            (person / record.path.rpartition("/")[2]).symlink_to(record.path)
    keys = ["PATTERN", r"(?P<view>dorsal|palmar) (?P<side>left|right)/(?P<identity>\d+)/Hand_\d+\.jpg"]
    data = read(tmp_path, *keys, "TRAIN", "{identity: 0-1037}")
    assert data.train_identities == own.train_identities and data.test_identities == own.test_identities
    assert (len(data.train), len(data.query), len(data.gallery)) == (len(own.train), len(own.query), len(own.gallery))
