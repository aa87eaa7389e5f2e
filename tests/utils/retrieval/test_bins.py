"""Keys between boundaries, counted in each way, against a comparison of every key with every boundary."""

import pytest
import torch

from utils.retrieval import bins
from utils.retrieval.bins import Bins
from utils.retrieval.compiled import compiled_loops

ROWS, COLUMNS = 7, 300


@pytest.fixture(
    params=[
        "few keys lie before the last boundary",
        "many do, torch",
        "many do, compiled",
        "many do, compiled, threads",
        "float64",
    ]
)
def dtype(request, monkeypatch, no_numba, use_threads):
    monkeypatch.setattr(bins, "_FEW", 1.0 if request.param.startswith("few") else -1.0)
    monkeypatch.setattr(bins, "WORTH_COMPILED", 0)
    if request.param.startswith("many do, compiled"):
        assert compiled_loops() is not None
        use_threads(3 if request.param.endswith("threads") else 1)
    else:
        no_numba()
    return torch.float64 if request.param == "float64" else torch.float32


def tables(seed, scale):
    """Keys with ties, negative ones, both zeros and infinite ones, and boundaries that some of them equal."""
    generator = torch.Generator().manual_seed(seed)
    keys = (scale * torch.randn(ROWS, COLUMNS, generator=generator)).round() / scale
    keys[:, :20] = torch.tensor([0.0, -0.0, torch.inf, -3.4e38, 3.4e38]).repeat(4)
    bounds = keys[:, torch.randperm(COLUMNS, generator=generator)[:12]].sort(1)[0]
    bounds[2, 6:], bounds[4] = torch.inf, torch.inf
    return keys, bounds


@pytest.mark.parametrize("cells", [4, 50, 1024])
@pytest.mark.parametrize("scale", [3.0, 1e6])
@pytest.mark.parametrize("seed", range(3))
def test_bins_are_those_of_a_comparison_with_every_boundary(dtype, seed, scale, cells, monkeypatch):
    monkeypatch.setattr(bins, "_CELLS", cells)
    keys, bounds = (part.to(dtype) for part in tables(seed, scale))
    counts, row, column = Bins(bounds).count(keys.clone())
    among = (keys[:, :, None] > bounds[:, None, :]).sum(-1)
    finite = torch.isfinite(bounds).sum(1)
    for r in range(ROWS):
        wanted = torch.bincount(among[r], minlength=bounds.shape[1] + 1)
        assert torch.equal(counts[r, : finite[r]], wanted[: finite[r]])
        assert column[row == r].tolist() == (among[r] % 2 == 1).nonzero()[:, 0].tolist()


def test_boundaries_at_both_ends_of_float32(monkeypatch):
    monkeypatch.setattr(bins, "_FEW", -1.0)
    most = torch.finfo(torch.float32).max / 2
    bounds = torch.tensor([[-most, -most / 2, most, 1.1 * most]])
    keys = torch.tensor([[-1.2 * most, -0.7 * most, 0.0, 1.05 * most, torch.inf]])
    counts, _, column = Bins(bounds).count(keys)
    assert counts[0, :4].tolist() == [1, 1, 1, 1] and column.tolist() == [1, 3]
