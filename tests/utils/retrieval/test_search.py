import logging
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from configs import load_config
from processor import start_run
from processor.testing.evaluation import _rank
from utils.console.logger import LOGGER
from utils.errors import ReIDError
from utils.metrics import Features
from utils.retrieval import search
from utils.retrieval.compiled import compiled_loops
from utils.retrieval.search import approximate_top_k, top_k


def _features(queries=20, items=300, width=16):
    random = np.random.default_rng(0)
    return tuple(random.normal(size=(n, width)).astype(np.float32) for n in (queries, items))


def _expected(query, gallery, metric):
    q, g = query.astype(np.float64), gallery.astype(np.float64)
    if metric == "cosine":
        q, g = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (q, g))
        return 1 - q @ g.T
    return ((q[:, None] - g[None]) ** 2).sum(2)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize(("k", "gallery_rows", "chunk_size"), [(5, 2**14, None), (40, 32, 7), (1, 1, 3)])
@pytest.mark.parametrize("offset", [0, 300])
def test_equals_a_full_sort(monkeypatch, metric, k, gallery_rows, chunk_size, offset):
    """The offset brings all features close together: in float32 their order is noise."""
    monkeypatch.setattr(search, "GALLERY_ROWS", gallery_rows)
    query, gallery = (features + np.float32(offset) for features in _features(items=100))
    found = top_k(query, gallery, k, metric=metric, chunk_size=chunk_size)
    expected = _expected(query, gallery, metric)
    np.testing.assert_array_equal(found.index, np.argsort(expected, axis=1)[:, :k])
    np.testing.assert_allclose(found.distances, np.sort(expected, axis=1)[:, :k], atol=2e-5)
    assert found.recall == 1


def test_memory_mapped_half_precision_gallery(tmp_path):
    query, gallery = _features()
    np.save(tmp_path / "g.npy", gallery.astype(np.float16))
    found = top_k(torch.from_numpy(query), np.load(tmp_path / "g.npy", mmap_mode="r"), 3)
    expected = np.argsort(_expected(query, gallery.astype(np.float16), "euclidean"), axis=1)[:, :3]
    np.testing.assert_array_equal(found.index, expected)


def test_equal_distances_come_by_index_and_a_small_gallery_gives_all():
    found = top_k(np.ones((2, 4)), np.ones((6, 4)), 10)
    assert found.index.tolist() == [list(range(6))] * 2


def test_refuses_no_items():
    with pytest.raises(ReIDError, match="at least 1"):
        top_k(*_features(), 0)


def test_without_faiss_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ReIDError, match="pip install faiss-cpu"):
        approximate_top_k(*_features(), 5)


def test_a_run_that_needs_faiss_is_refused_before_it_begins(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "faiss", None)
    cfg, _ = load_config(None, ["TEST.SEARCH", "faiss", "OUTPUT_DIR", str(tmp_path / "run")])
    with pytest.raises(ReIDError, match=r"TEST\.SEARCH faiss.*pip install faiss-cpu"):
        start_run(cfg)
    assert not (tmp_path / "run").exists()


def test_an_evaluation_searches_as_configured_and_keeps_its_numbers(tmp_path, caplog):
    caplog.set_level(logging.INFO, LOGGER.name)
    pytest.importorskip("faiss")
    features, items = _features(queries=40, items=3000)
    pids = np.arange(3000) % 40
    query, gallery = Features(features, pids[:40], pids[:40]), Features(items, pids, pids + 1)
    found = []
    for how in ("exact", "faiss"):
        options = ["MODEL.METHOD", "baseline", "SOLVER.STAGES", "[2]", "TEST.SEARCH", how]
        cfg, _ = load_config(None, options)
        found.append(_rank(cfg, query, gallery, "market", SimpleNamespace(output_dir=tmp_path), ""))
    exact, near = found
    assert exact.metrics.mAP == near.metrics.mAP  # only what pictures show is approximate
    shown = near.find_nearest([3, 5])
    assert 0.3 < shown.recall < 1 and f"recall {shown.recall:.3f}" in caplog.text
    best = exact.find_nearest([3, 5])
    assert best.recall == 1 and shown.index.shape == best.index.shape
    share = np.mean([np.isin(s, b).mean() for s, b in zip(shown.index, best.index, strict=True)])
    assert 0.3 < share <= 1


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_approximate_search_reports_its_recall(metric):
    pytest.importorskip("faiss")
    query, gallery = _features(items=2000)
    exact = top_k(query, gallery, 5, metric=metric)
    few, all_cells = (approximate_top_k(query, gallery, 5, metric=metric, probes=p) for p in (2, 1000))
    assert all_cells.recall == 1
    assert torch.equal(all_cells.index, exact.index)
    torch.testing.assert_close(all_cells.distances, exact.distances, atol=1e-4, rtol=1e-4)
    hits = [len(set(f) & set(e)) for f, e in zip(few.index.tolist(), exact.index.tolist(), strict=True)]
    assert few.recall == pytest.approx(np.mean(hits) / 5)
    assert few.recall < 1


@pytest.mark.parametrize("count", [1, 20, 38])
def test_a_small_gallery_gives_no_warning(count, capfd):
    pytest.importorskip("faiss")
    rows = torch.randn(count, 8, generator=torch.Generator().manual_seed(0))
    assert approximate_top_k(rows, rows, 1).index[:, 0].tolist() == list(range(count))
    assert "".join(capfd.readouterr()) == ""


@pytest.mark.parametrize("order", ["random", "rising", "falling", "equal"])
@pytest.mark.parametrize("threads", [1, 3])
def test_both_ways_keep_the_smallest(order, threads, monkeypatch, no_numba, use_threads):
    """Three tiles, one after another, against a sort of all of them; the second one is a view of its transpose."""
    monkeypatch.setattr(search, "WORTH_COMPILED", 0)
    use_threads(threads)
    numbers = torch.randn(7, 60, generator=torch.Generator().manual_seed(0))
    numbers = {"random": numbers, "equal": torch.ones(7, 60)}.get(order, numbers.sort(1, order == "falling")[0])
    tiles = numbers[:, :20].contiguous(), numbers[:, 20:45].T.contiguous().T, numbers[:, 45:].contiguous()
    expected, place = numbers.sort(dim=1, stable=True)
    for compiled in (True, False):
        if not compiled:
            no_numba()
        assert (compiled_loops() is not None) == compiled
        value, index, column = torch.full((7, 9), torch.inf), torch.zeros(7, 9, dtype=torch.int64), 0
        for tile in tiles:
            search.keep_smallest(value, index, tile, column)
            column += tile.shape[1]
        assert torch.equal(value, expected[:, :9]) and torch.equal(numbers.gather(1, index), value)
        if order != "equal":
            assert torch.equal(index, place[:, :9])
