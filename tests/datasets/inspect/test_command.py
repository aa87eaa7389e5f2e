"""The check of a data set: its counts, its warnings, its errors, and the split that it proposes."""

import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import train_clipreid
from configs import load_config
from datasets import check_data, make_dataset
from datasets.bases import Record
from datasets.inspect.command import main
from datasets.inspect.copies import check_leaks
from datasets.inspect.fingerprints import Fingerprint
from datasets.inspect.report import Report
from datasets.listing import Listing
from tests.datasets.hand_trees import shared
from tests.datasets.pictures import save
from tests.toy_hands import make_toy_hands, toy_hand, write_config


@pytest.fixture
def hands(tmp_path):
    return make_toy_hands(tmp_path / "hands")


@pytest.fixture
def examine(tmp_path, capsys):
    """Run the command in this process: its exit status and output."""

    def run(*argv):
        status = main([*map(str, argv), "--sheet", str(tmp_path / "sheet.png")])
        return status, "".join(capsys.readouterr())

    return run


def unsplit(root: Path, people: int = 8, sides: tuple[str, ...] = ("",), images: int = 3) -> Path:
    rng = np.random.default_rng(0)
    for who in range(people):
        for side in sides:
            for number in range(images):
                path = root / f"{who:03d}{side}" / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                toy_hand(who / people, rng, 0.1).save(path)
    return root


def test_sound_data(hands, examine, tmp_path):
    status, said = examine("--root", hands)
    assert status == 0 and "PROBLEM" not in said and "no problem found" in said
    lines = {line.split()[0]: line.split()[1:] for line in said.splitlines() if line.split()}
    assert lines["train"] == ["6", "24", "4", "/", "4", "/", "4"]
    assert lines["query"] == lines["gallery"] == ["4", "8", "2", "/", "2", "/", "2"]
    assert "sizes: 32x32 (40)" in said
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG" and sheet.width > 500 and sheet.height > 1000


def test_a_gallery_of_one_identity(hands, examine):
    for folder in sorted((hands / "test/gallery").iterdir())[1:]:
        shutil.rmtree(folder)
    status, said = examine("--root", hands)
    assert status == 1 and said.count("PROBLEM: the gallery shows one identity only: every answer would be right") == 1
    assert said.count("one identity only") == 1, "reported once"


def test_from_a_configuration(hands, examine, tmp_path):
    file = write_config(hands, tmp_path / "run")
    status, said = examine("--config_file", file, "DATALOADER.NUM_INSTANCE", "8", "SOLVER.STAGE2.IMS_PER_BATCH", "64")
    assert status == 1
    assert "6 of 6 training identities have fewer than 8 images" in said
    assert (
        "PROBLEM: a batch of 64 needs 8 identities, the train set has 6: set SOLVER.STAGE2.IMS_PER_BATCH to 48" in said
    )


def test_the_same_file_in_train_and_test(hands, examine):
    train, test = next((hands / "train").glob("*/*")), next((hands / "test" / "query").glob("*/*"))
    shutil.copy(train, test)
    status, said = examine("--root", hands)
    assert status == 1 and "PROBLEM: 1 test pictures are training pictures" in said
    assert str(train) in said and str(test) in said
    assert "1 picture is filed under two identities" in said


def test_a_resaved_copy_in_train_and_test(hands, examine):
    train, test = next((hands / "train").glob("*/*")), next((hands / "test" / "gallery").glob("*/*"))
    with Image.open(train) as image:
        image.resize((96, 96), Image.Resampling.NEAREST).save(test)
    status, said = examine("--root", hands)
    assert status == 0 and "warning: 1 pairs of a train and a test picture are near-identical" in said
    assert str(train) in said and str(test) in said


def test_pictures_that_all_look_alike_are_counted_and_five_pairs_named(capsys):
    cells = np.full(256, 1 / 16, np.float32)
    splits = {"train": "t", "query": "q", "val": "", "gallery": ""}
    splits = {name: ([Record(f"{mark}{i}", 0, 0, 0) for i in range(300) if mark], []) for name, mark in splits.items()}
    found = {r.path: Fingerprint(1, 1, r.path.encode(), cells) for records, _ in splits.values() for r in records}
    tracemalloc.start()
    check_leaks(Report(), splits, found)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    said = capsys.readouterr().out
    assert said.startswith(
        "warning: 90000 pairs of a train and a test picture are near-identical (1: the same): t0 and"
    )
    assert "t0 and q0 (1.0000), t0 and q1 (1.0000)" in said and said.endswith("t0 and q4 (1.0000) and 89995 more\n")
    assert peak < 5e6


