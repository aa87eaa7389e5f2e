"""The joint score: against scikit-learn, on made-up training people, and refused where it was not fitted."""

import json

import numpy as np
import pytest
import torch

from processor.biometrics.local_fusion import MOST_PAIRS, RIDGE, fit_joint, parts_of, training_pairs, trusted_joint
from processor.biometrics.training import TrainingFeatures
from utils.biometric.scores.logistic import fit_logistic
from utils.errors import ReIDError
from utils.metrics import Features

FACTS = {"checksum": "abcd", "protocol": {"FLIP": False, "SIZE_TEST": [8, 8]}}


def training(people=8, images=6, apart=True):
    """Two hands of each person, half of the images in each of two sessions."""
    pids = np.repeat(np.arange(2 * people), images)
    cameras = np.tile(np.arange(images) % 2, 2 * people)
    names = [f"p{pid // 2}" for pid in pids]
    return TrainingFeatures(Features(torch.zeros(len(pids), 2), pids, cameras), [], names, apart)


def made_up(given, strength=(1.0, 2.0, 0.5)):
    """Parts [P, 3] of pairs that overlap, each as strong as given."""

    def compare(left, right):
        pids = given.features.pids.numpy()
        random = np.random.default_rng(0)
        genuine = (pids[left] == pids[right])[:, None]
        return random.normal(size=(len(left), 3)) + genuine * np.array(strength)

    return compare


@pytest.mark.parametrize("apart", [True, False])
def test_pairs_are_of_one_hand_or_of_two_people(apart):
    given = training(apart=apart)
    left, right, same = training_pairs(given, 0)
    pids, cameras, people = given.features.pids.numpy(), given.features.camids.numpy(), np.array(given.people)
    assert (pids[left] == pids[right]).tolist() == same.tolist() and same.any() and not same.all()
    assert (people[left[~same]] != people[right[~same]]).all()
    assert (cameras[left] != cameras[right]).all() == apart
    assert len(set(zip(left, right, strict=True))) == len(left)
    assert same.sum() == (16 * 9 if apart else 16 * 15) and (~same).sum() == min(
        MOST_PAIRS["impostor"], (96 * 84 // 2) // (2 if apart else 1)
    )


def test_weights_follow_the_parts_discrimination(tmp_path):
    given = training()
    joint = fit_joint(given, made_up(given), "drawn", FACTS, 0)
    weights = joint.fusion.weights
    assert weights[1] > weights[0] > weights[2] > 0 and joint.people == 8
    low, high = joint(*np.array([[0.1, 0.9], [1, 60], [0.05, 0.4]]))
    assert high > low
    joint.save(tmp_path / "local_fusion.json")
    again = trusted_joint(tmp_path / "local_fusion.json", "drawn", FACTS, False)
    pair = np.array([[0.5], [3], [0.1]])
    assert again(*pair) == joint(*pair)


def test_pairs_that_do_not_overlap_give_finite_weights():
    given = training()
    joint = fit_joint(given, made_up(given, (50, 50, 50)), "drawn", {}, 0)
    assert np.isfinite(joint.fusion.weights).all() and (joint.fusion.weights > 0).all()


def test_the_penalty_is_that_of_scikit_learn():
    linear = pytest.importorskip("sklearn.linear_model")
    random = np.random.default_rng(1)
    genuine = random.random(300) < 0.3
    columns = random.normal(size=(300, 3)) + 1.5 * genuine[:, None]
    columns = (columns - columns.mean(0)) / columns.std(0)
    weights, intercept = fit_logistic(columns, genuine, RIDGE)
    share = np.where(genuine, 0.5 / genuine.sum(), 0.5 / (~genuine).sum())
    known = linear.LogisticRegression(C=1 / RIDGE, tol=1e-12, max_iter=10_000).fit(columns, genuine, share)
    np.testing.assert_allclose([*weights, intercept], [*known.coef_[0], *known.intercept_], rtol=1e-4)


def test_refused_for_another_set_or_other_weights_unless_allowed(tmp_path):
    given, path = training(), tmp_path / "local_fusion.json"
    fit_joint(given, made_up(given), "drawn", FACTS, 0).save(path)
    with pytest.raises(ReIDError, match=r"fitted for the data set drawn \(here veins\).*does not carry over"):
        trusted_joint(path, "veins", FACTS, False)
    with pytest.raises(ReIDError, match="other weights or other test settings"):
        trusted_joint(path, "drawn", FACTS | {"checksum": "0"}, False)
    assert trusted_joint(path, "veins", {}, True).dataset == "drawn"
    with pytest.raises(ReIDError, match="cannot be read"):
        trusted_joint(tmp_path / "none.json", "drawn", FACTS, False)
    path.write_text(json.dumps({"format": 1}))
    with pytest.raises(ReIDError, match="not a joint score"):
        trusted_joint(path, "drawn", FACTS, False)
    alone = training(people=1)
    with pytest.raises(ReIDError, match="no impostor pair"):
        training_pairs(alone, 0)


def test_counts_enter_by_their_logarithm():
    np.testing.assert_allclose(parts_of(0.5, np.array(0), 0.1), [0.5, 0, 0.1])
