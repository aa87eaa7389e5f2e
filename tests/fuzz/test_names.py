"""Any names of files and any lines of list files, in every data set's folders: a data set, or one clear message."""

import logging
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs import load_config
from datasets import DATASETS, make_dataset, write_drawn_splits
from tests.fuzzing import fuzz
from utils.console.logger import _Formatter
from utils.errors import ReIDError
from utils.files.paths import ShortPaths

LETTERS = st.one_of(
    st.sampled_from("0123456789_-. cCsSfF"),
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]),
    st.integers(0x80, 0xFF).map(lambda byte: chr(0xDC00 + byte)),  # bytes that are no UTF-8
)
ENDINGS = st.sampled_from([".jpg", ".JPG", ".png", ".jpg.jpg", "", ".txt", ".bmp ", ".jpég"])
GOOD = {
    "market1501": st.builds("{:04d}_c{}s1_0{}_00.jpg".format, st.integers(0, 9), st.integers(0, 8), st.integers(0, 99)),
    "dukemtmc": st.builds("{:04d}_c{}_f00{}.jpg".format, st.integers(0, 9), st.integers(0, 9), st.integers(0, 99)),
    "veri": st.builds("{:04d}_c{:03d}_0{}_0.jpg".format, st.integers(0, 9), st.integers(0, 22), st.integers(0, 99)),
    "hand": st.builds("{}_{}.png".format, st.integers(0, 5), st.integers(0, 99)),
    "hand_hd": st.builds("{:03d}_{}.jpg".format, st.integers(200, 520), st.integers(0, 9)),
    "hand_fkp": st.builds("{:02d}ROI.jpg".format, st.integers(0, 14)),
}
GOOD["occ_duke"] = GOOD["dukemtmc"]
PUBLISHED = ("bounding_box_train", "query", "bounding_box_test")
FOLDERS = {
    "market1501": PUBLISHED,
    "dukemtmc": PUBLISHED,
    "occ_duke": PUBLISHED,
    "veri": ("image_train", "image_query", "image_test"),
    "hand": ("train", "query", "gallery", "train/5", "query/7", "gallery/7"),
    "hand_hd": ("Original Images/1-501", "Original Images/502-712"),
    "hand_fkp": ("001_left_index", "100_left index", "120_right_middle"),
}
MIXED = st.one_of(
    st.builds(lambda a, b: a + b, st.text(LETTERS, max_size=12), ENDINGS),
    st.sampled_from(
        ["-1_c1s1_000000_00.jpg", "0_.jpg", "_.jpg", ".jpg", "Thumbs.db", "9" * 240 + "_1.jpg", "\u0663_1.jpg"]
    ),
)


def names_for(data_set):
    return st.lists(st.one_of(GOOD[data_set], GOOD[data_set], MIXED), max_size=7)


def read(root, data_set):
    """All that is done with names before training; messages about them are text."""
    shorten, said = ShortPaths(), []
    words = ["DATASETS.NAMES", data_set, "DATASETS.ROOT_DIR", str(root), "DATASETS.TEST_SIZE", "800", "TEST.RUNS", "2"]
    cfg, _ = load_config(None, words)
    for require_train in (True, False):
        try:
            dataset = make_dataset(cfg, require_train)
        except ReIDError as error:
            assert str(error)
            said.append(str(error))
        else:
            said += dataset.notes
            assert {r.pid for r in dataset.train} == set(range(dataset.num_train_pids))
            for record in (*dataset.train, *dataset.test_images):
                assert Path(record.path).parent.resolve().is_relative_to(root.resolve()), record
            write_drawn_splits(dataset, root / "splits")
    formatter = _Formatter("%(message)s", "%H", shorten)
    for text in said:
        record = {"msg": "%s", "args": (text,), "levelname": "INFO", "levelno": 20}
        formatter.format(logging.makeLogRecord(record)).encode()


