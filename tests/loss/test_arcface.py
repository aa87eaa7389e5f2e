import math

import pytest
import torch
import torch.nn.functional as F

from loss import MARGIN_HEADS, AMSoftmax, ArcFace, CircleLoss, CosFace

HEADS = {
    "arcface_s30_m50": ArcFace(),
    "arcface_ml_s30_m30": ArcFace(30, 0.3),
    "arcface_ml_easy": ArcFace(30, 0.3, easy_margin=True),
    "arcface_ml_ls01": ArcFace(30, 0.3, ls=0.1),
    "cosface_s30_m30": CosFace(30, 0.3),
    "amsoftmax_s30_m30": AMSoftmax(30, 0.3),
    "circle_s256_m025": CircleLoss(),
    "circle_s64_m035": CircleLoss(64, 0.35),
}


@pytest.mark.parametrize("case", HEADS)
def test_golden(golden, case):
    features, weight, cotangent, labels = golden.inputs(
        "margin.feat", "margin.weight", "margin.cotangent", "margin.labels"
    )
    logits = HEADS[case](F.linear(F.normalize(features), F.normalize(weight)), labels)
    golden.check(f"{case}.logits", logits)
    grad_features, grad_weight = torch.autograd.grad(logits, [features, weight], cotangent)
    golden.check(f"{case}.grad_feat", grad_features)
    golden.check(f"{case}.grad_weight", grad_weight)


@pytest.mark.parametrize("theta", [0.1, 1.0, 2.0, 2.5])
def test_arcface_adds_the_margin_to_the_angle(theta):
    cosine = torch.tensor([[math.cos(theta), 0.2]], dtype=torch.float64)
    logits = ArcFace(scale=10, margin=0.5)(cosine, torch.tensor([0]))
    expected = [10 * math.cos(theta + 0.5), 2.0]
    torch.testing.assert_close(logits, torch.tensor([expected], dtype=torch.float64))


def test_arcface_falls_monotonically_past_pi_minus_the_margin():
    cosine = torch.linspace(1, -1, 1001, dtype=torch.float64)[:, None]
    logits = ArcFace()(cosine, torch.zeros(1001, dtype=torch.long))
    assert (logits.diff(dim=0) < 0).all()


@pytest.mark.parametrize("name", MARGIN_HEADS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_features_on_their_class_weight_stay_finite(name, dtype):
    torch.manual_seed(0)
    weight = torch.randn(6, 32)
    features = torch.cat([3 * weight, -2 * weight]).requires_grad_()
    labels = torch.arange(6).repeat(2)
    cosine = F.linear(F.normalize(features), F.normalize(weight)).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = MARGIN_HEADS[name](30.0, 0.5)(cosine, labels)
    assert logits.dtype == torch.float32
    F.cross_entropy(logits, labels).backward()
    assert logits.isfinite().all() and features.grad.isfinite().all()
    assert features.grad.norm(dim=1).max() < 100


@pytest.mark.parametrize("name", MARGIN_HEADS)
def test_cosines_just_beyond_one_stay_finite(name):
    cosine = torch.tensor([[1.0000001, -1.0000001], [1.0000001, -1.0000001]], requires_grad=True)
    logits = MARGIN_HEADS[name](30.0, 0.5)(cosine, torch.tensor([0, 1]))
    logits.sum().backward()
    assert logits.isfinite().all() and cosine.grad.isfinite().all()


@pytest.mark.parametrize("name", ["arcface", "cosface", "amsoftmax"])
def test_the_margin_lowers_the_true_class_alone(name):
    torch.manual_seed(0)
    cosine, labels = torch.rand(8, 5) - 0.5, torch.arange(8) % 5
    logits = MARGIN_HEADS[name](30.0, 0.4)(cosine, labels)
    true_class = F.one_hot(labels, 5).bool()
    assert (logits[true_class] < 30 * cosine[true_class]).all()
    torch.testing.assert_close(logits[~true_class], 30 * cosine[~true_class])


def test_circle_weights_get_no_gradient():
    cosine = torch.tensor([[0.5, 0.1]], dtype=torch.float64, requires_grad=True)
    CircleLoss(scale=10, margin=0.25)(cosine, torch.tensor([0])).sum().backward()
    expected = [10 * (1 + 0.25 - 0.5), 10 * (0.1 + 0.25)]
    torch.testing.assert_close(cosine.grad, torch.tensor([expected], dtype=torch.float64))
