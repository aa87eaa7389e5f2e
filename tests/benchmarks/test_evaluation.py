"""The benchmark of evaluation and re-ranking: its rows at a size of a second."""

import json

import numpy as np
import pytest
import torch

from tests.benchmarks import evaluation
from utils.metrics import evaluate
from utils.reranking import k_reciprocal

SMALL = evaluation.Size(40, 300, 20, width=32, bar=(1e9, 1e9), rerank_bar=(0.0, 1e9))


def test_rows_and_verdicts(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(evaluation.SIZES, "market", SMALL)
    file = tmp_path / "found.json"
    evaluation.main(["--size", "market", "--repeats", "1", "--threads", "1", "--spread", "1", "--json", str(file)])
    found = json.loads(file.read_text())
    fast, slow = found["rows"]
    assert all(row["features"] == "unit" and row["spread"] == 1 and row["median_ratio"] > 0 for row in found["rows"])
    assert (fast["task"], slow["task"]) == ("evaluate", "rerank")
    assert (fast["verdict"], slow["verdict"]) == ("ok", "MISSED")  # by the bars above
    for row in (fast, slow):
        assert (row["queries"], row["gallery"]) == (40, 300)
        assert row["ratio"] == pytest.approx(row["seconds"] / row["product_seconds"])
    query, gallery = evaluation.clusters(SMALL, 1.0, torch.device("cpu"))
    assert fast["mAP"] == evaluate(query, gallery).mAP
    assert "MISSED" in capsys.readouterr().out and found["machine"]["cores"] >= 1


def test_clusters_are_unit_features_of_their_identities():
    query, gallery = evaluation.clusters(SMALL, 0.1, torch.device("cpu"))
    assert np.allclose(np.linalg.norm(gallery.features, axis=1), 1, atol=1e-5)
    same = query.pids[:, None] == gallery.pids
    similarity = query.features @ gallery.features.T
    assert similarity[same].min() > similarity[~same].max()


def test_re_ranking_with_full_matrices_is_the_same():
    query, gallery = evaluation.clusters(SMALL, 1.0, torch.device("cpu"), unit=False)
    found = torch.cat(list(k_reciprocal(query.features, gallery.features, 20, 6)))
    expected = evaluation.dense_reranking(query.features, gallery.features, 20, 6)
    np.testing.assert_allclose(found, expected, atol=1e-4)
