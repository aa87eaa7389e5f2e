import pytest
import torch
import torch.nn.functional as F

from loss import SupConLoss, SupContrast, contrast_terms
from utils.errors import ReIDError


def slow_supcon(anchors, candidates, anchor_labels, candidate_labels, temperature=1.0):
    """The formula, anchor by anchor, in float64."""
    anchors, candidates, losses = anchors.double(), candidates.double(), []
    for anchor, label in zip(anchors, anchor_labels.tolist(), strict=True):
        logits = candidates @ anchor / temperature
        positives = [j for j, other in enumerate(candidate_labels.tolist()) if other == label]
        if positives:
            losses.append(torch.logsumexp(logits, 0) - logits[positives].mean())
    return torch.stack(losses).mean()


def test_golden_square_batch_both_directions(golden):
    image, text, labels = golden.inputs("supcon.image", "supcon.text", "supcon.labels")
    for name, loss in {
        "i2t": SupConLoss()(image, text, labels, labels),
        "t2i": SupConLoss()(text, image, labels, labels),
    }.items():
        golden.check(f"supcon.loss_{name}", loss)
        grad_image, grad_text = torch.autograd.grad(loss, [image, text])
        golden.check(f"supcon.{name}_grad_image", grad_image)
        golden.check(f"supcon.{name}_grad_text", grad_text)


def test_golden_unequal_numbers_of_anchors_and_candidates(golden):
    image, text, image_labels, text_labels = golden.inputs(
        "supcon_rect.image", "supcon_rect.text", "supcon_rect.image_labels", "supcon_rect.text_labels"
    )
    loss = SupConLoss()(image, text, image_labels, text_labels)
    golden.check_loss_and_gradients("supcon_rect", loss, {"grad_image": image, "grad_text": text})


def test_both_directions_are_terms(golden):
    image, text, labels = golden.inputs("supcon.image", "supcon.text", "supcon.labels")
    terms = contrast_terms(SupConLoss(), image, text, labels)
    assert set(terms) == {"i2t", "t2i"}
    golden.check("supcon.loss_i2t", terms["i2t"])
    golden.check("supcon.loss_t2i", terms["t2i"])


def test_temperature():
    torch.manual_seed(0)
    anchors, candidates = torch.randn(6, 5), torch.randn(9, 5)
    labels, other = torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([0, 0, 1, 1, 1, 2, 2, 2, 2])
    expected = slow_supcon(anchors, candidates, labels, other, temperature=0.07)
    actual = SupConLoss(temperature=0.07)(anchors, candidates, labels, other)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=0)


def test_distinct_labels_give_plain_cross_entropy():
    torch.manual_seed(0)
    anchors, candidates, labels = torch.randn(6, 5), torch.randn(6, 5), torch.arange(6)
    expected = F.cross_entropy(anchors @ candidates.t(), labels)
    torch.testing.assert_close(SupConLoss()(anchors, candidates, labels, labels), expected)


def test_anchor_without_positive_is_left_out():
    torch.manual_seed(0)
    anchors, candidates = torch.randn(4, 5, requires_grad=True), torch.randn(6, 5)
    labels, other = torch.tensor([0, 7, 1, 0]), torch.tensor([0, 0, 1, 1, 2, 2])
    loss = SupConLoss()(anchors, candidates, labels, other)
    torch.testing.assert_close(loss.double(), slow_supcon(anchors, candidates, labels, other))
    loss.backward()
    assert anchors.grad[1].count_nonzero() == 0
    assert anchors.grad.isfinite().all() and anchors.grad[0].count_nonzero() > 0


def test_no_positive_at_all_is_an_error():
    with pytest.raises(ReIDError, match=r"none of the 2 anchors .* 3 candidates"):
        SupConLoss()(torch.randn(2, 4), torch.randn(3, 4), torch.tensor([0, 1]), torch.tensor([2, 3, 4]))


def test_logits_in_the_hundreds_stay_finite():
    features = torch.full((4, 8), 20.0).requires_grad_()
    labels = torch.tensor([0, 0, 1, 1])
    loss = SupConLoss()(features, -features, labels, labels)
    loss.backward()
    assert loss.isfinite() and features.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_features_under_autocast_are_computed_in_float32(golden, dtype):
    image, text, labels = golden.inputs("supcon.image", "supcon.text", "supcon.labels")
    image, text = image.detach().to(dtype), text.detach().to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = SupConLoss()(image, candidates=text, anchor_labels=labels, candidate_labels=labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), slow_supcon(image, text, labels, labels), rtol=1e-6, atol=0)


def test_published_name():
    assert SupContrast is SupConLoss
