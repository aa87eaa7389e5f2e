import logging
import time

import numpy as np
import pytest
import torch

from utils.compute.threads import in_threads
from utils.console.logger import LOGGER
from utils.reranking import expansion, k_reciprocal
from utils.reranking.overlap import Sparse, shared_weight
from utils.retrieval import compiled
from utils.retrieval.compiled import compiled_loops, load_loops


def _rows(dense):
    """The entries of a matrix [N, C] that are not zero."""
    row, column = dense.nonzero(as_tuple=True)
    return Sparse.of(torch.bincount(row, minlength=len(dense)), column.int(), dense[row, column])


def _weights(name):
    """[40, 30] float32 >= 0; the first ten rows are queries."""
    dense = torch.rand(40, 30, generator=torch.Generator().manual_seed(0))
    dense[dense < 0.7] = 0
    if name == "hubs":  # two columns that all rows have
        dense[:, [3, 17]] = torch.rand(40, 2) + 0.01
    if name == "empty rows":
        dense[[0, 5, 12]] = 0
    if name == "all equal":
        dense.fill_(1 / 30)
    return dense


@pytest.mark.parametrize("name", ["random", "hubs", "empty rows", "all equal"])
def test_both_paths_sum_the_smaller_weights(name, no_numba):
    dense = _weights(name)
    encoding, inverted = _rows(dense), _rows(dense[10:].T.contiguous())
    expected = np.array([[sum(min(a, b) for a, b in zip(q, g, strict=True)) for g in dense[10:].double().tolist()]
                         for q in dense[2:9].double().tolist()])  # fmt: skip
    assert compiled_loops() is not None
    loops = shared_weight(encoding, inverted, 2, 9, 30)
    no_numba()
    assert compiled_loops() is None
    plain = shared_weight(encoding, inverted, 2, 9, 30)
    np.testing.assert_allclose(loops, expected, atol=1e-5)
    assert torch.equal(loops, plain)


@pytest.mark.parametrize("name", ["random", "hubs", "empty rows", "all equal"])
@pytest.mark.parametrize("pieces", [1, 32])
def test_both_paths_average_the_rows(name, pieces, no_numba, monkeypatch):
    monkeypatch.setattr(expansion, "_PIECES", pieces)
    dense = torch.nn.functional.pad(_weights(name), (0, 10))  # as many columns as rows
    members = torch.randint(40, (40, 5), generator=torch.Generator().manual_seed(1))
    found = []
    for prepare in (compiled_loops, no_numba):
        prepare()
        mean = expansion.mean_rows(_rows(dense), members)
        found.append(torch.zeros(40, 40))
        row = torch.repeat_interleave(mean.start.diff())
        found[-1][row, mean.column.long()] = mean.value
        assert len(mean.value) == (found[-1] != 0).sum() and (mean.column.diff()[row.diff() == 0] > 0).all()
    assert torch.equal(*found)
    torch.testing.assert_close(found[0].double(), dense.double()[members].mean(1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["clusters", "hub", "all equal"])
def test_re_ranking_has_the_same_bits_without_numba(kind, no_numba):
    random = np.random.default_rng(3)
    x = (random.normal(size=(20, 16))[random.integers(0, 20, 200)] + random.normal(size=(200, 16))).astype(np.float32)
    if kind == "hub":  # everybody's neighbour
        x[50:53] = x.mean(0)
    if kind == "all equal":
        x[:] = 1
    with_numba = torch.cat(list(k_reciprocal(x[:40], x[40:], 20, 6)))
    no_numba()
    assert torch.equal(with_numba, torch.cat(list(k_reciprocal(x[:40], x[40:], 20, 6))))


def test_callers_in_threads_load_the_loops_once(no_numba, three_threads, monkeypatch):
    no_numba()
    calls, load = [], compiled.import_optional
    monkeypatch.setattr(LOGGER, "info", lambda *words: calls.append(words))
    monkeypatch.setattr(compiled, "import_optional", lambda name: (time.sleep(0.05), load(name)))
    in_threads(lambda _: compiled_loops(), range(9))
    assert len(calls) == 1


def test_the_log_names_the_path_once(no_numba, monkeypatch):
    lines = []
    monkeypatch.setattr(LOGGER, "handlers", [logging.Handler()])
    monkeypatch.setattr(LOGGER.handlers[0], "emit", lambda record: lines.append(record.getMessage()))
    monkeypatch.setattr(LOGGER, "level", logging.INFO)
    x = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    load_loops.cache_clear()
    for _ in range(2):
        list(k_reciprocal(x[:5], x[5:], 5, 2))
    no_numba()
    for _ in range(2):
        list(k_reciprocal(x[:5], x[5:], 5, 2))
    assert len(lines) == 2 and "numba compiled" in lines[0]
    assert "by torch (numba is not installed)" in lines[1] and "pip install numba" in lines[1]
