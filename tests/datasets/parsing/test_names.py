"""Names of people and files as file systems keep them: in both Unicode forms, with odd characters, as litter."""

import logging
import os
import unicodedata
from pathlib import Path

import pytest

from datasets.hands.folder import HandFolder
from datasets.inspect.proposal import propose_dataset
from datasets.listing import Listing
from datasets.parsing.conditions import matcher, read_conditions
from datasets.parsing.folders import images_below
from datasets.parsing.protocols import Roles
from datasets.parsing.splits import SplitRow, pick, read_split, split_of, write_drawn_splits, write_split
from datasets.parsing.tables import csv_text, read_table
from processor.extract import list_folder
from tests.datasets.hand_trees import message, plant

COMPOSED, APART = (unicodedata.normalize(form, "é1") for form in ("NFC", "NFD"))


def test_one_name_in_two_unicode_forms_is_one_person(tmp_path):
    """Names from a Mac are decomposed: uncorrected, a query's gallery images would count as another person's."""
    paths = [f"train/{name}/{i}.jpg" for name in "ab" for i in range(2)]
    paths += [f"query/{COMPOSED}/1.jpg", f"query/{APART}/2.jpg", "query/c/1.jpg"]
    paths += [f"gallery/{APART}/3.jpg", "gallery/c/2.jpg", f"train/{APART}/5.jpg"]
    data = HandFolder(plant(tmp_path, *paths))
    assert data.test_identities == ["c", COMPOSED] and data.train_identities == ["a", "b", COMPOSED]
    assert data.has_positive() == [True, True, True]
    assert any("both in the train and in the test set" in note for note in data.notes)
    assert {Path(record.path).is_file() for record in (*data.query, *data.gallery)} == {True}


def test_a_file_of_one_name_in_query_and_gallery_is_found_in_either_form(tmp_path):
    root = plant(tmp_path, "train/a/1.jpg", "train/b/1.jpg", f"query/c/{COMPOSED}.jpg", f"gallery/c/{APART}.jpg")
    for folder, name in (("query", COMPOSED), ("gallery", APART)):
        (root / folder / "c" / f"{name}.jpg").write_text("the same")
    assert "are the same file" in message(HandFolder, root)


def test_tables_name_files_and_people_in_either_form(tmp_path):
    root = plant(tmp_path, "train/a/1.jpg", "train/b/2.jpg", f"query/{APART}/q.jpg", f"gallery/{APART}/g.jpg")
    lines = ["train/a/1.jpg,x", "train/b/2.jpg,y", f"query/{COMPOSED}/q.jpg,{COMPOSED}", f"g.jpg,{APART}"]
    (root / "views.csv").write_text("\n".join(["path,view", *lines]), encoding="utf-8")
    data = HandFolder(root)
    assert data.query[0].viewid == data.gallery[0].viewid
    lines = ["train/a/1.jpg,a,train", "train/b/2.jpg,b,train"]
    lines += [f"query/{COMPOSED}/q.jpg,{COMPOSED},query", f"gallery/{APART}/g.jpg,{APART},gallery"]
    (root / "list.csv").write_text("\n".join(["path,identity,split", *lines]), encoding="utf-8")
    listed = Listing(root / "list.csv")
    assert listed.test_identities == [COMPOSED] and listed.has_positive() == [True]
    assert listed.query[0].path == f"{root}/query/{APART}/q.jpg"
    (root / "list.csv").write_text(
        f"path,identity,split\nquery/{COMPOSED}/q.jpg,a,query\nquery/{APART}/q.jpg,a,gallery\n", encoding="utf-8"
    )
    assert "was already given at line 2" in message(Listing, root / "list.csv")
    (root / "train.txt").write_text("train/a/1.jpg 0\ntrain/b/2.jpg 1\n")
    (root / "test.txt").write_text(f"query/{COMPOSED}/q.jpg {COMPOSED}\ngallery/{APART}/g.jpg {APART}\n")
    assert Listing(root / "train.txt").test_identities == [COMPOSED]


def test_search_and_proposals_take_both_forms_as_one(tmp_path):
    root = plant(tmp_path, f"{COMPOSED}/1.jpg", f"{APART}/2.jpg", "b/1.jpg")
    assert [image.identity for image in list_folder(root)] == ["b", COMPOSED, COMPOSED]
    root = plant(tmp_path / "more", *(f"{who}/{n}.jpg" for who in ("b", "c", "d") for n in (1, 2)))
    plant(root, f"{COMPOSED}/1.jpg", f"{APART}/2.jpg")
    data = propose_dataset(root).dataset
    assert sorted([*data.train_identities, *data.test_identities]) == ["b", "c", "d", COMPOSED]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_columns_pairs_and_conditions_take_both_forms_as_one(tmp_path, form):
    """A person who trains and is tested, compared images, and a value in a configuration."""
    name = unicodedata.normalize(form, "é1")
    root = plant(tmp_path, "a/1.jpg", "b/1.jpg", f"{APART}/1.jpg", f"{APART}/2.jpg")
    tested = f"{name}/1.jpg,c,query,{name}\n{name}/2.jpg,c,gallery,{name}\n"
    (root / "list.csv").write_text(
        f"path,identity,split,person\na/1.jpg,a,train,a\nb/1.jpg,b,train,b\n{tested}", "utf-8"
    )
    (root / "pairs.txt").write_text(f"{name}/1.jpg,{COMPOSED}/2.jpg,1\n{APART}/1.jpg,{APART}/2.jpg,1\n", "utf-8")
    listed = Listing(root / "list.csv", roles=Roles("pairs"), pairs="pairs.txt")
    assert [list(part) for part in listed.pair_rows()] == [[0], [0], [True]]
    rows = f"a/1.jpg,a,train,{COMPOSED}\nb/1.jpg,b,train,b\n{tested}"
    (root / "list.csv").write_text(f"path,identity,split,person\n{rows}", "utf-8")
    assert COMPOSED in message(Listing, root / "list.csv", roles=Roles("open"))
    chosen = read_conditions("DATASETS.TRAIN", f"{{person: [{name}, b]}}", ["person"])
    images = [{"person": COMPOSED}, {"person": "b"}]
    assert all(map(matcher("DATASETS.TRAIN", chosen, images, seed=0), images))


