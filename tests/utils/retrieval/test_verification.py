import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.errors import ReIDError
from utils.metrics import Features
from utils.retrieval import identities, verification
from utils.retrieval.verification import verify


def _split(seed=0, queries=60, items=90, people=8, noise=1.0, width=12, offset=0.0):
    random = np.random.default_rng(seed)
    centres = random.normal(size=(people, width))
    splits = []
    for count in (queries, items):
        pids = random.integers(0, people, count)
        features = (offset + centres[pids] + noise * random.normal(size=(count, width))).astype(np.float32)
        splits.append(Features(features, pids, random.integers(0, 2, count)))
    return splits


def _scores(query, gallery, camera_rule="none"):
    """All scores in float64, and which are genuine, which impostor: three [Q, G] arrays."""
    q, g = (f.features.astype(np.float64) for f in (query, gallery))
    q, g = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (q, g))
    q_pids, g_pids = query.pids.numpy()[:, None], gallery.pids.numpy()[None]
    valid = (q_pids != -1) & (g_pids != -1)
    genuine = valid & (q_pids == g_pids)
    if camera_rule == "market":
        genuine &= query.camids.numpy()[:, None] != gallery.camids.numpy()[None]
    return q @ g.T, genuine, valid & (q_pids != g_pids)


def _slow_eer(genuine, impostor):
    """Where the error rates meet, tried at every score; halfway where they jump past each other."""
    thresholds = np.concatenate([genuine, impostor, [2.0]])
    frr = np.searchsorted(np.sort(genuine), thresholds) / len(genuine)
    far = 1 - np.searchsorted(np.sort(impostor), thresholds) / len(impostor)
    best = np.abs(far - frr).argmin()
    return (far[best] + frr[best]) / 2


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(["none", "market"]),
    st.sampled_from([2**14, 50]),
    st.sampled_from([None, 40]),
    st.sampled_from([0.0, 300.0, 5000.0]),
)
def test_equals_all_scores_kept(seed, rule, gallery_rows, chunk_size, offset):
    """With a large offset all scores lie within 1e-4 or 1e-7 of 1, as after few steps of training."""
    query, gallery = _split(seed, offset=offset)
    gallery.pids[:5] = -1
    query.pids[:3] = -1
    scores, is_genuine, is_impostor = _scores(query, gallery, rule)
    genuine, impostor = scores[is_genuine], scores[is_impostor]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verification, "GALLERY_ROWS", gallery_rows)
        found = verify(query, gallery, camera_rule=rule, far=(0.05,), bootstrap=0, chunk_size=chunk_size)
    assert (found.num_genuine, found.num_impostor) == (len(genuine), len(impostor))
    step = max(1 / len(genuine), 1 / len(impostor))
    assert found.eer == pytest.approx(_slow_eer(genuine, impostor), abs=2 * step)
    assert found.eer_error <= 2 * step
    threshold = np.sort(impostor)[::-1][int(0.05 * len(impostor))]
    assert found.tar_at_far[0.05] == pytest.approx((genuine > threshold).mean(), abs=2 / len(genuine))
    assert found.eer_interval is None


def test_counts_are_those_of_the_scores():
    query, gallery = _split(1)
    scores, is_genuine, is_impostor = _scores(query, gallery)
    found = verify(query, gallery, bootstrap=0).scores.coarse(40)
    assert len(found.genuine) == 40
    # A score on an edge may fall either way by rounding; a few of thousands may.
    for counts, chosen in ((found.genuine, is_genuine), (found.impostor, is_impostor)):
        expected = np.histogram(scores[chosen], found.edges)[0]
        assert np.abs(counts - expected).sum() <= 4
        assert counts.sum() == chosen.sum()


def test_curve_is_the_trade_of_the_rates():
    query, gallery = _split(2)
    scores, genuine, impostor = _scores(query, gallery)
    curve = verify(query, gallery, bootstrap=0).curve
    assert (np.diff(curve.far) > 0).all() and (np.diff(curve.frr) <= 0).all() and len(curve.far) <= 500
    for threshold, far, frr in list(zip(*curve, strict=True))[::25]:
        assert far == pytest.approx((scores[impostor] >= threshold).mean(), abs=1e-3)
        assert frr == pytest.approx((scores[genuine] < threshold).mean(), abs=2 / genuine.sum())


def test_bootstrap_by_identity_equals_resampling_the_scores():
    query, gallery = _split(3, people=6)
    scores, genuine, impostor = _scores(query, gallery)
    found = verify(query, gallery, bootstrap=60, seed=5, confidence=0.9)
    random, eers = np.random.default_rng(5), []
    for _ in range(60):
        people = random.integers(6, size=6)
        rows = np.concatenate([np.nonzero(query.pids.numpy() == p)[0] for p in people])
        eers.append(_slow_eer(scores[rows][genuine[rows]], scores[rows][impostor[rows]]))
    assert found.eer_interval == pytest.approx(np.percentile(eers, [5, 95]), abs=0.01)
    assert found.eer_interval[0] <= found.eer <= found.eer_interval[1]
    assert verify(query, gallery, bootstrap=60, seed=5, confidence=0.9).eer_interval == found.eer_interval
    assert verify(query, gallery, bootstrap=60, seed=6, confidence=0.9).eer_interval != found.eer_interval


