import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.biometric.verification import percent, verify
from utils.errors import ReIDError
from utils.metrics import Features


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
    st.sampled_from([None, 40]),
    st.sampled_from([0.0, 300.0, 5000.0]),
)
def test_equals_all_scores_kept(seed, rule, chunk_size, offset):
    """With a large offset all scores lie within 1e-4 or 1e-7 of 1, as after few steps of training."""
    query, gallery = _split(seed, offset=offset)
    gallery.pids[:5] = -1
    query.pids[:3] = -1
    scores, is_genuine, is_impostor = _scores(query, gallery, rule)
    genuine, impostor = scores[is_genuine], scores[is_impostor]
    found = verify(query, gallery, camera_rule=rule, far=(0.05,), chunk_size=chunk_size)
    assert (found.num_genuine, found.num_impostor) == (len(genuine), len(impostor))
    step = max(1 / len(genuine), 1 / len(impostor))
    assert found.eer == pytest.approx(_slow_eer(genuine, impostor), abs=2 * step)
    threshold = np.sort(impostor)[::-1][int(0.05 * len(impostor))]
    assert found.tar_at_far[0.05] == pytest.approx((genuine > threshold).mean(), abs=2 / len(genuine))


def test_counts_are_those_of_the_scores():
    query, gallery = _split(1)
    scores, is_genuine, is_impostor = _scores(query, gallery)
    found = verify(query, gallery).histogram(40)
    assert len(found.genuine) == 40
    # A score on an edge may fall either way by rounding; a few of thousands may.
    for counts, chosen in ((found.genuine, is_genuine), (found.impostor, is_impostor)):
        expected = np.histogram(scores[chosen], found.edges)[0]
        assert np.abs(counts - expected).sum() <= 4
        assert counts.sum() == chosen.sum()


def test_curve_is_the_trade_of_the_rates():
    query, gallery = _split(2)
    scores, genuine, impostor = _scores(query, gallery)
    curve = verify(query, gallery).curve
    assert (np.diff(curve.far) > 0).all() and (np.diff(curve.frr) <= 0).all() and len(curve.far) <= 500
    for threshold, far, frr in list(zip(*curve, strict=True))[::25]:
        assert far == pytest.approx((scores[impostor] >= threshold).mean(), abs=1e-3)
        assert frr == pytest.approx((scores[genuine] < threshold).mean(), abs=2 / genuine.sum())


def test_too_few_impostor_pairs_are_reported():
    found = verify(*_split())
    assert found.tar_at_far[1e-2] is not None
    assert found.tar_at_far[1e-3] is found.tar_at_far[1e-4] is None
    assert f"TAR at FAR 0.001: not enough impostor pairs ({found.num_impostor:,} of 10,000 needed)" in found.lines()


def test_refuses_what_has_no_pairs():
    query, gallery = _split()
    alone = Features(gallery.features, np.zeros(90, int), np.zeros(90, int))
    with pytest.raises(ReIDError, match="needs two"):
        verify(Features(query.features, np.zeros(60, int), query.camids), alone)
    with pytest.raises(ReIDError, match="camera"):
        verify(Features(query.features, np.ones(60, int), query.camids), alone)


def test_rates_at_given_thresholds_are_exact():
    query, gallery = _split(4)
    scores, genuine, impostor = _scores(query, gallery)
    found = verify(query, gallery, thresholds=(0.2, 0.8))
    for threshold, (fmr, fnmr) in found.rates_at.items():
        assert fmr == pytest.approx((scores[impostor] >= threshold).mean(), abs=1e-12)
        assert fnmr == pytest.approx((scores[genuine] < threshold).mean(), abs=1e-12)


def test_a_threshold_of_one_set_keeps_its_far_there():
    query, gallery = _split(5)
    found = verify(query, gallery, far=(0.02,))
    again = verify(query, gallery, thresholds=(found.threshold_at_far[0.02],))
    ((fmr, fnmr),) = again.rates_at.values()
    assert fmr <= 0.02 and 1 - fnmr == found.tar_at_far[0.02]


def test_scores_close_together_keep_their_rates():
    """One number added to all features makes their angles tiny, but hardly changes their order."""
    apart, close = verify(*_split(3)), verify(*_split(3, offset=2000.0))
    assert np.ptp(close.scores.scores) < 1e-3 and len(close.curve.far) > 100
    assert close.eer == pytest.approx(apart.eer, abs=0.05)
    assert f"at score {close.eer_threshold:.8f}" in close.lines()[1]


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (0.3556, "35.56%"),
        (0.00123, "0.12%"),
        (1.7e-7, "0.000017%"),
        (0.0, "0.00%"),
        (1.0, "100.00%"),
        (9.996e-5, "0.0100%"),
    ],
)
def test_rates_have_significant_digits(rate, text):
    assert percent(rate) == text
