"""Expanded k-reciprocal sets, against their definition with Python's sets."""

import numpy as np
import pytest
import torch

from utils.reranking import reciprocal
from utils.reranking.neighbours import Items, nearest
from utils.reranking.reciprocal import encode
from utils.retrieval.compiled import compiled_loops


def _items(kind):
    random = np.random.default_rng(3)
    x = (random.normal(size=(9, 8))[random.integers(0, 9, 90)] + random.normal(size=(90, 8))).astype(np.float32)
    if kind == "hubs":
        x[40:43] = x.mean(0)
    if kind == "all equal":
        x[:] = 1
    if kind == "few":
        x = x[:5]
    return Items(x[: len(x) // 3], x[len(x) // 3 :], "euclidean", torch.device("cpu"))


def _defined(near, k1, half):
    index = near.index.tolist()

    def mutual(item, k):
        return {friend for friend in index[item][: k + 1] if item in index[friend][: k + 1]}

    sets = []
    for item in range(len(index)):
        own = mutual(item, k1)
        sizes = [mutual(friend, half) for friend in own]
        sets.append(sorted(own.union(*(friends for friends in sizes if 3 * len(friends & own) > 2 * len(friends)))))
    return sets


@pytest.mark.parametrize("kind", ["clusters", "hubs", "all equal", "few"])
@pytest.mark.parametrize(("k1", "half"), [(10, 5), (1, 0), (20, 10)])
def test_both_paths_find_the_expanded_sets(kind, k1, half, no_numba, monkeypatch):
    monkeypatch.setattr(reciprocal, "_PIECES", 7)
    items = _items(kind)
    near = nearest(items, k1 + 1, {k1 + 1, half + 1})[0]
    expected = _defined(near, k1, half)
    assert kind != "clusters" or k1 == 1 or any(len(members) > k1 + 1 for members in expected), "none is expanded"
    assert compiled_loops() is not None
    found = [encode(items, near, k1, half)]
    no_numba()
    found.append(encode(items, near, k1, half))
    for encoding in found:
        assert [part.tolist() for part in encoding.column.split(encoding.start.diff().tolist())] == expected
    assert torch.equal(found[0].value, found[1].value)


def test_weights_fall_with_the_distance_and_sum_to_one():
    items = _items("clusters")
    near = nearest(items, 11, {11, 6})[0]
    encoding = encode(items, near, 10, 5)
    x = items.features.double().numpy()
    relative = ((x[:, None] - x) ** 2).sum(2)
    relative /= relative.max(1, keepdims=True)
    for item, members in enumerate(_defined(near, 10, 5)):
        weight = np.exp(-relative[item, members])
        mine = slice(int(encoding.start[item]), int(encoding.start[item + 1]))
        np.testing.assert_allclose(encoding.value[mine], weight / weight.sum(), atol=1e-6)
