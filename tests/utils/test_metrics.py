from fractions import Fraction
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.parity.kit import assert_agrees, case
from utils.errors import ReIDError
from utils.metrics import Features, distance_chunks, evaluate, evaluate_distances, save_distances
from utils.reranking import k_reciprocal
from utils.retrieval import scores
from utils.retrieval.search import top_k

LABELS = ("q_pids", "g_pids", "q_camids", "g_camids")


def slow(keys, q_pids, g_pids, q_cams, g_cams, camera_rule="market", ap="standard", max_rank=50):
    """Slow and obvious: for each query, sort the whole gallery by (key, index) and walk down the list."""
    aps, inps, curves = [], [], []
    for q, row in enumerate(keys):
        ranking = []
        for g in sorted(range(len(row)), key=lambda g: (row[g], g)):
            same = q_pids[q] == g_pids[g]
            if g_pids[g] != -1 and not (camera_rule == "market" and same and q_cams[q] == g_cams[g]):
                ranking.append(bool(same))
        if not any(ranking):
            aps.append(np.nan)
            continue
        total, before = 0.0, 1.0
        for n, hit in enumerate(ranking, start=1):
            at = sum(ranking[:n]) / n
            if hit:
                total += at if ap == "standard" else (before + at) / 2
            before = at
        aps.append(total / sum(ranking))
        inps.append(sum(ranking) / (1 + max(i for i, hit in enumerate(ranking) if hit)))
        first = ranking.index(True)
        curves.append([float(k >= first) for k in range(max_rank)])
    if not curves:
        return None
    return np.mean(curves, axis=0), np.nanmean(aps), np.mean(inps), np.array(aps)


def exact_keys(query, gallery, metric):
    """Keys that order as the distances do, in rational numbers: ties are ties."""
    query, gallery = ([[Fraction(float(x)) for x in row] for row in f] for f in (query, gallery))
    keys = []
    for q in query:
        dots = [sum(a * b for a, b in zip(q, g, strict=True)) for g in gallery]
        norms = [sum(b * b for b in g) for g in gallery]
        if metric == "euclidean":
            keys.append([n - 2 * d for d, n in zip(dots, norms, strict=True)])
        else:
            keys.append([-d * abs(d) / n if n else 0 for d, n in zip(dots, norms, strict=True)])
    return keys


def assert_same(found, expected):
    cmc, mean_ap, inp, aps = expected
    np.testing.assert_allclose(found.cmc, cmc, atol=1e-12)
    np.testing.assert_allclose(found.average_precision, aps, atol=1e-12)
    assert found.mAP == pytest.approx(mean_ap, abs=1e-12)
    assert found.mINP == pytest.approx(inp, abs=1e-12)
    assert found.num_queries == np.isfinite(aps).sum()
    assert found.num_queries + found.num_skipped == len(aps)


@st.composite
def splits(draw):
    """Small splits rich in duplicates and ties; gallery identity -1 is junk, 0 a distractor without query."""
    queries, items, width = draw(st.integers(1, 5)), draw(st.integers(1, 12)), draw(st.integers(1, 3))

    def whole(shape, low, high):
        return draw(hnp.arrays(np.int64, shape, elements=st.integers(low, high)))

    query = Features(whole((queries, width), -3, 3).astype(np.float32), whole(queries, 1, 3), whole(queries, 0, 2))
    gallery = Features(whole((items, width), -3, 3).astype(np.float32), whole(items, -1, 3), whole(items, 0, 2))
    return query, gallery


