"""Ranking as the configuration asks for it: a distance file, re-ranked or not, and the same numbers with it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from configs import load_config
from processor.evaluation import NOTED, _rank
from tests.utils.test_reranking import dense
from utils.metrics import Features


@pytest.fixture
def split():
    """Noisy features of twelve identities: 15 queries and 120 gallery images of three cameras."""
    random = np.random.default_rng(4)
    centres = random.normal(size=(12, 8))
    parts = []
    for count in (15, 120):
        pids = random.integers(0, 12, count)
        features = (centres[pids] + random.normal(size=(count, 8))).astype(np.float32)
        parts.append(Features(torch.from_numpy(features), pids, random.integers(0, 3, count)))
    return parts


def ranked(split, folder, *options, suffix=""):
    cfg, _ = load_config(None, ["MODEL.METHOD", "baseline", "SOLVER.STAGES", "[2]", *options])
    return _rank(cfg, *split, "market", SimpleNamespace(output_dir=folder), suffix)


def squared(query, gallery):
    q, g = (part.features.double().numpy() for part in (query, gallery))
    return ((q[:, None] - g[None]) ** 2).sum(2)


@pytest.mark.parametrize("re_ranking", ["False", "True"])
def test_the_distance_file_holds_what_was_ranked(split, tmp_path, re_ranking):
    options = ("TEST.RE_RANKING", re_ranking, "TEST.RERANK_K1", "8", "TEST.RERANK_K2", "3")
    found = ranked(split, tmp_path, *options, "TEST.DIST_MAT", "distances.npy", suffix="_run3")
    stored = np.load(tmp_path / "distances_run3.npy", mmap_mode="r")
    assert isinstance(stored, np.memmap) and stored.dtype == np.float32 and stored.shape == (15, 120)
    query, gallery = (part.features.numpy() for part in split)
    expected = dense(query, gallery, 8, 3, 0.3) if re_ranking == "True" else squared(*split)
    np.testing.assert_allclose(stored, expected, atol=1e-4)
    plain = ranked(split, tmp_path, *options)
    assert found.metrics.mAP == pytest.approx(plain.metrics.mAP, abs=1e-6)
    assert [p.name for p in tmp_path.iterdir()] == ["distances_run3.npy"]
    nearest = found.find_nearest([7])
    assert nearest.index[0].tolist() == np.argsort(stored[7], kind="stable")[:NOTED].tolist()


def test_re_ranking_changes_the_ranking(split, tmp_path):
    options = ("TEST.RERANK_K1", "8", "TEST.RERANK_K2", "3")
    plain, better = (ranked(split, tmp_path, *options, "TEST.RE_RANKING", on) for on in ("False", "True"))
    assert abs(plain.metrics.mAP - better.metrics.mAP) > 1e-3
