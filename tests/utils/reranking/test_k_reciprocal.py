from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.parity.kit import assert_agrees, case
from utils.errors import ReIDError
from utils.metrics import evaluate_distances
from utils.reranking import k_reciprocal, neighbours


def dense(query, gallery, k1, k2, weight):
    """The definition in float64, with full matrices."""
    x = np.concatenate([query, gallery]).astype(np.float64)
    n = len(x)
    d = ((x[:, None] - x[None]) ** 2).sum(2)
    d /= d.max(1, keepdims=True)
    order = np.argsort(d, axis=1, kind="stable")

    def reciprocal(i, k):
        return {int(j) for j in order[i, : k + 1] if i in order[j, : k + 1]}

    v = np.zeros((n, n))
    for i in range(n):
        own = reciprocal(i, k1)
        expanded = set(own)
        for j in own:
            half = reciprocal(j, round(k1 / 2))
            if len(half & own) > 2 / 3 * len(half):
                expanded |= half
        members = sorted(expanded)
        v[i, members] = np.exp(-d[i, members])
        v[i] /= v[i].sum()
    if k2 > 1:
        v = np.stack([v[order[i, :k2]].mean(0) for i in range(n)])
    shared = np.stack([np.minimum(v[i], v).sum(1) for i in range(len(query))])
    jaccard = 1 - shared / (2 - shared)
    return ((1 - weight) * jaccard + weight * d[: len(query)])[:, len(query) :]


def _clusters(seed, queries, items, width, spread=1.0):
    random = np.random.default_rng(seed)
    centres = random.normal(size=(max(1, items // 6), width))
    labels = random.integers(0, len(centres), queries + items)
    x = (centres[labels] + spread * random.normal(size=(len(labels), width))).astype(np.float32)
    return x[:queries], x[queries:]


@pytest.mark.parametrize(("name", "k1", "k2"), [("k20_6", 20, 6), ("k50_15", 50, 15), ("k5_1", 5, 1)])
def test_golden_numbers(name, k1, k2):
    kit = case("11_rerank")
    features = torch.from_numpy(kit["features"])
    found = torch.cat(list(k_reciprocal(features[:60], features[60:], k1, k2, 0.3, chunk_size=17)))
    assert_agrees("11_rerank", f"{name}_l0.3.fp64", found)
    metrics = evaluate_distances(found, *(kit[k] for k in ("q_pids", "g_pids", "q_camids", "g_camids")))
    assert_agrees("11_rerank", f"{name}_l0.3.fp64_mAP", metrics.mAP)
    assert_agrees("11_rerank", f"{name}_l0.3.fp64_cmc", metrics.cmc)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 8),
    st.integers(1, 60),
    st.integers(1, 30),
    st.integers(1, 12),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from([None, 3]),
    st.sampled_from([1, 7, 64, 4096]),
)
def test_equals_the_dense_definition(seed, queries, items, k1, k2, weight, chunk_size, tile_rows):
    query, gallery = _clusters(seed, queries, items, width=6)
    kept = 2**26 if seed % 2 else 0
    tile = {"cpu": tile_rows}
    with patch.object(neighbours, "_TILE_ROWS", tile), patch.object(neighbours, "_KEPT_ELEMENTS", kept):
        found = torch.cat(list(k_reciprocal(query, gallery, k1, k2, weight, chunk_size=chunk_size)))
    np.testing.assert_allclose(found, dense(query, gallery, k1, k2, weight), atol=1e-5)


def test_neighbours_that_float32_cannot_distinguish():
    """All points almost equally far from their cluster's others; who is the k-th neighbour is a matter of 1e-7."""
    random = np.random.default_rng(1)
    centres = 10 * np.repeat(np.eye(4, 32, dtype=np.float32), 12, axis=0)
    x = (
        centres
        + np.concatenate([np.tile(np.eye(12, 28, k=0), (4, 1)), np.zeros((48, 4))], 1).astype(np.float32)[:, ::-1]
    )
    x = (x + 1e-6 * random.normal(size=x.shape)).astype(np.float32)
    found = torch.cat(list(k_reciprocal(x[:8], x[8:], 6, 3, 0.3)))
    np.testing.assert_allclose(found, dense(x[:8], x[8:], 6, 3, 0.3), atol=1e-5)


def test_cosine_is_the_euclidean_case_of_unit_features():
    query, gallery = _clusters(5, 10, 60, 8)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (query, gallery)]
    found = torch.cat(list(k_reciprocal(query, gallery, 10, 4, metric="cosine")))
    np.testing.assert_allclose(found, dense(*unit, 10, 4, 0.3), atol=1e-5)


@pytest.mark.parametrize("values", [(0, 6, 0.3), (20, 0, 0.3), (20, 6, 1.5)])
def test_refuses_values_out_of_range(values):
    query, gallery = _clusters(7, 2, 9, 4)
    with pytest.raises(ReIDError, match="lambda"):
        k_reciprocal(query, gallery, *values)
