"""Names for the rows and columns of a distance file."""

import csv
from pathlib import Path
from types import SimpleNamespace

from datasets.bases import QueryGallerySplit
from processor.reports.distance_names import write_distance_names


def record(path, pid=0, camid=0):
    return SimpleNamespace(path=str(path), pid=pid, camid=camid)


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
