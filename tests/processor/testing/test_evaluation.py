"""Ranking by the configuration: a distance file, re-ranked or not, gives the same numbers."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from configs import load_config
from processor.testing.evaluation import NOTED, _rank, extract_features, reranking_sizes
from tests.utils.reranking.test_k_reciprocal import dense
from utils.compute.device import Precision
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
    assert nearest.index[0].tolist() == scored(split, stored, 7)


def scored(split, distances, query):
    """Gallery images in the order in which they count for a query, by a stable sort."""
    asked, known = split
    same = (known.pids == asked.pids[query]) & (known.camids == asked.camids[query])
    return [g for g in np.argsort(distances[query], kind="stable").tolist() if not same[g]][:NOTED]


def test_re_ranking_changes_the_ranking(split, tmp_path):
    options = ("TEST.RERANK_K1", "8", "TEST.RERANK_K2", "3")
    plain, better = (ranked(split, tmp_path, *options, "TEST.RE_RANKING", on) for on in ("False", "True"))
    assert abs(plain.metrics.mAP - better.metrics.mAP) > 1e-3


def collapsed(spread=1e-4):
    """Features so close together that float32 products lose their distances."""
    random = np.random.default_rng(4)
    centres = random.normal(size=(12, 8))
    parts = []
    for count in (15, 120):
        pids = random.integers(0, 12, count)
        features = (1 + spread * (centres[pids] + 0.7 * random.normal(size=(count, 8)))).astype(np.float32)
        parts.append(Features(torch.from_numpy(features), pids, random.integers(0, 3, count)))
    return parts


@pytest.mark.parametrize("re_ranking", ["False", "True"])
def test_a_distance_file_changes_no_number(tmp_path, re_ranking):
    split = collapsed()
    options = ("TEST.RE_RANKING", re_ranking, "TEST.RERANK_K1", "8", "TEST.RERANK_K2", "3")
    plain = ranked(split, tmp_path, *options)
    stored = ranked(split, tmp_path, *options, "TEST.DIST_MAT", "distances.npy")
    np.testing.assert_array_equal(stored.metrics.average_precision, plain.metrics.average_precision)
    assert plain.metrics.mAP > 0.3  # of float32 products: 0.15
    if re_ranking == "False":
        np.testing.assert_allclose(np.load(tmp_path / "distances.npy"), squared(*split), rtol=1e-3)


@pytest.mark.parametrize("re_ranking", ["False", "True"])
def test_a_row_is_full_though_the_camera_rule_takes_out_more_than_it_holds(tmp_path, re_ranking):
    """150 images of the query's person under its camera are nearer than all others, and one of its images is junk."""
    random = np.random.default_rng(0)
    near, far = 0.01 * random.normal(size=(151, 4)), 1 + 0.1 * random.normal(size=(30, 4))
    features = torch.from_numpy(np.concatenate([near, far]).astype(np.float32))
    pids, camids = np.array([7] * 150 + [-1] + [7] + [3] * 29), np.array([0] * 151 + [1] * 30)
    split = Features(features[:1] * 0, [7], [0]), Features(features, pids, camids)
    options = ("TEST.RE_RANKING", re_ranking, "TEST.RERANK_K1", "4", "TEST.RERANK_K2", "2")
    found = ranked(split, tmp_path, *options)
    index = found.find_nearest([0]).index[0].tolist()
    assert len(index) == NOTED and min(index) >= 151
    assert (found.metrics.first_match[0] == index.index(151) + 1) if 151 in index else found.metrics.first_match[0] > 10