@settings(max_examples=150, deadline=None)
@given(
    splits(),
    st.sampled_from(["euclidean", "cosine"]),
    st.sampled_from(["market", "none"]),
    st.sampled_from(["standard", "trapezoid"]),
    st.sampled_from([None, 2]),
    st.sampled_from([2**14, 3]),
    st.sampled_from([0, 2**24]),
)
def test_equals_the_slow_evaluator(split, metric, rule, ap, chunk_size, gallery_rows, compiled):
    query, gallery = split
    keys = exact_keys(query.features, gallery.features, metric)
    label = [t.tolist() for t in (query.pids, gallery.pids, query.camids, gallery.camids)]
    expected = slow(keys, *label, rule, ap)
    options = {"camera_rule": rule, "metric": metric, "average_precision": ap, "chunk_size": chunk_size}
    with mock.patch.dict(scores.TILE_COLUMNS, cpu=gallery_rows), mock.patch.object(scores, "_WORTH_COMPILED", compiled):
        if expected is None:
            with pytest.raises(ReIDError, match=rule):
                evaluate(query, gallery, **options)
        else:
            assert_same(evaluate(query, gallery, **options), expected)


@settings(max_examples=100, deadline=None)
@given(splits(), st.sampled_from(["market", "none"]), st.sampled_from([np.float32, np.float64, np.float16]))
def test_distances_equal_the_slow_evaluator(split, rule, dtype):
    query, gallery = split
    distances = np.abs(query.features[:, :1] - gallery.features[:, 0]).astype(dtype)
    distances[distances == 5] = np.inf
    label = [t.tolist() for t in (query.pids, gallery.pids, query.camids, gallery.camids)]
    expected = slow(distances.tolist(), *label, rule)
    if expected is not None:
        by_columns = np.asfortranarray(distances)
        for given_as in (distances, torch.from_numpy(distances), iter(distances[:, None]), by_columns):
            assert_same(evaluate_distances(given_as, *label, camera_rule=rule), expected)


def test_keys_that_float32_cannot_order_are_exact():
    """Gallery features one float32 step apart: a float32 distance orders them at random."""
    random = np.random.default_rng(0)
    base = random.normal(size=(4, 16)).astype(np.float32)
    gallery = np.repeat(base, 15, axis=0)
    steps = random.integers(-2, 3, size=gallery.shape)
    gallery = (gallery.view(np.int32) + steps.astype(np.int32)).view(np.float32)
    query = (base + random.normal(size=base.shape)).astype(np.float32)
    label = [[0, 1, 2, 3], np.tile([0, 1, 2, 3], 15), [0] * 4, [1] * 60]
    expected = slow(exact_keys(query, gallery, "euclidean"), *label)
    found = evaluate(Features(query, label[0], label[2]), Features(gallery, label[1], label[3]))
    assert_same(found, expected)
    products = torch.from_numpy(query) @ torch.from_numpy(gallery).T
    plain = (torch.from_numpy(gallery) ** 2).sum(1) - 2 * products
    assert abs(evaluate_distances(plain, *label).mAP - expected[1]) > 1e-3, "the data do not test anything"


def test_features_that_are_all_equal_rank_by_index():
    pids = np.arange(40) % 4
    query = Features(np.ones((4, 8), np.float32), np.arange(4), np.zeros(4, int))
    found = evaluate(query, Features(np.ones((40, 8), np.float32), pids, np.ones(40, int)))
    assert_same(found, slow(np.ones((4, 40)).tolist(), range(4), pids, [0] * 4, [1] * 40))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("spread", [0, 1e-7, 0.1])
def test_many_pairs_of_a_tile_have_the_same_exact_keys_to_the_bit(monkeypatch, metric, spread):
    """As those of a collapsed model: one by one, a tile of them takes many times as long."""
    random = np.random.default_rng(0)
    base = random.normal(size=300)
    query, gallery = ((base + spread * random.normal(size=(n, 300))).astype(np.float32) for n in (40, 300))
    block = scores.FeatureKeys(query, gallery, metric, torch.device("cpu"), None).block(3, 40)
    row, column = (index.flatten() for index in torch.meshgrid(torch.arange(37), torch.arange(300), indexing="ij"))
    kept = torch.rand(len(row), generator=torch.Generator().manual_seed(0)) < 0.5
    row, column = row[kept], column[kept]
    alone, asked = block._one_by_one(row, column), []

    def counted(row, column, plain=block._one_by_one):
        asked.append(len(row))
        return plain(row, column)

    monkeypatch.setattr(block, "_one_by_one", counted)
    assert torch.equal(block.exact(row, column), alone)
    assert sum(asked) < len(row) / 10
    few = slice(None, None, 10)
    assert torch.equal(block.exact(row[few], column[few]), alone[few]) and asked[-1] == len(row[few])


