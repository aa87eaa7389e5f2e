"""Several runs in one folder: rows of ``metrics.json``, queries of several random splits."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from configs import get_defaults
from datasets.bases import QueryGallerySplit, Record
from processor.reports.comparison import difference
from processor.reports.tables import _read_earlier, merge_results, protocol, save_queries
from processor.runs.folder import RunFolder, back_up, holds_training, read_run
from processor.runs.run import Run, fingerprint
from processor.runs.start import start_run
from tests.processor.test_html_report import make_run
from utils.compute.device import Precision
from utils.console.logger import close_logger
from utils.errors import ReIDError


def row(**facts):
    known = {"weights": "w", "model": "m", "dataset": "d", "root": "r", "images": "i", "camera_rule": "none"}
    return known | {"protocol": {"FLIP": False}} | facts


@pytest.mark.parametrize(
    "other",
    [
        {"weights": "v"},
        {"model": "n"},
        {"dataset": "e"},
        {"root": "s"},
        {"images": "j"},
        {"camera_rule": "market"},
        {"protocol": {"FLIP": True}},
    ],
    ids=lambda other: next(iter(other)),
)
def test_a_row_is_replaced_only_by_one_of_the_same_protocol(other):
    rows = merge_results(merge_results({}, {"test": row(mAP=1)}), {"test": row(mAP=2, **other)})
    assert [(name, found["mAP"]) for name, found in rows.items()] == [("test", 1), ("test 2", 2)]
    rows = merge_results(rows, {"test": row(mAP=3)})  # the first again: it keeps its name and is the last in order
    assert [(name, found["mAP"]) for name, found in rows.items()] == [("test 2", 2), ("test", 3)]
    rows = merge_results(rows, {"test": row(mAP=4, weights="x")})
    assert list(rows) == ["test 2", "test", "test 3"]


def test_figures_in_half_precision_have_another_protocol():
    cfg = get_defaults()
    exact = protocol(cfg, "after")
    cfg.TEST.PRECISION = "bf16"
    assert protocol(cfg, "after") == exact | {"PRECISION": "bf16"}


def test_rows_of_trainings_have_numbers_too():
    rows = merge_results({}, {"untrained": row(), "trained": row(), "best": row()})
    rows = merge_results(rows, {"test": row()})
    again = {"untrained": row(), "trained": row(protocol={"RE_RANKING": True}), "best": row(camera_rule="market")}
    assert list(merge_results(rows, again)) == ["trained", "best", "test", "untrained", "trained 2", "best 2"]


def test_rows_of_older_files_keep_their_names():
    old = {"test 1": {"mAP": 1}, "test": {"mAP": 2}}
    rows = merge_results(old, {"test": row(mAP=3)})
    assert [(name, found["mAP"]) for name, found in rows.items()] == [("test 1", 1), ("test", 2), ("test 2", 3)]


def test_a_fingerprint_distinguishes_queries_and_gallery():
    a, b, c = (Record(f"somewhere/{name}", 0, 0, 0) for name in "abc")
    assert fingerprint([a, b], [c]) == fingerprint([a._replace(path="elsewhere/a"), b], [c])
    splits = [
        ([a, b], [c]),
        ([a], [b, c]),
        ([a, b, c],),
        ([b, a], [c]),
        ([a, b], [c._replace(camid=1)]),
        ([a, b], [c], [a], [b]),
    ]
    assert len({fingerprint(*each) for each in splits}) == len(splits)


@pytest.mark.parametrize(("test", "name"), [(False, "trained 2"), (True, "test 3")])
def test_the_last_row_is_the_result(tmp_path, test, name):
    folder = make_run(tmp_path / "run", np.ones(2), pictures=False)
    metrics = json.loads((folder / "metrics.json").read_text())
    made = metrics["results"]["trained"]
    names = ["test 3", "trained", "trained 2"] if not test else ["trained", "test", "test 2", "test 3"]
    metrics["results"] = dict.fromkeys(["untrained", *names, "text: identity"], made)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    assert read_run(folder, test).name == name


ODD = [
    '{"results": {"test": 5}}',
    '{"results": [1]}',
    '{"results": {}, "history": 5}',
    '{"results": {}, "history": [], "seconds": 1.0, "environment": {}, "more": NaN}',
    "[" * 100_000,
    "of the run before",
]


@pytest.mark.parametrize("content", ODD, ids=range(len(ODD)))
def test_numbers_that_no_run_wrote_are_kept_as_a_backup(tmp_path, content):
    path = tmp_path / "metrics.json"
    (tmp_path / "metrics_before.json").write_text("older")
    path.write_text(content)
    assert _read_earlier(path) == {} and not path.exists()
    assert (tmp_path / "metrics_before2.json").read_text() == content
    assert (tmp_path / "metrics_before.json").read_text() == "older"


def test_a_name_that_cannot_be_given_is_a_message(tmp_path):
    with pytest.raises(ReIDError, match=r"metrics.json: cannot be renamed to metrics_before.json"):
        back_up(tmp_path / "metrics.json")


def training(folder, stages):
    return Run(Precision(torch.device("cpu"), torch.float32), folder, {"SOLVER.STAGES": stages})


def test_a_training_that_starts_over_keeps_older_numbers_in_a_backup(tmp_path):
    for number, name in enumerate(("metrics_before.json", "metrics_before2.json", "metrics_before3.json")):
        (tmp_path / "metrics.json").write_text(str(number))
        training(tmp_path, [2]).resume("auto")
        assert not (tmp_path / "metrics.json").exists() and (tmp_path / name).read_text() == str(number)
    (tmp_path / "metrics.json").write_text("3")
    training(tmp_path, []).resume("auto")  # zero-shot: its row joins the others
    assert (tmp_path / "metrics.json").read_text() == "3"


@pytest.mark.parametrize("trained", [True, False])
def test_a_test_leaves_the_files_of_a_training_that_lost_its_states(tmp_path, trained):
    folder = make_run(tmp_path / "run", np.ones(2), pictures=False)
    metrics = json.loads((folder / "metrics.json").read_text())
    if not trained:
        metrics["results"] = {"test": metrics["results"]["trained"]}
        (folder / "metrics.json").write_text(json.dumps(metrics))
    cfg = get_defaults()
    cfg.OUTPUT_DIR, cfg.MODEL.DEVICE = str(folder), "cpu"
    try:
        run = start_run(cfg, test=True)
    finally:
        close_logger()
    assert run.suffix == ("_test" if trained else "") and holds_training(folder) is trained
    assert (folder / "config_test.yml").exists() is trained


def queries_of_splits(folder, precisions):
    """Average precisions of two random splits with queries a, b and b, c; c has no match in the second."""
    a, b, c = (Record(f"{name}.jpg", pid, 0, 0) for pid, name in enumerate("abc"))
    dataset = SimpleNamespace(
        trials=[QueryGallerySplit(4, [a, b], [c]), QueryGallerySplit(5, [b, c], [a])],
        test_identities=["anna", "bob", "cy"],
    )
    evaluation = SimpleNamespace(precisions=tuple(np.array(values) for values in precisions))
    save_queries(folder / "queries.npz", evaluation, dataset, Path())
    return RunFolder(folder, {}, {}, "trained", "")


def test_a_query_counts_with_its_mean_over_the_splits_that_have_it(tmp_path):
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    first = queries_of_splits(tmp_path / "first", ([0.2, 0.4], [0.8, np.nan]))
    second = queries_of_splits(tmp_path / "second", ([0.3, 0.6], [0.9, np.nan]))
    found = first.queries()
    assert found["path"].tolist() == ["a.jpg", "b.jpg", "c.jpg"] and found["identity"].tolist() == ["anna", "bob", "cy"]
    assert found["average_precision"] == pytest.approx([0.2, 0.6, np.nan], nan_ok=True)
    with np.load(tmp_path / "first" / "queries.npz") as file:
        assert file["average_precision_run4"] == pytest.approx([0.2, 0.4, np.nan], nan_ok=True)
        assert file["average_precision_run5"] == pytest.approx([np.nan, 0.8, np.nan], nan_ok=True)
    # a: 0.3 - 0.2; b: (0.6 + 0.9) / 2 - (0.4 + 0.8) / 2; the first split alone would give (0.1 + 0.2) / 2.
    assert difference({1: first}, {1: second})["mean"] == pytest.approx(100 * (0.1 + 0.15) / 2)