def test_a_query_that_is_in_the_gallery(hands, examine):
    query = next((hands / "test" / "query").glob("*/*"))
    shutil.copy(query, hands / "test" / "gallery" / query.parent.name / "another_name.png")
    shutil.copy(query, hands / "test" / "query" / query.parent.name / "0_again.png")
    status, said = examine("--root", hands)
    assert status == 1 and "PROBLEM: 1 query is in the gallery too" in said
    line = next(line for line in said.splitlines() if line.startswith("PROBLEM"))
    one, other = line.partition("too: ")[2].split(" = ")
    assert one.startswith("test/query/") and other.startswith("test/gallery/") and other.endswith("another_name.png")


def test_unreadable_files(hands, examine):
    victim = next((hands / "train").glob("*/*"))
    victim.write_bytes(victim.read_bytes()[:99])
    status, said = examine("--root", hands)
    assert status == 1 and "PROBLEM: 1 file cannot be read" in said and str(victim) in said


def test_one_training_identity(hands, examine):
    for folder in sorted((hands / "train").iterdir())[1:]:
        shutil.rmtree(folder)
    status, said = examine("--root", hands)
    assert status == 1 and "at least two identities are needed" in said


def test_no_query_can_be_found(hands, examine):
    for folder in (hands / "test" / "gallery").iterdir():
        folder.rename(folder.with_name(f"other_{folder.name}"))
    status, said = examine("--root", hands)
    assert status == 1 and "PROBLEM: hand: no query identity appears in the gallery" in said


def test_some_queries_cannot_be_found(hands, examine):
    lost = next((hands / "test" / "gallery").iterdir())
    shutil.rmtree(lost)
    status, said = examine("--root", hands)
    assert status == 0 and "2 of 8 queries have no match in the gallery" in said and lost.name in said


def test_people_in_train_and_test(hands, examine):
    for i, folder in enumerate(sorted((hands / "train").iterdir())):
        folder.rename(folder.with_name(f"{i}_left"))
    for split in ("query", "gallery"):
        for i, folder in enumerate(sorted((hands / "test" / split).iterdir())):
            folder.rename(folder.with_name(f"{i + 5}_right"))
    assert "have identities in train and in test" not in examine("--root", hands)[1]
    _, said = examine("--root", hands, "--person-separator", "_")
    assert "warning: 1 people have identities in train and in test: 5" in said


@pytest.mark.parametrize("argv", [["--root", "nowhere"], ["--config_file", "nowhere.yml"]])
def test_user_errors(examine, argv):
    status, said = examine(*argv)
    assert status == 2 and "nowhere" in said and "Traceback" not in said


def test_a_proposed_listing_is_reread_and_trained_on(tmp_path, examine):
    root = unsplit(tmp_path / "photos", sides=("_left", "_right"))
    listing = tmp_path / "split.csv"
    status, said = examine("--root", root, "--person-separator", "_", "--write-listing", listing)
    assert status == 0 and "no split yet; proposed (seed 0)" in said and str(listing) in said
    assert "DATASETS.PROTOCOL open" in said
    data = Listing(listing, root)
    train, test = ({name.split("_")[0] for name in names} for names in (data.train_identities, data.test_identities))
    assert len(train) == len(test) == 4 and not train & test
    assert len(data.train) == 24 and len(data.query) == 16 and len(data.gallery) == 8
    assert all(data.has_positive())
    file = write_config(root, tmp_path / "run")
    named = ["DATASETS.NAMES", "listing", "DATASETS.LISTING", str(listing)]
    assert train_clipreid.main(["--config_file", str(file), *named]) == 0


def test_a_split_that_is_there_is_not_proposed_again(hands, examine):
    status, said = examine("--root", hands, "--seed", "1")
    assert status == 2 and "has a split already" in said


