"""The table of images as a data set, and the files that repeat a split."""

import json
from collections import Counter

import pytest

from datasets.bases import Photo, ReIDDataset
from datasets.hands.folder import HandFolder
from datasets.hands.hand_fkp import PolyUFKP
from datasets.listing import Listing
from datasets.parsing.protocols import Roles
from datasets.parsing.splits import SplitRow, pick, read_split, split_of, take_one_each, write_split
from datasets.parsing.tables import label_numbers
from tests.datasets.hand_trees import message, names, plant

ROWS = (
    "photos/a1.jpg,anna,train",
    "photos/b1.jpg,10,train",
    "photos/c1.jpg,9,query",
    "photos/c2.jpg,9,gallery",
    "photos/d1.jpg,dora,gallery",
)


def _listing(root, *lines, header="path,identity,split", name="list.csv"):
    plant(root, *(line.split(",")[0] for line in ROWS))
    (root / name).write_text("\n".join((header, *lines)) + "\n", encoding="utf-8")
    return root / name


def test_csv(tmp_path):
    data = Listing(_listing(tmp_path, *ROWS))
    assert data.train_identities == ["10", "anna"] and data.test_identities == ["9", "dora"]
    assert names(data.train, data.train_identities, tmp_path) == [
        ("photos/a1.jpg", "anna"),
        ("photos/b1.jpg", "10"),
    ]
    assert [r.pid for r in data.gallery] == [0, 1] and data.has_positive() == [True]
    assert data.camera_rule == "none" and data.notes == []


def test_spreadsheet_habits(tmp_path):
    """BOM, CRLF, blanks, empty lines, backslashes, upper-case splits and more columns do no harm."""
    lines = [line.replace(",train", " , Train , 33").replace("/", "\\") for line in ROWS[:2]]
    lines += ["", *(f'"{line.split(",")[0]}",{line.split(",", 1)[1]},40' for line in ROWS[2:]), ",,,"]
    file = _listing(tmp_path)
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(["path , identity,split,age", *lines]).encode())
    data, plain = Listing(file), Listing(_listing(tmp_path, *ROWS, name="plain.csv"))
    assert (data.train, data.query, data.gallery) == (plain.train, plain.query, plain.gallery)


def test_json_with_numbers_for_labels(tmp_path):
    plain = Listing(_listing(tmp_path, *ROWS))
    entries = [dict(zip(("path", "identity", "split"), line.split(","), strict=True)) for line in ROWS]
    for entry in entries:
        entry["identity"] = int(entry["identity"]) if entry["identity"].isdecimal() else entry["identity"]
        entry["view"] = 3
    (tmp_path / "list.json").write_text(json.dumps(entries), encoding="utf-8")
    data = Listing(tmp_path / "list.json")
    assert (data.train, data.query, data.gallery) == (plain.train, plain.query, plain.gallery)
    entries[3]["split"] = "test"
    (tmp_path / "list.json").write_text(json.dumps(entries), encoding="utf-8")
    assert "entry 4, column 'split': 'test' is none of" in message(Listing, tmp_path / "list.json")
    for broken in ("{", '{"path": 1}', '["a"]'):
        (tmp_path / "list.json").write_text(broken, encoding="utf-8")
        assert "JSON" in message(Listing, tmp_path / "list.json")


def test_another_root(tmp_path):
    plant(tmp_path / "images", *(line.split(",")[0] for line in ROWS))
    file = tmp_path / "tables" / "list.csv"
    file.parent.mkdir()
    file.write_text("\n".join(("path,identity,split", *ROWS)), encoding="utf-8")
    assert Listing(file, tmp_path / "images").query[0].path == str(tmp_path / "images/photos/c1.jpg")
    text = message(Listing, file)
    assert "5 of 5 images are not in" in text and "photos/a1.jpg" in text


