"""Drawn hands are reproducible, identities differ, and identification is neither trivial nor impossible."""

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.hands.folder import HandFolder
from datasets.synthetic_hand import dataset as synthetic_hand
from datasets.synthetic_hand import drawing
from datasets.synthetic_hand.anatomy import ASPECTS, make_hand, make_pose
from datasets.synthetic_hand.dataset import FIRST_TEST_IDENTITY, SyntheticHand, identity_hand
from datasets.synthetic_hand.drawing import draw_hand
from utils.errors import ReIDError

SMALL = {"train_identities": 2, "test_identities": 3, "images_per_identity": 5, "size": 48}


def rng(*key):
    return np.random.Generator(np.random.PCG64(list(key)))


def picture(hand_seed, picture_seed, aspect="dorsal", size=48):
    return draw_hand(make_hand(rng(hand_seed)), aspect, rng(picture_seed), size).astype(float)


def digest(root):
    files = sorted(p for p in Path(root).rglob("*") if p.is_file())
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    root = tmp_path_factory.mktemp("small")
    return root, SyntheticHand(root, **SMALL)


def test_counts_and_protocol(small):
    _, data = small
    assert (len(data.train), len(data.query), len(data.gallery)) == (2 * 5, 3 * 2, 3 * 3)
    assert data.num_train_pids == 2
    assert data.name == "synthetic_hand"
    assert data.camera_rule == "none"
    assert data.prompt == "A photo of a {} hand."
    assert {r.pid for r in data.query} == {r.pid for r in data.gallery} == {0, 1, 2}
    with Image.open(data.train[0].path) as image:
        assert (image.size, image.mode) == ((48, 48), "RGB")


def test_default_split_is_four_queries_to_six():
    jobs = synthetic_hand._plan(64, 32, 10)
    count = {s: sum(len(j.images) for j in jobs if j.split == s) for s in ("train", "test/query", "test/gallery")}
    assert count == {"train": 640, "test/query": 128, "test/gallery": 192}
    assert not {j.identity for j in jobs if j.split == "train"} & {j.identity for j in jobs if j.split != "train"}


def test_same_seed_same_bytes_whatever_the_number_of_processes(small, tmp_path, monkeypatch):
    root, _ = small
    monkeypatch.setattr(synthetic_hand, "_FEWEST_FOR_PROCESSES", 0)
    monkeypatch.setattr(synthetic_hand, "usable_cores", lambda: 2)
    SyntheticHand(tmp_path, **SMALL)
    assert digest(tmp_path) == digest(root)


@pytest.mark.parametrize("aspect", ASPECTS)
def test_distances_beyond_the_far_one_change_no_pixel(aspect, monkeypatch):
    pictures = [picture(3, seed, aspect) for seed in range(12)]
    monkeypatch.setattr(drawing, "_FAR", 3.0)  # decimetres: the whole picture
    for seed, expected in enumerate(pictures):
        assert (picture(3, seed, aspect) == expected).all()


def test_pixels_are_the_same_on_every_machine():
    """Golden digest of the version in the folder's name: raise VERSION when the drawing is changed."""
    pixels = [draw_hand(identity_hand(0, i), aspect, rng(0, i), 64).tobytes() for i in (0, 1) for aspect in ASPECTS]
    assert synthetic_hand.VERSION == 2
    assert hashlib.sha256(b"".join(pixels)).hexdigest()[:16] == "d7542b1a7912c872"


@pytest.mark.parametrize("path", ["train/7/a.jpg", "test/query/7/a.jpg", "gallery/7_a.jpg", "a.jpg"])
def test_a_folder_of_photographs_is_not_drawn_into(tmp_path, path):
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).touch()
    (tmp_path / "hands").mkdir()
    with pytest.raises(ReIDError, match=f"photographs \\({path.partition('/')[0]}.*NAMES to hand"):
        SyntheticHand(tmp_path, **SMALL)
    assert not (tmp_path / "synthetic_hand").exists()
    SyntheticHand(tmp_path / "hands", **SMALL)


def test_a_second_construction_draws_no_pictures(small, monkeypatch):
    root, first = small
    monkeypatch.setattr(synthetic_hand, "_draw_all", lambda *_: pytest.fail("drew again"))
    again = SyntheticHand(root, **SMALL)
    assert (again.train, again.query, again.gallery) == (first.train, first.query, first.gallery)


def test_hands_do_not_depend_on_how_many_there_are(small, tmp_path):
    root, _ = small
    SyntheticHand(tmp_path, **SMALL | {"train_identities": 0, "test_identities": 2}, require_train=False)
    few, many = set(digest(tmp_path).values()), set(digest(root).values())
    assert len(few - many) == 2  # views.csv and keypoints.csv alone differ


def test_views_are_the_four_aspects_of_11k_hands(small):
    root, _ = small
    table = next(root.rglob("views.csv"))
    with table.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 25
    for row in rows:
        identity, image = int(Path(row["path"]).parent.name), int(Path(row["path"]).stem)
        dorsal, right = image % 2 == 0, identity_hand(0, identity).right
        expected = ["dorsal right", "dorsal left", "palmar right", "palmar left"].index(
            f"{'dorsal' if dorsal else 'palmar'} {'right' if right else 'left'}"
        )
        assert int(row["view"]) == expected


def test_readable_as_a_plain_hand_folder(small):
    root, data = small
    plain = HandFolder(next((root / "synthetic_hand").iterdir()))
    assert (plain.train, plain.query, plain.gallery) == (data.train, data.query, data.gallery)