def test_a_tree_without_images(tmp_path, examine):
    (tmp_path / "empty" / "someone").mkdir(parents=True)
    status, said = examine("--root", tmp_path / "empty")
    assert status == 2 and "Expected <identity>/*.jpg" in said


def test_both_hands_in_one_folder(tmp_path, examine):
    for split, people in (("train", "abcd"), ("test/query", "xy"), ("test/gallery", "xy")):
        for i, who in enumerate(people):
            for side in ("l", "r"):
                for n in (1, 2):
                    picture = toy_hand(i / 4, np.random.default_rng(ord(who) + n + len(split)), 0.1)
                    save(tmp_path / "set" / split / who / f"scan_{side}_{n}.png", picture)
    said = examine("--root", tmp_path / "set")[1]
    assert "warning: 6 of 6 identities have names with l and r, such as a (train/a/scan_l_1.png" in said
    assert "both hands in one identity?" in said


def test_a_pattern_is_proposed_written_and_fit_for_training(tmp_path, examine):
    root = unsplit(tmp_path / "photos", sides=("/left", "/right"), images=4)
    file = tmp_path / "mine.yml"
    status, said = examine("--root", root, "--write-config", file)
    assert status == 0 and r"PATTERN: (?P<person>\d{3})/(?P<side>left|right)/(?P<sample>\d)\.png" in said
    assert "64 images of 16 identities and 8 people; side left (32), right (32)" in said
    again = examine("--config_file", file)
    assert again[0] == 0 and "train             8       32   4 / 4 / 4" in again[1]
    status, said = examine("--root", root, "--write-config", file)
    assert status == 2 and "the file exists" in said
    cfg, _ = load_config(file)
    data = make_dataset(cfg)
    check_data(cfg, data)
    assert data.num_train_pids == 8 and cfg.SOLVER.STAGE2.IMS_PER_BATCH == 32 and cfg.INPUT.PROB == 0
    assert examine("--config_file", file, "--write-config", tmp_path / "b.yml")[0] == 2


def test_folders_that_are_no_people(tmp_path, examine):
    for session in ("1st_session", "2nd_session", "3rd_session", "4th_session"):
        for name in ("a b.png", "c_d.png", "e.png", "f(1).png"):
            save(tmp_path / "set" / session / name, toy_hand(0.1, np.random.default_rng(0), 0.1))
    status, said = examine("--root", tmp_path / "set")
    assert status == 2 and "are sessions, not people" in said and "a b.png" in said


def test_names_of_a_published_set(tmp_path, examine):
    for i in range(4):
        for finger in ("index", "middle", "ring"):
            for n in range(1, 7):
                person = ["050", "051", "080", "081"][i]
                picture = toy_hand(i / 4, np.random.default_rng(100 * i + 10 * len(finger) + n), 0.1)
                save(tmp_path / "sdumla" / "raw" / person / "left" / f"{finger}_{n}.bmp", picture)
    status, said = examine("--root", tmp_path / "sdumla", "--write-config", tmp_path / "mine.yml")
    assert status == 0 and "the names are those of configs/hand/sets/sdumla.yml" in said and "PROBLEM" not in said
    assert str(tmp_path / "sdumla" / "raw") == load_config(tmp_path / "mine.yml")[0].DATASETS.ROOT_DIR


def test_a_closed_protocol_is_no_leak(tmp_path, examine):
    root = unsplit(tmp_path / "photos", images=4)
    keys = ["DATASETS.NAMES", "pattern", "DATASETS.PATTERN", r"(?P<person>\d+)/(?P<sample>\d)\.png"]
    keys += ["DATASETS.PROTOCOL", "closed", "DATASETS.ENROL", "{sample: 0-1}"]
    file = write_config(root, tmp_path / "run")
    status, said = examine("--config_file", file, *keys)
    assert status == 0 and "closed protocol: 8 of 8" in said and "PROBLEM" not in said
    shutil.copy(root / "000" / "0.png", root / "000" / "3.png")
    status, said = examine("--config_file", file, *keys)
    assert status == 1 and "PROBLEM: 1 test pictures are training pictures" in said