def _random_split(queries=30, items=200, width=24, dtype=np.float32):
    random = np.random.default_rng(3)
    centres = random.normal(size=(12, width))
    parts = []
    for count in (queries, items):
        pids = random.integers(0, 12, count)
        features = (centres[pids] + 1.5 * random.normal(size=(count, width))).astype(dtype)
        parts.append(Features(features, pids, random.integers(0, 3, count)))
    return parts


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_memory_mapped_gallery(tmp_path, dtype):
    query, gallery = _random_split(12, 90, dtype=dtype)
    np.save(tmp_path / "gallery.npy", gallery.features)
    mapped = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    with mock.patch.dict(scores.TILE_COLUMNS, cpu=64):
        found = evaluate(query, Features(mapped, gallery.pids, gallery.camids))
    keys = exact_keys(query.features, gallery.features, "euclidean")
    assert_same(found, slow(keys, *(t.tolist() for t in (query.pids, gallery.pids, query.camids, gallery.camids))))


def test_order_of_the_gallery_does_not_matter_without_ties():
    query, gallery = _random_split()
    order = np.random.default_rng(0).permutation(len(gallery))
    shuffled = Features(gallery.features[order], gallery.pids[order], gallery.camids[order])
    assert evaluate(query, shuffled).mAP == pytest.approx(evaluate(query, gallery).mAP, abs=1e-12)


def test_single_match_ties_the_two_average_precisions_together():
    """With one match a query: standard mAP = 2 * trapezoid mAP - R1 (the identity of the hand papers)."""
    query, gallery = _random_split()
    first = np.unique(gallery.pids.numpy(), return_index=True)[1]
    gallery = Features(gallery.features[first], gallery.pids[first], gallery.camids[first])
    standard = evaluate(query, gallery, camera_rule="none")
    trapezoid = evaluate(query, gallery, camera_rule="none", average_precision="trapezoid")
    assert standard.mAP == pytest.approx(2 * trapezoid.mAP - standard.rank(1), abs=1e-12)
    assert standard.rank(1) < 1
    assert len(standard.cmc) == 50 and standard.rank(50) == standard.rank(12) == 1


CASES = ("small", "nomatch", "few_gallery", "few_gallery_equal_removal", "hundreds")


@pytest.mark.parametrize("name", CASES)
def test_published_numbers_from_distances(name):
    kit = case("10_eval")
    found = evaluate_distances(kit[f"{name}.distmat"], *(kit[f"{name}.{label}"] for label in LABELS))
    assert_agrees("10_eval", f"{name}.cmc", found.cmc[: len(kit[f"{name}.cmc"])])
    assert_agrees("10_eval", f"{name}.mAP", found.mAP)
    assert len(found.cmc) == 50


@pytest.mark.parametrize("name", ["norm", "raw"])
def test_published_numbers_from_features(name):
    kit = case("10_eval")
    features = torch.from_numpy(kit["e2e.features"])
    if name == "norm":
        features = torch.nn.functional.normalize(features)
    split = [Features(features[s], kit["e2e.pids"][s], kit["e2e.camids"][s]) for s in (slice(24), slice(24, None))]
    found = evaluate(*split)
    assert_agrees("10_eval", f"e2e_{name}.cmc", found.cmc)
    assert_agrees("10_eval", f"e2e_{name}.mAP", found.mAP)
    distances = distance_chunks(features[:24], features[24:], chunk_size=7)
    assert_agrees("10_eval", f"e2e_{name}.distmat", torch.cat(list(distances)))


def test_a_ragged_gallery_where_the_published_code_fails():
    kit = case("10_eval")
    label = [kit[f"few_gallery_ragged.{name}"].tolist() for name in LABELS]
    distances = kit["few_gallery_ragged.distmat"]
    assert_same(evaluate_distances(distances, *label), slow(distances.tolist(), *label))