@pytest.mark.parametrize("change", [{"seed": 1}, {"size": 40}, {"images_per_identity": 4}, {"train_identities": 3}])
def test_other_settings_go_to_another_folder(change, tmp_path):
    tiny = {"train_identities": 2, "test_identities": 1, "images_per_identity": 2, "size": 32}
    SyntheticHand(tmp_path, **tiny)
    before = digest(tmp_path)
    SyntheticHand(tmp_path, **tiny | change)
    after = digest(tmp_path)
    assert len(list((tmp_path / "synthetic_hand").iterdir())) == 2
    assert before.items() <= after.items()


def test_interrupted_drawing_leaves_nothing(tmp_path, monkeypatch):
    original, calls = synthetic_hand._draw_job, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(synthetic_hand, "_draw_job", interrupted)
    with pytest.raises(KeyboardInterrupt):
        SyntheticHand(tmp_path, **SMALL)
    assert list((tmp_path / "synthetic_hand").iterdir()) == []
    monkeypatch.undo()
    assert len(SyntheticHand(tmp_path, **SMALL).train) == 10


def test_two_processes_drawing_the_same_set_agree(tmp_path, monkeypatch):
    """The second one finds the folder and uses it."""
    original, inside = synthetic_hand._draw_job, []

    def overtaken(*arguments):
        if not inside:
            inside.append(1)
            SyntheticHand(tmp_path, **SMALL)
        return original(*arguments)

    monkeypatch.setattr(synthetic_hand, "_draw_job", overtaken)
    assert len(SyntheticHand(tmp_path, **SMALL).train) == 10
    assert len(list((tmp_path / "synthetic_hand").iterdir())) == 1


def test_missing_pictures_are_noticed(tmp_path):
    data = SyntheticHand(tmp_path, **SMALL)
    Path(data.gallery[0].path).unlink()
    with pytest.raises(ReIDError, match="Delete the folder"):
        SyntheticHand(tmp_path, **SMALL)


@pytest.mark.parametrize(
    ("name", "value"),
    [("train_identities", 1), ("test_identities", 0), ("images_per_identity", 1), ("size", 8), ("seed", -1)],
)
def test_numbers_out_of_range(name, value, tmp_path):
    with pytest.raises(ReIDError, match=name):
        SyntheticHand(tmp_path, **{name: value})
    assert not list(tmp_path.iterdir())


def test_without_training_hands(tmp_path):
    data = SyntheticHand(tmp_path, **SMALL | {"train_identities": 0}, require_train=False)
    assert data.train == []
    assert len(data.query) == 6


def test_pictures_differ_within_and_between_identities():
    assert np.array_equal(picture(0, 0), picture(0, 0))
    assert np.abs(picture(0, 0) - picture(0, 1)).mean() > 5  # other pose, light and table
    assert np.abs(picture(0, 0) - picture(1, 0)).mean() > 5  # other hand
    assert np.abs(picture(0, 0) - picture(0, 0, "palmar")).mean() > 5  # other side


def test_table_carries_no_identity():
    """Two hands photographed under the same random numbers lie on the same table, corner pixels included."""
    a, b = picture(0, 7), picture(1, 7)
    assert np.array_equal(a[:4, :4], b[:4, :4])


def test_right_back_shows_its_thumb_on_the_left():
    hands = [make_hand(rng(i)) for i in range(12)]
    assert {hand.right for hand in hands} == {True, False}
    for hand in hands:
        for aspect in ASPECTS:
            pose = make_pose(rng(0), hand, aspect)
            tips = pose.to_picture(pose.joints(hand)[:, -1], 100)
            assert (tips[0, 0] < tips[4, 0]) == (hand.right == (aspect == "dorsal"))
            assert (tips[1:, 1] < pose.to_picture([0.0, 0.0], 100)[1]).all()  # fingers point up


def mean_average_precision(query, gallery, query_ids, gallery_ids):
    query, gallery = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (query, gallery))
    precisions = []
    for similarity, identity in zip(query @ gallery.T, query_ids, strict=True):
        hits = gallery_ids[np.argsort(-similarity, kind="stable")] == identity
        ranks = np.flatnonzero(hits) + 1
        precisions.append((np.arange(1, len(ranks) + 1) / ranks).mean())
    return np.mean(precisions)


def test_neither_trivial_nor_impossible():
    """Raw pixels identify hands better than chance, but poorly; the measured shape alone identifies all of them."""
    hands = [identity_hand(0, FIRST_TEST_IDENTITY + i) for i in range(20)]
    images = np.stack(
        [[draw_hand(h, ASPECTS[j % 2], rng(i, j), 32).mean(2).ravel() for j in range(6)] for i, h in enumerate(hands)]
    )
    images -= images.mean(-1, keepdims=True)
    ids = np.arange(20).repeat([2]), np.arange(20).repeat([4])
    pixels = mean_average_precision(images[:, :2].reshape(40, -1), images[:, 2:].reshape(80, -1), *ids)
    noise = np.random.default_rng(0)
    chance = np.mean(
        [mean_average_precision(noise.normal(size=(40, 9)), noise.normal(size=(80, 9)), *ids) for _ in range(5)]
    )
    assert 1.4 * chance < pixels < 0.5

    shape = np.stack([np.concatenate([h.bones.ravel(), h.radii.ravel(), [h.wrist]]) for h in hands])
    shape = (shape - shape.mean(0)) / shape.std(0)
    measured = shape[:, None] + noise.normal(scale=0.3, size=(20, 6, shape.shape[1]))
    assert mean_average_precision(measured[:, :2].reshape(40, -1), measured[:, 2:].reshape(80, -1), *ids) > 0.95