def plant(root, folder, names):
    (root / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        if name not in ("", ".", "..") and len(os.fsencode(name)) < 256 and not (root / folder / name).exists():
            (root / folder / name).touch()


@pytest.fixture
def root(tmp_path):
    """A folder that each example finds empty."""

    def empty():
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        (tmp_path / "data").mkdir()
        return tmp_path / "data"

    return empty


@pytest.mark.parametrize("data_set", sorted(GOOD))
@fuzz(12)
@given(st.data())
def test_file_names(root, data_set, data):
    folder = root()
    for name in FOLDERS[data_set]:
        plant(folder, name, data.draw(names_for(data_set), label=name))
    read(folder, data_set)


PIECES = [
    *"0123456789_/.,; \t\n\r\"'\\",
    "..",
    "../",
    "0001/",
    "1_1_01_x.jpg ",
    "Hand_0000001.jpg",
    "1",
    "id",
    "\ufeff",
    "\0",
]
LINES = st.one_of(st.text(max_size=40), st.lists(st.sampled_from(PIECES), max_size=20).map("".join))
LISTS = {
    "msmt17": (
        ("list_train.txt", "list_val.txt", "list_query.txt", "list_gallery.txt"),
        st.builds(
            "{:04d}/{:04d}_000_{:02d}_0303_0.jpg {}".format,
            *[st.integers(0, 3)] * 2,
            st.integers(0, 16),
            st.integers(0, 3),
        ),
    ),
    "vehicleid": (
        ("train_test_split/train_list.txt", "train_test_split/test_list_800.txt"),
        st.builds("{:03d} {}".format, st.integers(0, 5), st.integers(0, 3)),
    ),
    "hand_11k": (
        ("HandInfo.csv",),
        st.builds(
            "{},{},{},Hand_{:07d}.jpg".format,
            st.sampled_from([1, 2, 1100, 1101, 1102, "9" * 30, "x", "\u0663"]),
            st.sampled_from("0012"),
            st.sampled_from(["dorsal right", "dorsal left", "palmar right", "up"]),
            st.integers(0, 5),
        ),
    ),
    "veri": (
        ("keypoint_train.txt", "keypoint_test.txt"),
        st.builds(
            lambda name, view: f"a/{name} {'1 ' * 40}{view}",
            GOOD["veri"],
            st.sampled_from(["0", "7", "8", "\u0667", "9" * 5000]),
        ),
    ),
}


@pytest.mark.parametrize("data_set", sorted(LISTS))
@fuzz(15)
@given(st.data())
def test_list_files(root, data_set, data):
    folder = root()
    files, good = LISTS[data_set]
    images = [f"{i:03d}.jpg" for i in range(6)], [f"Hand_{i:07d}.jpg" for i in range(6)]
    plant(folder, "image", images[0])
    plant(folder, "Hands", images[1])
    for person in range(4):
        for camera in (1, 2, 15):
            name = f"{person:04d}_000_{camera:02d}_0303_0.jpg"
            plant(folder, f"mask_train_v2/{person:04d}", [name])
            plant(folder, f"mask_test_v2/{person:04d}", [name])
    for name in FOLDERS["veri"]:
        plant(folder, name, ["0001_c001_00_0.jpg", "0001_c002_00_0.jpg", "0002_c001_01_0.jpg"])
    head = "id,accessories,aspectOfHand,imageName\n" if data_set == "hand_11k" else ""
    for name in files:
        lines = data.draw(st.lists(st.one_of(good, good, good, LINES), max_size=12), label=name)
        (folder / name).parent.mkdir(exist_ok=True)
        content = (head + "\n".join(lines)).encode("utf-8", "surrogatepass")
        (folder / name).write_bytes(data.draw(st.sampled_from([b"", b"\xef\xbb\xbf", b"\xff"])) + content)
    read(folder, data_set)


def test_every_data_set_is_tried():
    assert {*GOOD, *LISTS} == {*DATASETS} - {
        "listing",
        "pattern",
        "synthetic_hand",
    }  # the first two have tests of their own, the last has no files