def test_as_a_command(hands, tmp_path):
    command = [
        sys.executable,
        "-m",
        "datasets.inspect",
        "--root",
        str(hands),
        "--sheet",
        str(tmp_path / "s.png"),
    ]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=280)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("hand: ")


def test_real_hands(examine):
    status, said = examine("--root", shared("11k_hands"))
    assert status == 0 and "1600x1200 (156)" in said and "near-identical to one of the test (81 x 75" in said


def test_copies_are_left_out_of_the_listing_and_named(hands, examine, tmp_path):
    query = next((hands / "test" / "query").glob("*/*"))
    shutil.copy(query, hands / "test" / "gallery" / query.parent.name / "copy.png")
    train, other = sorted((hands / "train").glob("*/*"))[:2]
    shutil.copy(train, other)
    assert examine("--root", hands)[0] == 1
    listing = tmp_path / "clean.csv"
    status, said = examine("--root", hands, "--drop-duplicates", "--write-listing", listing)
    assert status == 0 and "2 copies are left out" in said
    assert f"left out: {query.relative_to(hands)}, which equals test/gallery/{query.parent.name}/copy.png" in said
    assert f"left out: {other.relative_to(hands)}, which equals {train.relative_to(hands)}" in said
    data = Listing(listing, hands)
    assert len(data.train) == 23 and len(data.query) == 7 and len(data.gallery) == 9


def test_people_for_validation(tmp_path, examine):
    root = unsplit(tmp_path / "photos", people=24, sides=("_left", "_right"))
    listing = tmp_path / "split.csv"
    status, said = examine(
        "--root", root, "--person-separator", "_", "--val-people", "0.25", "--write-listing", listing
    )
    assert status == 0, said
    data = Listing(listing, root)
    parts = (data.train_identities, {data.val_identities[r.pid] for r in data.val}, data.test_identities)
    train, val, test = ({name.split("_")[0] for name in names} for names in parts)
    assert (len(train), len(val), len(test)) == (9, 3, 12) and not train & val and not (train | val) & test
    assert len(data.validation.query) == 12 and len(data.validation.gallery) == 6  # 6 hands with 3 images each
    status, said = examine("--root", root, "--val-people", "0.01")
    assert status == 2 and "at least two must" in said


def test_a_flat_folder_of_raw_files(tmp_path, examine):
    rng = np.random.default_rng(0)
    (tmp_path / "raw").mkdir()
    for who in range(8):
        for side in "LR":
            for number in range(3):
                toy_hand(who / 8, rng, 0.1).save(tmp_path / "raw" / f"{who:03d}{side}_{number}.png")
    pattern = r"(?P<identity>(?P<person>\d+)[LR])"
    listing = tmp_path / "split.csv"
    status, said = examine("--root", tmp_path / "raw", "--identity-pattern", pattern, "--write-listing", listing)
    assert status == 0, said
    data = Listing(listing, tmp_path / "raw")
    train, test = ({name[:3] for name in names} for names in (data.train_identities, data.test_identities))
    assert len(data.train_identities) == 8 and len(train) == len(test) == 4 and not train & test


def test_no_sheet_where_pictures_are_not_wanted(hands, tmp_path, capsys):
    file = write_config(hands, tmp_path / "run", pictures=True)
    assert main(["--config_file", str(file), "TEST.PICTURES", "False"]) in (0, 1)
    assert "contact sheet" not in capsys.readouterr().out and not (tmp_path / "run" / "contact_sheet.png").exists()


def test_depth_and_brightness_of_the_set(hands, examine):
    _, said = examine("--root", hands)
    assert "depth: 8 bits (40); brightness from 0 to 255: " in said and "almost" not in said
    paths = sorted(hands.rglob("*.png"))
    for path in paths[:39]:
        with Image.open(path) as image:
            Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 16).save(path)
    _, said = examine("--root", hands)
    assert "depth: 8 bits (1), 16 bits (39)" in said and "warning: files of different depth" in said
    assert "warning: the brightest value in 39 grey files of 16 bits is" in said and "set INPUT.WHITE 4095" in said
    _, said = examine("--root", hands, "INPUT.WHITE", "4095")
    assert "almost black" not in said
