"""Names for the rows and columns of a distance file, and copies among query and gallery."""

import csv
from pathlib import Path
from types import SimpleNamespace

import pytest

from datasets.bases import QueryGallerySplit
from processor.reports.compared_files import identical_files, note_identical_files, write_distance_names


def record(path, pid=0, camid=0):
    return SimpleNamespace(path=str(path), pid=pid, camid=camid)


@pytest.fixture
def files(tmp_path):
    """Files by name; ``a`` and ``copy`` have one content, ``same_size`` another of the same length."""
    content = {"a": b"123", "copy": b"123", "same_size": b"124", "other": b"4567"}
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    return {name: tmp_path / name for name in content}


def test_identical_files_are_found_by_content_and_counted(files, caplog):
    gone = record(files["a"].with_name("gone"))
    trials = [
        QueryGallerySplit(1, [record(files["a"]), record(files["other"]), gone], [record(files["same_size"]), gone]),
        QueryGallerySplit(2, [record(files["a"]), record(files["other"])], [record(files["copy"])]),
    ]
    pair = (str(files["a"]), str(files["copy"]))
    assert [found for found in identical_files(trials) if "gone" not in found[0]] == [pair]
    assert identical_files(trials[:1]) == [(gone.path, gone.path)]  # one file as query and gallery, readable or not
    assert note_identical_files(SimpleNamespace(trials=trials[1:], protocol="open")) == 1
    assert "1 query images lie in the gallery as identical files" in caplog.text and "copy" in caplog.text
    caplog.clear()
    trial = QueryGallerySplit(None, [record(files["other"])], [record(files["a"]), record(files["copy"])])
    assert note_identical_files(SimpleNamespace(trials=[trial], protocol="")) == 0 and not caplog.text
    assert note_identical_files(SimpleNamespace(trials=trials, protocol="all_pairs")) == 0 and not caplog.text


def test_distances_have_names_for_rows_and_columns(tmp_path, caplog):
    caplog.set_level("INFO")
    query, gallery = [record("/data/q/0.png", 1, 3)], [record("/data/g/1.png", 0, 4), record("/other/2.png", 1, 5)]
    trials = [QueryGallerySplit(number, query, gallery) for number in (1, 2)]
    dataset = SimpleNamespace(trials=trials, test_identities=["ann", "bob, jr"])
    write_distance_names(tmp_path / "d.npy", dataset, "squared Euclidean distance", Path("/data"))
    expected = [
        ["axis", "index", "path", "identity", "camera"],
        ["row", "0", "q/0.png", "bob, jr", "3"],
        ["column", "0", "g/1.png", "ann", "4"],
        ["column", "1", "2.png", "bob, jr", "5"],
    ]
    for run in (1, 2):
        assert list(csv.reader((tmp_path / f"d_run{run}.csv").open(newline=""))) == expected
    assert "squared Euclidean distance" in caplog.text and "d_run1.csv" in caplog.text
    write_distance_names(tmp_path / "d.npy", SimpleNamespace(trials=trials[:1], test_identities=["a", "b"]), "", Path())
    assert (tmp_path / "d.csv").is_file()
