"""The nearest of all items, however float32 rounds and whichever tile comes first."""

import time
from unittest.mock import patch

import numpy as np
import pytest
import torch

from utils.compute.threads import in_threads
from utils.reranking import neighbours
from utils.reranking.neighbours import Items, nearest
from utils.retrieval import search


def _items(x, num_query=20):
    return Items(x[:num_query], x[num_query:], "euclidean", torch.device("cpu"))


def _defined(x, width):
    """Nearest of each row in float64, itself first and equal ones in order."""
    distance = ((x[:, None].astype(np.float64) - x) ** 2).sum(2)
    np.fill_diagonal(distance, -1)
    return np.argsort(distance, axis=1, kind="stable")[:, :width]


def _shells(copies):
    """70 items at almost the same distance from item 0, each ``copies`` times: float32 cannot rank them."""
    random = np.random.default_rng(0)
    x = random.normal(size=(70, 16))
    x = 100 * x / np.linalg.norm(x, axis=1, keepdims=True)
    x[0] = 0
    x *= 1 + 1e-8 * random.normal(size=(70, 1))
    return np.repeat(x, copies, axis=0).astype(np.float32)


@pytest.mark.parametrize("spare", [1, 4, 200])
@pytest.mark.parametrize("copies", [1, 5])
def test_float64_decides_where_float32_cannot(spare, copies):
    x = _shells(copies)
    with patch.object(neighbours, "_SPARE", spare):
        found, _ = nearest(_items(x), 8, {8, 3})
    assert (found.index.numpy() == _defined(x, 8)).all()


def test_spare_items_save_the_comparison_with_all():
    """Who is the 8th nearest of item 0 is unsure among 14, and all others are far."""
    random = np.random.default_rng(1)
    shell = random.normal(size=(14, 8))
    shell *= (1 + 1e-7 * random.normal(size=(14, 1))) / np.linalg.norm(shell, axis=1, keepdims=True)
    x = np.concatenate([np.zeros((1, 8)), shell, 5 + random.normal(size=(200, 8))]).astype(np.float32)
    called = {}
    for name in ("_among_kept", "_among_all"):
        called[name] = patch.object(neighbours, name, side_effect=getattr(neighbours, name))
    with called["_among_kept"] as kept, called["_among_all"] as all_compared:
        found, _ = nearest(_items(x), 8, {8})
    assert 0 in kept.call_args.args[1] and 0 not in all_compared.call_args.args[1]
    assert (found.index.numpy() == _defined(x, 8)).all()


def _shuffled(work, parts, device=None):
    parts = list(parts)
    return [work(parts[place]) for place in np.random.default_rng(4).permutation(len(parts))]


@pytest.mark.parametrize("num_query", [1, 7, 20, 63])
@pytest.mark.parametrize("run", [in_threads, _shuffled])
@pytest.mark.parametrize("worth", [1, 2**19])
def test_each_order_of_the_tiles_gives_the_same(num_query, run, worth, three_threads):
    x = np.random.default_rng(2).integers(0, 3, size=(70, 6)).astype(np.float32)  # many equal distances
    tile, compiled = patch.object(neighbours, "_TILE_ROWS", {"cpu": 16}), patch.object(search, "WORTH_COMPILED", worth)
    with tile, compiled, patch.object(neighbours, "in_threads", run):
        found, known = nearest(_items(x, num_query), 8, {8, 3})
    assert (found.index.numpy() == _defined(x, 8)).all()
    exact = ((x[:, None] - x) ** 2).sum(2)
    assert (known.numpy() == exact[:num_query, num_query:]).all()
    assert (found.largest.numpy() == exact.max(1)).all()


def test_no_two_threads_keep_neighbours_of_the_same_rows(three_threads):
    x = np.random.default_rng(2).normal(size=(200, 6)).astype(np.float32)
    busy, keep = set(), neighbours.keep_smallest

    def alone(value, *others):
        rows = value.data_ptr()
        assert rows not in busy
        busy.add(rows)
        time.sleep(0.001)
        keep(value, *others)
        busy.remove(rows)

    with patch.object(neighbours, "_TILE_ROWS", {"cpu": 16}), patch.object(neighbours, "keep_smallest", alone):
        found, _ = nearest(_items(x), 8, {8, 3})
    assert (found.index.numpy() == _defined(x, 8)).all()
