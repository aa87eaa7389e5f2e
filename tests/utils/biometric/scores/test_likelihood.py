"""Calibration against scikit-learn, its limits, its file, its words."""

import json

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from utils.biometric.scores import likelihood
from utils.biometric.scores.calibration import calibrate, load_calibration
from utils.biometric.scores.fusion import fit_fusion
from utils.biometric.scores.isotonic import isotonic_blocks
from utils.biometric.scores.logistic import SeparableError, fit_logistic
from utils.errors import ReIDError


def scores(seed=0, genuine=60, impostor=300, digits=2):
    random = np.random.default_rng(seed)
    return random.normal(1.5, 1, genuine).round(digits), random.normal(0, 1, impostor).round(digits)


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_logistic_regression_is_that_of_scikit_learn(columns, scale):
    random = np.random.default_rng(columns)
    genuine = random.random(400) < 0.2
    features = scale * (random.normal(size=(400, columns)) + genuine[:, None] + 5)
    weights, intercept = fit_logistic(features, genuine)
    reference = LogisticRegression(
        C=np.inf, class_weight="balanced", tol=1e-12, max_iter=5000, solver="newton-cholesky"
    )
    reference.fit(features / scale, genuine)
    np.testing.assert_allclose(weights * scale, reference.coef_[0], rtol=1e-5)
    assert intercept == pytest.approx(reference.intercept_[0], rel=1e-5)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("digits", [0, 1, 6])
def test_isotonic_blocks_are_those_of_scikit_learn(seed, digits):
    genuine, impostor = scores(seed, digits=digits)
    both, labels = np.concatenate([genuine, impostor]), np.repeat([1.0, 0.0], [len(genuine), len(impostor)])
    weights = np.where(labels == 1, 1 / len(genuine), 1 / len(impostor))
    reference = IsotonicRegression(out_of_bounds="clip").fit(both, labels, sample_weight=weights)
    grid = np.linspace(-6, 8, 200)
    with np.errstate(divide="ignore"):
        wanted = np.log(reference.predict(grid)) - np.log1p(-reference.predict(grid))
    found = isotonic_blocks(genuine, impostor).llr(grid)
    np.testing.assert_allclose(found[np.abs(found) < 30], wanted[np.abs(found) < 30], atol=1e-9)
    np.testing.assert_array_equal(np.isinf(found), np.isinf(wanted))


@pytest.mark.parametrize("gap", [0.0, 1e-9, 5.0])
def test_separable_scores_are_recognised(gap):
    with pytest.raises(SeparableError, match="separable"):
        calibrate(1 + gap + np.linspace(1e-12, 1, 20), np.linspace(0, 1, 50))


def test_scores_that_touch_are_not_separable():
    assert calibrate(np.linspace(0.99, 2, 20), np.linspace(0, 1, 50)).slope > 0


def test_one_kind_or_one_value_is_refused():
    with pytest.raises(ReIDError, match="only one kind"):
        calibrate(np.ones(3), np.array([]))
    with pytest.raises(ReIDError, match="all training scores are equal"):
        calibrate(np.ones(3), np.ones(4))


def test_elub_of_perfect_systems_grows_with_the_data():
    """Hand-made: with n of each kind, one misleading LR more on each side supports LRs between 1 / n and n."""
    for count in (3, 9, 99):
        low, high = likelihood.elub(np.full(count, 20.0), np.full(count, -20.0))
        assert 10**high == pytest.approx(count, rel=0.03) and 10**low == pytest.approx(1 / count, rel=0.03)
    assert likelihood.elub(np.array([-3.0, 3.0]), np.array([-3.0, 3.0])) == (0.0, 0.0)


def test_cllr_of_uninformative_and_of_right_evidence():
    assert likelihood.cllr(np.zeros(4), np.zeros(9)) == pytest.approx(1)
    assert likelihood.cllr_min(np.ones(4), np.zeros(9)) == 0
    assert likelihood.empirical_cross_entropy(np.ones(4), np.zeros(9), np.zeros(1))[0] == pytest.approx(
        likelihood.cllr(np.ones(4), np.zeros(9))
    )


def test_answers_mark_limits_and_range():
    calibration = calibrate(*scores(), dataset="a set", people=60)
    inside, beyond = calibration.answer(1.0), calibration.answer(50.0)
    assert not inside.outside and not inside.limited and inside.text().startswith("LR ")
    assert beyond.outside and beyond.limited and "at the limit, score outside" in beyond.text()
    assert "favour of the same hand" in beyond.text() and "different hands" in calibration.answer(-3.0).text()
    assert np.log10(beyond.lr) == pytest.approx(calibration.bounds["logistic"][1])
    assert "60 training people of a set (60 genuine and 300 impostor pairs)" in calibration.population


def test_a_calibration_survives_its_file(tmp_path):
    path = tmp_path / "calibration.json"
    calibration = calibrate(*scores(), dataset="a set", people=60)
    calibration.save(path)
    found = load_calibration(path)
    grid = np.linspace(-3, 5, 50)
    for rule in ("logistic", "pav"):
        np.testing.assert_array_equal(found.llr(grid, rule), calibration.llr(grid, rule))
    assert found.population == calibration.population


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no calibration"), ("{", "not a calibration"), ('{"format": 9}', "format 9"), ("[]", "format list")],
)
def test_other_files_are_no_calibration(tmp_path, content, message):
    path = tmp_path / "calibration.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ReIDError, match=message):
        load_calibration(path)


def test_an_incomplete_calibration_is_refused(tmp_path):
    path = tmp_path / "calibration.json"
    calibrate(*scores()).save(path)
    content = json.loads(path.read_text())
    del content["bounds"]
    path.write_text(json.dumps(content))
    with pytest.raises(ReIDError, match="part of the calibration is missing"):
        load_calibration(path)


def test_fusion_leaves_missing_modalities_out():
    random = np.random.default_rng(0)
    genuine = np.repeat([True, False], 50)
    training = random.normal(size=(100, 3)) + genuine[:, None]
    some = training.copy()
    some[:, 1:] = np.nan
    nothing = np.full((1, 3), np.nan)
    for rule in ("mean", "logistic"):
        fitted = fit_fusion(training, genuine, rule)
        alone = (training[:, 0] - training[:, 0].mean()) / training[:, 0].std()
        weight = 1 if rule == "mean" else fitted.weights[0]
        np.testing.assert_allclose(fitted.fuse(some), weight * alone + fitted.intercept, atol=1e-12)
        assert np.isnan(fitted.fuse(nothing)).all()
    with pytest.raises(ReIDError, match="modality 1 has no training scores"):
        fit_fusion(some, genuine)
    with pytest.raises(ReIDError, match="are the same"):
        fit_fusion(training[:, [0, 0]], genuine, "logistic")