def test_the_error_for_one_camera_names_the_reason():
    kit = case("10_eval")
    label = [kit[f"one_camera.{name}"] for name in LABELS]
    with pytest.raises(ReIDError, match=r"same camera.*DATASETS\.CAMERA_RULE"):
        evaluate_distances(kit["one_camera.distmat"], *label)
    assert evaluate_distances(kit["one_camera.distmat"], *label, camera_rule="none").num_queries > 0


def test_sets_that_cannot_be_evaluated_are_refused():
    query, gallery = _random_split()
    with pytest.raises(ReIDError, match="CAMERA_RULE"):
        evaluate(query, gallery, camera_rule="maket")
    with pytest.raises(ReIDError, match=r"TEST\.AP"):
        evaluate(query, gallery, average_precision="area")
    with pytest.raises(ReIDError, match="metric"):
        evaluate(query, gallery, metric="l1")
    broken = gallery.features.copy()
    broken[7, 3] = np.nan
    with pytest.raises(ReIDError, match="row 7"):
        evaluate(query, Features(broken, gallery.pids, gallery.camids))
    with pytest.raises(ReIDError, match="width"):
        evaluate(query, Features(broken[:, :5], gallery.pids, gallery.camids))
    with pytest.raises(ReIDError, match="shapes"):
        Features(broken, gallery.pids[:3], gallery.camids)
    label = query.pids, gallery.pids, query.camids, gallery.camids
    for distances in (np.zeros((29, 200)), np.zeros((30, 199)), np.zeros((31, 200))):
        with pytest.raises(ReIDError, match="30 queries"):
            evaluate_distances(distances, *label)
    with pytest.raises(ReIDError, match="NaN"):
        evaluate_distances(np.full((30, 200), np.nan), *label)


def test_cosine_distances():
    query, gallery = _random_split()
    q, g = query.features.astype(np.float64), gallery.features.astype(np.float64)
    expected = 1 - q @ g.T / np.linalg.norm(q, axis=1)[:, None] / np.linalg.norm(g, axis=1)
    found = torch.cat(list(distance_chunks(query.features, gallery.features, metric="cosine")))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_saved_distances_give_the_same_metrics(tmp_path):
    query, gallery = _random_split()
    chunks = distance_chunks(query.features, gallery.features, chunk_size=8)
    path = save_distances(tmp_path / "new" / "distances.npy", chunks, (30, 200))
    stored = np.load(path, mmap_mode="r")
    found = evaluate_distances(stored, query.pids, gallery.pids, query.camids, gallery.camids)
    assert found.mAP == pytest.approx(evaluate(query, gallery).mAP, abs=1e-12)
    assert stored.dtype == np.float32 and not stored.flags.writeable


@pytest.mark.parametrize("shape", [(31, 200), (29, 200), (30, 201)])
def test_distances_of_another_shape_leave_no_file(tmp_path, shape):
    query, gallery = _random_split()
    with pytest.raises(ReIDError, match="shape"):
        save_distances(tmp_path / "d.npy", distance_chunks(query.features, gallery.features, chunk_size=8), shape)
    assert list(tmp_path.iterdir()) == []


def test_inference_mode_changes_nothing(three_threads):
    """Threads start outside of their caller's modes."""
    random = torch.Generator().manual_seed(0)
    query, gallery = torch.randn(90, 8, generator=random), torch.randn(5000, 8, generator=random)
    pids, cameras = torch.arange(90) % 30, torch.zeros(90, dtype=torch.int64)
    known = torch.arange(5000) % 30, torch.ones(5000, dtype=torch.int64)
    asked, found = Features(query, pids, cameras), Features(gallery, *known)

    def all_three():
        nearest = top_k(query, gallery, 5)
        reranked = torch.cat(list(k_reciprocal(query, gallery[:1500], 10, 4)))
        return evaluate(asked, found).mAP, nearest.index, nearest.distances, reranked

    expected = all_three()
    with torch.inference_mode():
        for one, two in zip(all_three(), expected, strict=True):
            assert torch.equal(torch.as_tensor(one), torch.as_tensor(two))
