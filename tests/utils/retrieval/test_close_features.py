"""Features that lie close together, as those of a collapsed model: |q|^2 + |g|^2 - 2 q.g loses their distances."""

import numpy as np
import pytest
import torch

from tests.utils.reranking.test_k_reciprocal import dense
from tests.utils.test_metrics import assert_same, slow
from utils.metrics import Features, distance_chunks, evaluate
from utils.reranking import k_reciprocal
from utils.retrieval.coordinates import Coordinates, Placed
from utils.retrieval.search import approximate_top_k, top_k

METRICS = pytest.mark.parametrize("metric", ["euclidean", "cosine"])


def _exact(query, gallery, metric):
    """Distances from differences in float64."""
    q, g = (np.asarray(x, np.float64) for x in (query, gallery))
    if metric == "cosine":
        q, g = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (q, g))
    squared = ((q[:, None] - g[None]) ** 2).sum(2)
    return squared / 2 if metric == "cosine" else squared


def _collapsed(spread, queries=12, items=90, people=6, width=16):
    """Six people around the vector of ones, which is far longer than the distances between them."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(people, width))
    sets = []
    for count in (queries, items):
        pids = np.arange(count) % people
        noise = centres[pids] + 0.7 * random.normal(size=(count, width))
        sets.append(Features((1 + spread * noise).astype(np.float32), pids, np.full(count, len(sets))))
    return sets


def _two_groups(spread=1e-5):
    """Narrow groups far from each other: subtracting a common centre does not help within a group."""
    random = np.random.default_rng(1)
    sides = np.sign(random.normal(size=(60, 1)))
    x = (sides * np.linspace(1, 2, 8) + spread * random.normal(size=(60, 8))).astype(np.float32)
    return x[:10], x[10:]


def test_two_distances_that_float32_products_lose():
    found = torch.cat(list(distance_chunks(np.array([[1, 0]], "f4"), np.array([[1, 2e-4], [1, 1e-4]], "f4"))))
    np.testing.assert_allclose(found, [[4e-8, 1e-8]], rtol=1e-6)


@METRICS
@pytest.mark.parametrize("spread", [1e-2, 1e-4, 1e-6])
def test_distances(metric, spread):
    query, gallery = (part.features for part in _collapsed(spread))
    found = torch.cat(list(distance_chunks(query, gallery, metric=metric, chunk_size=5)))
    np.testing.assert_allclose(found, _exact(query, gallery, metric), rtol=1e-3)


@METRICS
def test_distances_within_narrow_groups(metric):
    query, gallery = _two_groups()
    found = torch.cat(list(distance_chunks(query, gallery, metric=metric)))
    np.testing.assert_allclose(found, _exact(query, gallery, metric), rtol=1e-3, atol=1e-16)


def test_a_vector_of_zeros_is_orthogonal_to_all():
    query, gallery = np.array([[0, 0], [3, 0]], "f4"), np.array([[1, 0], [0, 0], [0, 2], [-1, 0]], "f4")
    found = torch.cat(list(distance_chunks(query, gallery, metric="cosine")))
    np.testing.assert_allclose(found, [[1, 1, 1, 1], [0, 1, 1, 2]], atol=1e-7)


@METRICS
@pytest.mark.parametrize("spread", [1e-4, 1e-6])
def test_evaluation(metric, spread):
    query, gallery = _collapsed(spread)
    labels = [part.tolist() for part in (query.pids, gallery.pids, query.camids, gallery.camids)]
    assert_same(
        evaluate(query, gallery, metric=metric), slow(_exact(query.features, gallery.features, metric), *labels)
    )


@pytest.mark.parametrize("spread", [1e-2, 1e-4, 1e-6])
def test_re_ranking(spread):
    query, gallery = (part.features for part in _collapsed(spread))
    found = torch.cat(list(k_reciprocal(query, gallery, 10, 4)))
    np.testing.assert_allclose(found, dense(query, gallery, 10, 4, 0.3), atol=1e-4)


def test_re_ranking_of_equal_images_gives_zero():
    x = np.random.default_rng(0).normal(size=(1, 512)).astype("f4").repeat(28, 0)
    assert torch.cat(list(k_reciprocal(x[:8], x[8:]))).abs().max() < 1e-6


@METRICS
@pytest.mark.parametrize("spread", [1e-2, 1e-4, 1e-6])
def test_search(metric, spread):
    query, gallery = (part.features for part in _collapsed(spread, items=400))
    found, expected = top_k(query, gallery, 3, metric=metric), _exact(query, gallery, metric)
    np.testing.assert_array_equal(found.index, np.argsort(expected, axis=1)[:, :3])
    np.testing.assert_allclose(found.distances, np.sort(expected, axis=1)[:, :3], rtol=1e-5)


def _near_duplicates(queries=10, items=160, width=16):
    """Directions all over, of any length; the gallery has each a few times, a rounding of float32 apart."""
    random = np.random.default_rng(2)
    sets = []
    for count, copies in ((queries, 1), (items, 8)):
        x = random.normal(size=(count // copies, width)).repeat(copies, 0)
        x = x * (1 + 1e-7 * random.normal(size=x.shape)) * random.uniform(0.01, 100, size=(count, 1))
        sets.append(Features(x.astype(np.float32), random.integers(4, size=count), np.full(count, len(sets))))
    return sets


def test_cosines_of_wide_spread_are_computed_in_float32_and_ranked_in_float64():
    query, gallery = _near_duplicates()
    place = Coordinates(gallery.features, "cosine")
    placed = Placed(gallery.features, place, torch.device("cpu"))
    quick, precise = placed.quick_rows(slice(0, 160)), placed.rows(slice(0, 160))
    assert placed.rounded and not torch.equal(quick, precise), "else the test shows nothing"
    torch.testing.assert_close(quick, precise, rtol=0, atol=2**-22)
    expected = _exact(query.features, gallery.features, "cosine")
    labels = [part.tolist() for part in (query.pids, gallery.pids, query.camids, gallery.camids)]
    assert_same(evaluate(query, gallery, metric="cosine"), slow(expected.round(11), *labels))
    found = top_k(query.features, gallery.features, 20, metric="cosine")
    np.testing.assert_array_equal(found.index, np.argsort(expected.round(11), axis=1, kind="stable")[:, :20])
    chunks = torch.cat(list(distance_chunks(query.features, gallery.features, metric="cosine")))
    np.testing.assert_allclose(chunks, expected, rtol=1e-3)
    close = _collapsed(1e-2)[1].features
    assert not Placed(close, Coordinates(close, "cosine"), torch.device("cpu")).rounded


def test_search_among_many_duplicates_keeps_their_order():
    """More equally far items than candidates: the first of them by index are the nearest."""
    gallery = np.random.default_rng(0).normal(size=(5, 8)).astype("f4").repeat(200, 0)
    order = np.random.default_rng(1).permutation(1000)
    query = gallery[::200] + 0.1
    expected = np.argsort(_exact(query, gallery[order], "euclidean"), axis=1, kind="stable")[:, :7]
    np.testing.assert_array_equal(top_k(query, gallery[order], 7).index, expected)


def test_approximate_search():
    pytest.importorskip("faiss")
    query, gallery = (part.features for part in _collapsed(1e-4, items=400))
    found = approximate_top_k(query, gallery, 3, probes=100)
    assert found.recall == 1
    np.testing.assert_allclose(found.distances, np.sort(_exact(query, gallery, "euclidean"), 1)[:, :3], rtol=1e-3)