def test_cameras_and_views_are_text(tmp_path):
    labels = ("phone,palm", "scanner,back", "attic,palm", "phone,back", "phone,palm")
    lines = [f"{line},{label}" for line, label in zip(ROWS, labels, strict=True)]
    data = Listing(_listing(tmp_path, *lines, header="path,identity,split,camera,view"), camera_rule="market")
    # training labels first, in sorted order: phone 0, scanner 1; attic, which only the test has, follows
    assert [r.camid for r in (*data.train, *data.query, *data.gallery)] == [0, 1, 2, 0, 0]
    assert [r.viewid for r in (*data.train, *data.query, *data.gallery)] == [1, 0, 1, 0, 1]
    assert (data.num_train_cams, data.num_train_views) == (2, 2)


def test_val_is_kept_out_of_training(tmp_path):
    plant(tmp_path, "photos/a2.jpg", "photos/e1.jpg")
    data = Listing(_listing(tmp_path, *ROWS, "photos/a2.jpg,anna,val", "photos/e1.jpg,Eva,val"))
    assert [r.pid for r in data.train] == [1, 0] and data.num_train_pids == 2
    assert names(data.val, data.val_identities, tmp_path) == [
        ("photos/a2.jpg", "anna"),
        ("photos/e1.jpg", "Eva"),
    ]
    assert [r.pid for r in data.val] == [1, 2]  # anna as in training; Eva, who is not in training, follows


def test_absent_training_images(tmp_path):
    file = _listing(
        tmp_path,
        *(f"{line},{v}" for line, v in zip(ROWS, "abbbb", strict=True)),
        header="path,identity,split,view",
    )
    before = Listing(file)
    (tmp_path / "photos/a1.jpg").unlink()
    assert "1 of 5 images are not in" in message(Listing, file)
    after = Listing(file, require_train=False)
    assert len(after.train) == 1 and len(after.notes) == 1
    assert after.query == before.query and after.query[0].viewid == 1


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["photos/a1.jpg,,train"], "line 2, column 'identity' is empty"),
        ([",anna,train"], "line 2, column 'path' is empty"),
        (
            [*ROWS, "photos/a1.jpg,anna,train"],
            "line 7, column 'path': 'photos/a1.jpg' was already given at line 2",
        ),
        (
            [*ROWS, "./photos//c1.jpg,9,gallery"],
            "line 7, column 'path': 'photos/c1.jpg' was already given at line 4",
        ),
        (
            ["photos/a1.jpg,anna,training"],
            "line 2, column 'split': 'training' is none of train, val, query, gallery",
        ),
        (["../a1.jpg,anna,train"], "line 2, column 'path': '../a1.jpg' leaves"),
        (["photos/../../a1.jpg,anna,train"], "leaves the data set's folder"),
        (["photos\\..\\..\\a1.jpg,anna,train"], "leaves the data set's folder"),
        (["/etc/a1.jpg,anna,train"], "leaves the data set's folder"),
        (["C:\\a1.jpg,anna,train"], "leaves the data set's folder"),
        (["photos/a1.jpg,anna"], "line 2 has 2 cells, the header 3"),
        (["photos/a1.jpg,anna,train,x"], "line 2 has 4 cells, the header 3"),
        (['"photos/a1.jpg,anna,train'], "is not CSV"),
        ([], "no rows"),
        ([ROWS[0], ROWS[1]], "the query set is empty"),
        ([ROWS[0], *ROWS[2:]], "one identity (anna)"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, lines, expected):
    text = message(Listing, _listing(tmp_path, *lines))
    assert expected in text and "list.csv" in text


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("path,person,split", "'identity' is missing; found path, person, split"),
        ("path;identity;split", "'path', 'identity', 'split' is missing"),
        ("path,identity,identity", "names a column twice"),
    ],
)
def test_wrong_headers(tmp_path, header, expected):
    rows = ROWS if "," in header else [row.replace(",", ";") for row in ROWS]
    assert expected in message(Listing, _listing(tmp_path, *rows, header=header))


def test_a_camera_in_some_rows_only_is_refused(tmp_path):
    lines = [f"{line},{'phone' if i else ''}" for i, line in enumerate(ROWS)]
    assert "line 2, column 'camera' is empty" in message(
        Listing, _listing(tmp_path, *lines, header="path,identity,split,camera")
    )


def test_unreadable_tables(tmp_path):
    assert "cannot be read" in message(Listing, tmp_path / "none.csv")
    (tmp_path / "utf16.csv").write_bytes("path,identity,split\n".encode("utf-16"))
    assert "not UTF-8" in message(Listing, tmp_path / "utf16.csv")


