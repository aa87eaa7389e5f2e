"""Rates against scikit-learn and scipy, and the bounds of errors and inputs."""

import numpy as np
import pytest
from scipy.stats import beta
from sklearn.metrics import roc_auc_score, roc_curve

from utils.biometric import confidence
from utils.biometric.error_rates import comparisons_needed, is_supported, tally
from utils.errors import ReIDError


def scores(seed, digits, genuine=80, impostor=400):
    random = np.random.default_rng(seed)
    return random.normal(1, 1, genuine).round(digits), random.normal(0, 1, impostor).round(digits)


@pytest.mark.parametrize("digits", [0, 1, 6])
@pytest.mark.parametrize("seed", range(3))
def test_rates_are_those_of_scikit_learn(seed, digits):
    genuine, impostor = scores(seed, digits)
    labels = np.repeat([1, 0], [len(genuine), len(impostor)])
    fpr, tpr, thresholds = roc_curve(labels, np.concatenate([genuine, impostor]), drop_intermediate=False)
    counted = tally(genuine, impostor)
    fmr, fnmr = counted.rates_at(thresholds[1:])
    np.testing.assert_allclose(fmr, fpr[1:], atol=1e-15)
    np.testing.assert_allclose(1 - fnmr, tpr[1:], atol=1e-15)
    assert counted.area() == pytest.approx(roc_auc_score(labels, np.concatenate([genuine, impostor])), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_weights_count_like_repeated_scores(seed):
    genuine, impostor = scores(seed, 1, 20, 50)
    random = np.random.default_rng(seed)
    often = random.integers(1, 4, 20), random.integers(1, 4, 50)
    weighted = tally(genuine, impostor, *often)
    repeated = tally(np.repeat(genuine, often[0]), np.repeat(impostor, often[1]))
    assert weighted.equal_error() == pytest.approx(repeated.equal_error(), abs=1e-15)
    assert weighted.accept_rate(0.1) == repeated.accept_rate(0.1)
    assert weighted.decidability() == pytest.approx(repeated.decidability(), rel=1e-12)


def test_the_threshold_of_a_far_accepts_no_more_than_it():
    genuine, impostor = scores(0, 6)
    found = tally(genuine, impostor).accept_rate(0.03)
    threshold = np.nextafter(found.above, np.inf)
    assert (impostor >= threshold).mean() == found.far <= 0.03 < (impostor >= found.above).mean()
    assert (genuine >= threshold).mean() == pytest.approx(found.tar, abs=1e-15)


def test_a_far_needs_ten_false_matches():
    assert comparisons_needed(1e-3) == 10_000
    assert is_supported(1e-3, 10_000) and not is_supported(1e-3, 9_999)


def test_missing_kinds_and_nan_are_refused():
    with pytest.raises(ReIDError, match="no impostor"):
        tally(np.ones(3), np.array([]))
    with pytest.raises(ReIDError, match="1 of 2 genuine scores are NaN"):
        tally(np.array([1.0, np.nan]), np.ones(3))


@pytest.mark.parametrize(("errors", "trials"), [(0, 1), (1, 1), (3, 10), (1, 10**6), (40_000, 10**8), (10**8, 10**8)])
def test_clopper_pearson_is_the_beta_quantile(errors, trials):
    low, high = confidence.clopper_pearson(errors, trials)
    assert low == pytest.approx(0 if errors == 0 else beta.ppf(0.025, errors, trials - errors + 1), rel=1e-7)
    assert high == pytest.approx(1 if errors == trials else beta.ppf(0.975, errors + 1, trials - errors), rel=1e-7)


@pytest.mark.parametrize(("errors", "trials"), [(-1, 5), (6, 5), (0, 0)])
def test_impossible_counts_are_refused(errors, trials):
    with pytest.raises(ReIDError, match="expected 0 <= errors <= trials"):
        confidence.clopper_pearson(errors, trials)
