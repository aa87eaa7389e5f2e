"""Tables of images, CSV and JSON, and the split files that runs write: all read by one reader."""

import json
import os

import pytest

from datasets.listing import Listing
from datasets.parsing.splits import read_split
from tests.bad_inputs.kit import Case, cases, judge

HEADER = "path,identity,split\n"
GOOD = "a.jpg,ann,train\nb.jpg,ben,train\nq.jpg,cem,query\ng.jpg,cem,gallery\n"
OUTSIDE = "leaves the data set's folder"


def table(*lines, header=HEADER):
    return (header + "".join(f"{line}\n" for line in lines)).encode()


def path_of(image):
    return table(f'"{image}",ann,train')


def entries(*rows):
    return json.dumps([dict(zip(("path", "identity", "split"), row, strict=True)) for row in rows]).encode()


def first(path="a.jpg", identity="ann", split="train"):
    return lambda rows: (rows[0].path, rows[0].identity, rows[0].split) == (path, identity, split)


LISTINGS = cases(
    Case("formula.csv", table("a.jpg,\"=cmd|'/c calc'!A1\",train"), first(identity="=cmd|'/c calc'!A1")),
    Case("formula-path.csv", path_of("@SUM(1+1).jpg"), first("@SUM(1+1).jpg")),
    Case("up.csv", path_of("../a.jpg"), OUTSIDE),
    Case("up-later.csv", path_of("x/../../a.jpg"), OUTSIDE),
    Case("up-backslash.csv", path_of("x\\..\\..\\a.jpg"), OUTSIDE),
    Case("absolute.csv", path_of("/etc/passwd"), OUTSIDE),
    Case("drive.csv", path_of("C:\\a.jpg"), OUTSIDE),
    Case("share.csv", path_of("\\\\server\\a.jpg"), OUTSIDE),
    Case("address.csv", path_of("https://example.org/a.jpg"), first("https:/example.org/a.jpg")),  # a folder's name
    Case("home.csv", path_of("~/a.jpg"), first("~/a.jpg")),  # likewise
    Case("variable.csv", path_of("$HOME/`id`.jpg"), first("$HOME/`id`.jpg")),
    Case("dots-only.csv", path_of(".."), OUTSIDE),
    Case("null.csv", path_of("a\0.jpg"), "null character"),
    Case("null-identity.csv", table("a.jpg,a\0n,train"), "null character"),
    Case("control.csv", table("a.jpg,\x1b[2Jann,train"), first(identity="\x1b[2Jann")),  # escaped where it is printed
    Case("giant-cell.csv", table(f"a.jpg,{'x' * 200_000},train"), "is not CSV .*field larger"),
    Case("open-quote.csv", table('"a.jpg,ann,train' + "\nb" * 1000), "is not CSV"),
    Case("quote-inside.csv", table('a"b".jpg,ann,train'), first('a"b".jpg')),
    Case("after-quote.csv", table('"a.jpg"x,ann,train'), "is not CSV"),
    Case("many-columns.csv", table("a.jpg,ann,train" + "," * 5000), "5003 cells, the header 3"),
    Case("twice.csv", table("a.jpg,ann", header="path,path\n"), "names a column twice"),
    Case("missing.csv", table("a.jpg,train", header="path,split\n"), "column 'identity' is missing"),
    Case("semicolons.csv", table("a.jpg;ann;train", header="path;identity;split\n"), "is missing; found path;identity"),
    Case("header-only.csv", table(), "the table has no rows"),
    Case("empty.csv", b"", "is missing"),
    Case("blank.csv", b"\n\n,,\n", "is missing"),
    Case("mark.csv", b"\xef\xbb\xbf" + table("a.jpg,ann,train"), first()),
    Case("mixed-ends.csv", b"path,identity,split\r\na.jpg,ann,train\rb.jpg,ben,train\n", lambda rows: len(rows) == 2),
    Case("utf16.csv", table("a.jpg,ann,train").decode().encode("utf-16"), "is not UTF-8 text"),
    Case("latin1.csv", table("a.jpg,Jürg,train").decode().encode("latin-1"), "is not UTF-8 text"),
    Case("binary.csv", bytes(range(256)) * 10, "is not UTF-8 text"),
    Case("same-twice.csv", table("a.jpg,ann,train", "./a.jpg,ben,query"), "was already given at line 2"),
    Case("split.csv", table("a.jpg,ann,TRAINING"), "none of train, val, query, gallery"),
    Case("digits.csv", table(f"a.jpg,{'9' * 10_000},train"), first(identity="9" * 10_000)),
    Case("digit-look-alikes.csv", table("a.jpg,\u0663\u00b2,train"), first(identity="\u0663\u00b2")),
    Case("folder.csv", lambda path: path.mkdir(), "it is a folder"),
    Case("pipe.csv", os.mkfifo, "it is not a regular file"),
    Case("device.csv", lambda path: path.symlink_to("/dev/zero"), "it is not a regular file"),
    Case("loop.csv", lambda path: path.symlink_to(path), "cannot be read"),
    Case("deep.json", b"[" * 100_000, "is not JSON"),
    Case("endless-number.json", b'[{"path": ' + b"9" * 10_000 + b"}]", "is not JSON"),
    Case("not-a-list.json", b'{"path": "a.jpg"}', "must be a JSON list of objects"),
    Case("list-of-lists.json", b'[["a.jpg", "ann", "train"]]', "must be a JSON list of objects"),
    Case("nested.json", b'[{"path": {"a": 1}, "identity": ["x"], "split": "train"}]', first("{'a': 1}", "['x']")),
    Case("nothing.json", b'[{"path": null, "identity": "ann", "split": "train"}]', "column 'path' is empty"),
    Case("not-finite.json", b'[{"path": "a.jpg", "identity": NaN, "split": "train"}]', first(identity="nan")),
    Case("up.json", entries(("../a.jpg", "ann", "train")), OUTSIDE),
    Case("null.json", entries(("a\0.jpg", "ann", "train")), "null character"),
    Case("half-a-character.json", b'[{"path": "\\ud800.jpg", "identity": "ann", "split": "train"}]', "not text"),
    Case(
        "twice.json",
        b'[{"path": "a.jpg", "path": "b.jpg", "identity": "a", "split": "val"}]',
        "names a value twice: path, path, identity, split",
    ),
    Case("mark.json", b"\xef\xbb\xbf" + entries(("a.jpg", "ann", "train")), first()),
    Case("cut.json", entries(("a.jpg", "ann", "train"))[:-5], "is not JSON"),
    Case("empty.json", b"", "is not JSON"),
    Case("no-entries.json", b"[]", "is missing"),
)


@LISTINGS
@pytest.mark.timeout(60)
def test_listings(tmp_path, case):
    judge(case, tmp_path, read_split)


TREES = cases(
    Case("good.csv", table(*GOOD.split()), lambda data: len(data.train) == 2),
    Case("long-name.csv", table(*GOOD.split(), f"{'x' * 5000}.jpg,ann,train"), "1 of 5 images are not in"),
    Case("folder-as-image.csv", table(*GOOD.split(), "folder.jpg,ann,train"), "1 of 5 images are not in"),
    Case("pipe-as-image.csv", table(*GOOD.split(), "pipe.jpg,ann,train"), "1 of 5 images are not in"),
    Case("loop-as-image.csv", table(*GOOD.split(), "loop.jpg,ann,train"), "1 of 5 images are not in"),
)


@TREES
@pytest.mark.timeout(60)
def test_listings_of_files_that_are_no_files(tmp_path, case):
    for name in "abqg":
        (tmp_path / f"{name}.jpg").touch()
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    judge(case, tmp_path, Listing)