def test_a_choice_does_not_depend_on_the_form():
    names = [unicodedata.normalize("NFC", name) for name in ("ea", "éa", "eb", "éb", "f")]
    drawn = {pick([unicodedata.normalize(form, n) for n in names], 3, "x") for form in ("NFC", "NFD")}
    assert len({unicodedata.normalize("NFC", name) for name in drawn}) == 1


ODD = [" a", "a ", "a", "1:left", "c:", "a\\b", 'q"', "x,y", "n\nl", "\u3000z", "'", "#"]


@pytest.mark.skipif(os.sep != "/", reason="Windows has no such names")
def test_a_listing_of_folders_with_odd_names_reads_back(tmp_path):
    paths = [f"{part}/{name}/1.jpg" for part in ("train", "query", "gallery") for name in ODD]
    data = HandFolder(plant(tmp_path / "d", *paths))
    write_split(tmp_path / "split.csv", split_of(data, data.root))
    again = Listing(tmp_path / "split.csv", data.root)
    assert again.train_identities == data.train_identities == sorted(ODD)
    assert (again.train, again.query, again.gallery) == (data.train, data.query, data.gallery)


def test_what_no_table_can_hold_is_refused_by_the_writer(tmp_path, caplog):
    name = os.fsdecode(b"\xff")
    assert "is not valid UTF-8" in message(write_split, tmp_path / "s.csv", [SplitRow(f"{name}/1.jpg", name, "train")])
    assert not (tmp_path / "s.csv").exists()
    data = HandFolder(
        plant(tmp_path / "d", "train/a/1.jpg", "train/b/1.jpg", f"query/{name}/1.jpg", f"gallery/{name}/2.jpg")
    )
    data.trials = [data.trials[0]._replace(run=0)]
    with caplog.at_level(logging.WARNING):
        assert write_drawn_splits(data, tmp_path) == []


def test_cells_keep_the_blanks_inside_quotes_and_lose_those_around(tmp_path):
    (tmp_path / "t.csv").write_text('path , b\n  x  ," y "\n"a ""b"", c"  ,\t"" \n')
    assert [row.cells for row in read_table(tmp_path / "t.csv", ("path",)).rows] == [
        {"path": "x", "b": " y "},
        {"path": 'a "b", c', "b": ""},
    ]
    rows = [(a, b) for a in ODD for b in ODD]
    (tmp_path / "t.csv").write_bytes(csv_text(("path", "b"), rows).encode())
    assert [tuple(row.cells.values()) for row in read_table(tmp_path / "t.csv", ("path",)).rows] == rows


LITTER = (".Trash-1000/x/a.jpg", "@eaDir/a.jpg/b.jpg", "__MACOSX/a.jpg", ".DS_Store", "Thumbs.db", "ann/._1.jpg")


def test_folders_are_listed_alike_for_training_extraction_and_search(tmp_path):
    root = plant(tmp_path / "g", "ann/1.jpg", "ann/2.png", "ben/1.JPG", *LITTER)
    plant(tmp_path / "elsewhere", "1.jpg")
    (root / "cem").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    expected = [("ann", "ann/1.jpg"), ("ann", "ann/2.png"), ("ben", "ben/1.JPG"), ("cem", "cem/1.jpg")]
    assert [(image.identity, image.name) for image in list_folder(root)] == expected
    assert images_below(root)[0] == [path for _, path in expected]


def test_people_who_lose_all_their_images_are_warned_of(tmp_path, caplog):
    names = ["train/a/1.jfif", "train/b/1.pgm", "query/a/1.jpe", "gallery/a/1.mpo"]
    names += ["train/lost/1.heic", "train/lost/2.heic"]
    data = HandFolder(plant(tmp_path / "d", *names))
    assert data.train_identities == ["a", "b"]
    expected = "train: 1 identity loses all images, because none of their files is one that is read (.heic 2): lost"
    assert f"warning: {expected}" in data.notes
    with caplog.at_level(logging.WARNING):
        assert len(list_folder(tmp_path / "d" / "train")) == 2
        assert "1 identity loses all images" in caplog.text and "lost" in caplog.text


def test_boxes_travel_with_a_listing(tmp_path):
    root = plant(tmp_path, "a.jpg", "b.jpg", "q.jpg", "g.jpg")
    lines = ["a.jpg,a,train,1,2,30,40", "b.jpg,b,train,,,,", "q.jpg,c,query,0,0,5,5", "g.jpg,c,gallery,9,9,9,9"]
    (root / "list.csv").write_text("\n".join(["path,identity,split,x,y,w,h", *lines]))
    data = Listing(root / "list.csv")
    assert data.boxes[f"{root}/a.jpg"] == (1, 2, 30, 40) and f"{root}/b.jpg" not in data.boxes
    write_split(root / "again.csv", split_of(data, root))
    assert read_split(root / "again.csv") == split_of(data, root) and Listing(root / "again.csv").boxes == data.boxes
    for bad in ("1,2,30,", "1,2,0,40", "-1,2,3,4", "1.5,2,3,4"):
        (root / "list.csv").write_text(f"path,identity,split,x,y,w,h\na.jpg,a,train,{bad}\n")
        assert "is not a box" in message(Listing, root / "list.csv")
