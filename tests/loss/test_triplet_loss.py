import math

import pytest
import torch

from loss import TripletLoss, cosine_dist, euclidean_dist, hard_example_mining
from tests.loss.conftest import pk_labels

CASES = {
    "triplet_m03": {"margin": 0.3},
    "triplet_soft": {"margin": None},
    "triplet_m03_norm": {"margin": 0.3, "normalize_feature": True},
    "triplet_m03_hf": {"margin": 0.3, "hard_factor": 0.1},
}


@pytest.mark.parametrize("case", CASES)
def test_golden(golden, case):
    features, labels = golden.inputs("triplet.feat", "triplet.labels")
    triplet = TripletLoss(**CASES[case])
    golden.check_loss_and_gradients(case, triplet(features, labels), {"grad": features})
    for name, distance in zip(("dist_ap", "dist_an"), triplet.hardest_distances(features, labels), strict=True):
        golden.check(f"{case}.{name}", distance)


def test_golden_distances_and_indices(golden):
    features, labels = golden.inputs("triplet.feat", "triplet.labels")
    golden.check("dist.euclid", euclidean_dist(features[:8], features[8:]))
    golden.check("dist.cosine", cosine_dist(features[:8], features[8:]))
    hardest = hard_example_mining(euclidean_dist(features, features), labels)
    golden.check("dist.p_inds", hardest.p_inds)
    golden.check("dist.n_inds", hardest.n_inds)


def slow_triplet(features, labels, margin):
    """Anchor by anchor with plain numbers; anchors without a negative are skipped."""
    rows, costs = features.double().tolist(), []
    for i, label in enumerate(labels.tolist()):
        distances = [(math.dist(rows[i], row), other == label) for row, other in zip(rows, labels, strict=True)]
        negatives = [d for d, same in distances if not same]
        if negatives:
            difference = max(d for d, same in distances if same) - min(negatives)
            costs.append(math.log1p(math.exp(difference)) if margin is None else max(0, difference + margin))
    return sum(costs) / len(costs)


@pytest.mark.parametrize("margin", [0.3, None])
@pytest.mark.parametrize("counts", [(1, 1, 4), (2, 3), (5, 1), (1, 2, 3, 4), (1, 1)])
def test_unequal_counts_per_identity(counts, margin):
    torch.manual_seed(sum(counts))
    labels = pk_labels(counts)[torch.randperm(sum(counts))]
    # Close together, so that some triplets violate the margin; float64, since an only image's distance to
    # itself is rounding noise in place of 0.
    features = (torch.randn(len(labels), 6, dtype=torch.float64) / 20).requires_grad_()
    loss = TripletLoss(margin)(features, labels)
    assert loss.item() == pytest.approx(slow_triplet(features, labels, margin), abs=2e-6)
    loss.backward()
    assert features.grad.isfinite().all() and features.grad.count_nonzero() > 0


@pytest.mark.parametrize("margin", [0.3, None])
def test_a_single_identity_has_no_loss(margin):
    features = torch.randn(4, 6, requires_grad=True)
    loss = TripletLoss(margin, hard_factor=0.1)(features, torch.zeros(4, dtype=torch.long))
    loss.backward()
    assert loss == 0
    assert features.grad.count_nonzero() == 0


def test_equal_features_have_finite_gradients():
    features = torch.ones(4, 6, requires_grad=True)
    loss = TripletLoss(0.3)(features, torch.tensor([0, 0, 1, 1]))
    loss.backward()
    assert loss.item() == pytest.approx(0.3)
    assert features.grad.isfinite().all()


def test_broken_features_are_not_hidden():
    features = torch.randn(4, 6)
    features[2, 0] = torch.nan
    assert TripletLoss(0.3)(features, torch.tensor([0, 0, 1, 1])).isnan()


def test_half_precision_under_autocast_is_computed_in_float32(golden):
    features, labels = (t.detach() for t in golden.inputs("triplet.feat", "triplet.labels"))
    features = features.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = TripletLoss(0.3)(features, labels)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(slow_triplet(features, labels, 0.3), rel=1e-5)