@pytest.mark.parametrize("option", [("METRIC", "euclidean"), ("METRIC", "cosine"), ("RE_RANKING", "True")])
def test_ties_are_shown_in_the_order_in_which_they_are_scored(tmp_path, option):
    """Every image five times; re-ranked without the original distance nearly everything ties."""
    random = np.random.default_rng(0)
    base = random.integers(-1, 2, (60, 3)).astype(np.float32) + 2
    gallery = Features(torch.from_numpy(base.repeat(5, 0)), np.arange(300) % 12, np.ones(300))
    split = Features(torch.from_numpy(base[:40]), np.arange(40) % 12, np.zeros(40)), gallery
    own = ("TEST.RERANK_K1", "4", "TEST.RERANK_K2", "2", "TEST.RERANK_LAMBDA", "0.0")
    found = ranked(split, tmp_path, f"TEST.{option[0]}", option[1], *own)
    nearest, right = found.find_nearest(range(40)), found.metrics.first_match
    for query in range(40):
        hits = [rank for rank, g in enumerate(nearest.index[query].tolist(), 1) if gallery.pids[g] == query % 12]
        assert right[query] == hits[0] if hits else right[query] > NOTED


def test_an_evaluation_with_workers_keeps_no_shared_memory_open():
    """Labels from a worker are shared memory; kept as they are, each batch leaves two files open."""
    images = [{"images": torch.zeros(3, 4, 4), "labels": i, "cameras": i} for i in range(60)]
    loader = DataLoader(images, batch_size=1, num_workers=1)
    model = torch.nn.Module()
    model.inputs = frozenset()
    model.test_feature = lambda batch, flip: batch.images.flatten(1)[:, :2] + 1
    opened = Path("/proc/self/fd")
    before, most = len(list(opened.iterdir())), 0

    def counting():
        nonlocal most
        for batch in loader:
            most = max(most, len(list(opened.iterdir())))
            yield batch

    source = type("Loader", (), {"__iter__": lambda _: counting(), "__len__": lambda _: 60, "dataset": images})()
    found = extract_features(model, source, Precision(torch.device("cpu"), torch.float32))
    assert found.pids.tolist() == list(range(60)) and found.camids.tolist() == list(range(60))
    assert most - before < 40  # 125 where the labels are kept as they are


def gallery_of(images, identities=40):
    pids = torch.arange(identities).repeat(images)
    junk = torch.full((500,), -1)
    return Features(torch.zeros(len(pids) + 500, 2), torch.cat([pids, junk]), torch.zeros(len(pids) + 500))


@pytest.mark.parametrize(
    ("images", "expected"), [(1, (2, 1)), (3, (4, 2)), (9, (10, 5)), (10, (50, 15)), (20, (50, 15))]
)
def test_automatic_re_ranking_follows_the_images_of_an_identity(images, expected, caplog):
    cfg, _ = load_config(None, ["TEST.RE_RANKING", "True"])
    assert reranking_sizes(cfg, gallery_of(images)) == expected
    assert not [entry for entry in caplog.records if entry.levelname == "WARNING"]


@pytest.mark.parametrize(("images", "warned"), [(3, True), (20, False)])
def test_neighbours_far_above_the_images_of_an_identity_are_warned_of(images, warned, caplog):
    cfg, _ = load_config(None, ["TEST.RE_RANKING", "True", "TEST.RERANK_K1", "50", "TEST.RERANK_K2", "15"])
    assert reranking_sizes(cfg, gallery_of(images)) == (50, 15)
    assert ("only 3.0 images" in caplog.text) == warned


def test_automatic_re_ranking_helps_where_the_published_one_harms(tmp_path):
    """Three images of a person: 50 neighbours are nearly all of other people."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(60, 16))
    sets = []
    for images in (1, 3):
        pids = np.arange(60).repeat(images)
        features = (centres[pids] + 0.75 * random.normal(size=(len(pids), 16))).astype(np.float32)
        sets.append(Features(torch.from_numpy(features), pids, np.full(len(pids), images)))
    plain = ranked(sets, tmp_path)
    auto = ranked(sets, tmp_path, "TEST.RE_RANKING", "True")
    published = ranked(sets, tmp_path, "TEST.RE_RANKING", "True", "TEST.RERANK_K1", "50", "TEST.RERANK_K2", "15")
    assert published.metrics.mAP < plain.metrics.mAP < auto.metrics.mAP
    assert auto.record()["re-ranking"] == {"k1": 4, "k2": 2} and "re-ranking" not in plain.record()
