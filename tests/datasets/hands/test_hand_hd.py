"""HD: the counts of the published protocol on a generated copy with the same marginal counts."""

import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from datasets.hands.hand_hd import HandHD
from datasets.listing import Listing
from datasets.parsing.splits import split_of, write_split
from tests.datasets.hand_trees import message, plant


def _names(first: int, last: int, people: int, images: int, rng: random.Random) -> list[str]:
    """File names of ``people`` ids within first..last, at least two images each."""
    ids = rng.sample(range(first, last + 1), people)
    count = Counter([*ids, *ids, *rng.choices(ids, k=images - 2 * people)])
    return [f"{i}_{n:02d}.{'JPG' if n % 7 == 0 else 'jpg'}" for i in ids for n in range(count[i])]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    rng = random.Random(5)
    root = tmp_path_factory.mktemp("hd")
    folder = root / "HD" / "Original Images"
    names = {
        "1-501": _names(1, 447, 251, 2407, rng) + _names(448, 720, 251, 2243, rng),
        "502-712": _names(502, 720, 213, 1342, rng),
    }
    for part, files in names.items():
        (folder / part).mkdir(parents=True)
        for name in files:
            (folder / part / name).touch()
    return root


def _id(path: str) -> int:
    return int(Path(path).name.split("_")[0])


def test_published_counts(root):
    for run in range(3):
        data = HandHD(root, run=run)
        assert (data.num_train_pids, len(data.train)) == (251, 2407)
        assert (len({r.pid for r in data.gallery}), len(data.gallery)) == (464, 1593)
        assert len(data.query) == 1992 and all(data.has_positive()) and data.notes == []
        assert len({r.pid for r in data.query}) == 251
    held = HandHD(root, part="train", gallery="aspect")
    assert (len(held.train), len(held.val), len(held.gallery)) == (2156, 251, 251)
    assert held.num_train_pids == 251 and {r.pid for r in held.val} == set(range(251))


def test_every_image_has_its_place(root):
    data = HandHD(root, run=4)
    for record in data.train:
        assert int(data.train_identities[record.pid]) == _id(record.path) <= 447
    distractors = [r for r in data.gallery if "/502-712/" in r.path]
    assert len(distractors) == 1342
    for record in (*data.query, *data.gallery):
        offset = 1000 if record in distractors else 0
        assert int(data.test_identities[record.pid]) == _id(record.path) + offset
    paths = [r.path for r in (*data.train, *data.query, *data.gallery)]
    assert len(set(paths)) == len(paths) == 4650 + 1342
    assert not {r.pid for r in distractors} & {r.pid for r in data.query}


def test_runs_and_seeds_differ_and_repeat(root, tmp_path):
    def gallery(**how):
        return [r.path for r in HandHD(root, gallery="aspect", **how).gallery]

    assert gallery(run=1) == gallery(run=1)
    assert len({tuple(gallery(run=run)) for run in range(4)} | {tuple(gallery(seed=1))}) == 5
    data = HandHD(root, run=2)
    write_split(tmp_path / "split.csv", split_of(data, data.root))
    again = Listing(tmp_path / "split.csv", data.root)
    assert (again.train, again.query, again.gallery) == (data.train, data.query, data.gallery)


def test_incomplete_copies(tmp_path):
    text = message(HandHD, tmp_path)
    assert "Original Images" in text and "Hong Kong Polytechnic" in text
    folder = "Original Images/1-501"
    plant(tmp_path, *(f"{folder}/{i}_{n}.jpg" for i in (1, 2, 448, 449) for n in range(3)))
    plant(tmp_path, f"{folder}/cover.jpg", f"{folder}/notes.txt", f"{folder}/1_9.bmp")
    text = message(HandHD, tmp_path)
    assert "502-712: no such folder" in text and "'aspect'" in text
    data = HandHD(tmp_path, gallery="aspect")
    assert (len(data.train), len(data.query), len(data.gallery)) == (6, 4, 2)
    assert any("cover.jpg" in note for note in data.notes)
    assert any(".bmp 1, .txt 1" in note for note in data.notes)
    assert any("train: expected 251 identities and 2,407 images, found 2 identities and 6" in n for n in data.notes)
    shutil.rmtree(tmp_path / folder)
    plant(tmp_path, f"{folder}/cover.jpg")
    assert "no image called" in message(HandHD, tmp_path, gallery="aspect")


def test_arguments(root):
    assert "DATASETS.GALLERY = 'own'" in message(HandHD, root, gallery="own")
    assert "DATASETS.RUN is -1" in message(HandHD, root, run=-1)
    assert "part = 'val'" in message(HandHD, root, part="val")