def test_a_written_split_reads_back(tmp_path):
    rows = [
        SplitRow('odd, "name".jpg', "O'Neil, Ann", "train", "phone 1", "palm"),
        SplitRow("ä/é.jpg", "日本", "val", "phone 1", "palm"),
        SplitRow("q.jpg", "0007", "query", "2", "3"),
        SplitRow("g.jpg", "7", "gallery", "2", "3"),
    ]
    write_split(tmp_path / "new" / "split.csv", rows)
    assert read_split(tmp_path / "new" / "split.csv") == rows
    write_split(tmp_path / "new" / "split.csv", rows[:2])
    assert read_split(tmp_path / "new" / "split.csv") == rows[:2]
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["split.csv"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    def rows():
        yield SplitRow("a.jpg", "a", "train")
        raise RuntimeError("stopped half-way")

    write_split(tmp_path / "split.csv", [SplitRow("old.jpg", "o", "train")])
    with pytest.raises(RuntimeError):
        write_split(tmp_path / "split.csv", rows())
    assert read_split(tmp_path / "split.csv")[0].path == "old.jpg"
    assert [p.name for p in tmp_path.iterdir()] == ["split.csv"]


def test_any_data_set_can_be_repeated_from_its_split(tmp_path):
    root = tmp_path / "fkp"
    for person in ("001", "002", "100", "101"):
        plant(root, *(f"{person}_left_index/{n:02d}ROI.jpg" for n in (1, 2, 7, 8)))
    data = PolyUFKP(root)
    write_split(tmp_path / "split.csv", split_of(data, root))
    again = Listing(tmp_path / "split.csv", root)
    assert (again.train, again.query, again.gallery) == (data.train, data.query, data.gallery)
    assert again.train_identities == data.train_identities
    assert "lies outside" in message(split_of, data, tmp_path / "elsewhere")


def test_pick_depends_on_the_key_alone():
    letters = ["d", "b", "a", "c"]
    # printf "%s" "(0, 'gallery', 3, '0001051')" | sha256sum begins with 00977a573dc38f11, which is 1 modulo 4
    assert pick(letters, 0, "gallery", 3, "0001051") == "b"
    drawn = Counter(pick(letters, 0, run, person) for run in range(10) for person in range(400))
    assert all(abs(count - 1000) < 120 for count in drawn.values())  # more than 4 standard deviations of 27


def test_one_of_each_goes_to_the_gallery():
    people = {"x": ["x1", "x2", "x3"], "y": ["y1"]}
    rows = take_one_each(people, "gallery", "query", 0, "gallery", 5)
    assert sorted(r.path for r in rows) == ["x1", "x2", "x3", "y1"]
    assert Counter((r.identity, r.split) for r in rows) == {
        ("x", "gallery"): 1,
        ("x", "query"): 2,
        ("y", "gallery"): 1,
    }
    without_y = take_one_each({"x": people["x"]}, "gallery", "query", 0, "gallery", 5)
    assert without_y == [r for r in rows if r.identity == "x"]
    choices = {
        tuple(r.path for r in take_one_each(people, "gallery", "query", 0, "gallery", run) if r.split == "gallery")
        for run in range(10)
    }
    assert len(choices) > 1


def test_labels_sort_by_value_only_if_all_are_numbers():
    assert label_numbers(["10", "9", "9"]) == {"9": 0, "10": 1}
    assert label_numbers(["10", "9", "x"]) == {"10": 0, "9": 1, "x": 2}


def test_an_unusable_train_set_matters_only_to_those_who_train():
    photos = [Photo("q", "1"), Photo("g", "1")]
    ReIDDataset([], photos[:1], photos[1:], name="x", camera_rule="none")
    text = message(ReIDDataset, [], photos[:1], photos[1:], name="x", camera_rule="none", require_train=True)
    assert "x: the train set has no image" in text


def test_folder_trees_round_trip_with_views(tmp_path):
    root = plant(tmp_path / "d", "train/a/1.jpg", "train/b/2.jpg", "query/c/3.jpg", "gallery/c/4.jpg")
    (root / "views.csv").write_text("path,view\n1.jpg,palm\n2.jpg,back\n3.jpg,side\n4.jpg,palm\n")
    data = HandFolder(root)
    write_split(tmp_path / "split.csv", split_of(data, root))
    again = Listing(tmp_path / "split.csv", root)
    assert (again.train, again.query, again.gallery) == (data.train, data.query, data.gallery)


ROLES = """path,identity,split,person,side,note
a1.png,ann left,train+gallery,ann,L,x
a2.png,ann left,query,ann,L,
b1.png,ben left,Train + Gallery,ben,left,x
b2.png,ben left,query,ben,left,
"""


def test_several_roles_and_attributes(tmp_path):
    plant(tmp_path, "a1.png", "a2.png", "b1.png", "b2.png")
    (tmp_path / "listing.csv").write_text(ROLES)
    data = Listing(tmp_path / "listing.csv")
    assert [len(part) for part in (data.train, data.query, data.gallery)] == [2, 2, 2]
    assert data.protocol == "closed" and "2 of 2 gallery images are training images" in " ".join(data.notes)
    assert data.attributes[data.gallery[0].path] == {"person": "ann", "hand": "left", "note": "x"}
    write_split(tmp_path / "again.csv", split_of(data, tmp_path))
    again = Listing(tmp_path / "again.csv")
    assert (again.train, again.query, again.gallery) == (data.train, data.query, data.gallery)
    assert again.attributes == data.attributes


@pytest.mark.parametrize("split", ["train+query", "train+val", "query+query", "train+query+gallery", "query+", "+"])
def test_roles_that_one_image_cannot_have(tmp_path, split):
    plant(tmp_path, "a1.png", "a2.png", "b1.png", "b2.png")
    (tmp_path / "listing.csv").write_text(ROLES.replace("a2.png,ann left,query", f"a2.png,ann left,{split}"))
    assert "line 3, column 'split'" in message(Listing, tmp_path / "listing.csv")


def test_an_image_that_is_query_and_enrolled(tmp_path):
    plant(tmp_path, "a1.png", "a2.png", "b1.png")
    rows = "a1.png,ann,query+gallery\na2.png,ann,query+gallery\nb1.png,ben,query+gallery\n"
    (tmp_path / "listing.csv").write_text(f"path,identity,split\n{rows}")
    data = Listing(tmp_path / "listing.csv", require_train=False)
    assert data.query == data.gallery and data.has_positive() == [True, True, False]
    assert "1 of 3 queries have no match" in " ".join(data.notes)


def test_people_of_an_open_protocol(tmp_path):
    plant(tmp_path, "a1.png", "a2.png", "b1.png", "b2.png")
    rows = (
        "a1.png,ann left,train,ann",
        "b1.png,b,train,ben",
        "a2.png,ann right,query,ann",
        "b2.png,ann right,gallery,ann",
    )
    (tmp_path / "listing.csv").write_text("\n".join(("path,identity,split,person", *rows)))
    assert Listing(tmp_path / "listing.csv").protocol == ""
    said = message(Listing, tmp_path / "listing.csv", roles=Roles("open"))
    assert "DATASETS.PROTOCOL open, but 1 of 1 test people train too: ann" in said


def test_all_pairs_of_a_listing(tmp_path):
    plant(tmp_path, *(f"{n}.png" for n in "abcdef"))
    rows = "a.png,ann,train\nb.png,ben,train\nc.png,cem,query\nd.png,dee,gallery\ne.png,cem,gallery\nf.png,dee,query\n"
    (tmp_path / "listing.csv").write_text(f"path,identity,split\n{rows}")
    data = Listing(tmp_path / "listing.csv", roles=Roles("all_pairs"))
    assert data.query == data.gallery and [r.path[-5] for r in data.query] == ["c", "e", "d", "f"]
    (tmp_path / "pairs.txt").write_text("c.png e.png 1\nc.png d.png 0\n")
    pairs = Listing(tmp_path / "listing.csv", roles=Roles("pairs"), pairs="pairs.txt")
    assert len(pairs.train) == 2 and [list(part) for part in pairs.pair_rows()] == [[0, 0], [0, 1], [True, False]]