def test_resamples_of_people_without_pairs_count_nowhere():
    query, gallery = _split(people=2)
    query.pids[:] = (query.pids == 0) * 7  # half of the queries are of somebody whom the gallery lacks
    gallery.pids[:] = (gallery.pids == 0) * 7 + (gallery.pids == 1)
    found = verify(query, gallery, bootstrap=50)
    assert found.eer_interval == pytest.approx((found.eer, found.eer), abs=0.2) and found.eer > 0


def test_scores_close_together_have_their_own_interval():
    """One number added to all features leaves next to nothing of their angles, but hardly changes their order."""
    apart, close = verify(*_split(3)), verify(*_split(3, offset=2000.0))
    assert np.ptp(close.scores.edges[np.flatnonzero(close.scores.genuine)]) < 1e-5
    assert close.eer_interval[0] < close.eer < close.eer_interval[1]
    widths = [high - low for low, high in (apart.eer_interval, close.eer_interval)]
    assert widths[1] == pytest.approx(widths[0], rel=0.5)
    assert len(close.curve.far) > 100
    assert f"at score {close.eer_threshold:.8f}" in close.lines()[1]


def test_bins_of_a_picture_are_equally_wide_where_those_counted_in_are_not():
    edges = np.concatenate([np.linspace(0, 0.5, 1001), np.linspace(0.5, 1, 21)[1:]])
    scores = verification.Scores(edges, np.ones(1020, int), np.arange(1020))
    coarse = scores.coarse(10)
    assert np.diff(coarse.edges) == pytest.approx(0.1)
    assert coarse.genuine == pytest.approx([200] * 5 + [4] * 5, abs=1)
    assert coarse.genuine.sum() == 1020 and coarse.impostor.sum() == scores.impostor.sum()


def test_bins_that_are_all_in_use_stay_as_they_are(monkeypatch):
    """Crowded or not: there are none left to divide them into, and a threshold is where its bin is."""
    query, gallery = _split()
    scores, is_genuine, is_impostor = _scores(query, gallery)
    monkeypatch.setattr(verification, "BINS", 2**5)
    found = verify(query, gallery, bootstrap=0)
    occupied = np.count_nonzero(found.scores.genuine + found.scores.impostor)
    assert 2**4 < occupied < 2**5 and found.scores.impostor.max() > 100
    for kind, counts in ((is_genuine, found.scores.genuine), (is_impostor, found.scores.impostor)):
        assert (np.histogram(scores[kind], np.linspace(-1, 1, 2**5 + 1))[0] == counts).all()
    assert found.scores.edges.tolist() == np.linspace(-1, 1, 2**5 + 1).tolist()


def test_a_pair_far_from_all_others_makes_no_narrow_bin_of_its_own():
    """A wide gap, then one narrow bin with one pair: a bar as high as it is narrow would hide the others."""
    edges = np.array([0.0, 0.1, 0.2, 0.9, 0.9 + 1e-6])
    coarse = verification.Scores(edges, np.array([5, 4, 0, 1]), np.array([2, 2, 1, 0])).coarse(3)
    assert np.diff(coarse.edges) == pytest.approx(0.3, abs=1e-6)
    assert coarse.genuine.tolist() == [9, 0, 1] and coarse.impostor.tolist() == [5, 0, 0]


def test_people_without_error_have_no_interval_to_speak_of():
    found = verify(*_split(noise=0.01))
    assert (found.eer, found.eer_interval) == (0, (0, 0))
    assert found.tar_at_far[1e-2] == 1


def test_too_few_impostor_pairs_are_said_plainly():
    found = verify(*_split())
    assert found.tar_at_far[1e-2] is not None
    assert found.tar_at_far[1e-3] is found.tar_at_far[1e-4] is None
    assert f"TAR at FAR 0.001: not enough impostor pairs ({found.num_impostor:,} of 10,000 needed)" in found.lines()


def test_pairs_held_at_a_time_do_not_grow_with_the_people_s_images(monkeypatch):
    query, gallery = _split(people=2)
    query.pids[:5] = gallery.pids[:5] = -1
    expected = verify(query, gallery, camera_rule="market", chunk_size=25)
    held, pairs = [], identities.IdentityPairs.pairs
    monkeypatch.setattr(identities, "_BLOCK_ELEMENTS", 200)
    monkeypatch.setattr(verification, "GALLERY_ROWS", 64)

    def counted(labels, start, stop):
        found = pairs(labels, start, stop)
        held.append(len(found[0]))
        return found

    monkeypatch.setattr(identities.IdentityPairs, "pairs", counted)
    found = verify(query, gallery, camera_rule="market", chunk_size=25)
    assert max(held) <= 200 < sum(held) / 2  # both passes
    assert found.num_genuine == expected.num_genuine > 1000
    for name in ("edges", "genuine", "impostor"):
        np.testing.assert_array_equal(getattr(found.scores, name), getattr(expected.scores, name))
    assert found.eer_interval == expected.eer_interval


def test_refuses_what_has_no_pairs():
    query, gallery = _split()
    alone = Features(gallery.features, np.zeros(90, int), np.zeros(90, int))
    with pytest.raises(ReIDError, match="needs two"):
        verify(Features(query.features, np.zeros(60, int), query.camids), alone)
    with pytest.raises(ReIDError, match="camera"):
        verify(Features(query.features, np.ones(60, int), query.camids), alone)
