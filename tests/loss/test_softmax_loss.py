import pytest
import torch

from loss import CrossEntropyLabelSmooth


@pytest.mark.parametrize(("case", "epsilon"), [("ce_ls", 0.1), ("ce_ls_alt", 0.1), ("ce_plain", 0.0)])
def test_golden(golden, case, epsilon):
    logits, labels = golden.inputs("ce.logits", "ce.labels")
    loss = CrossEntropyLabelSmooth(epsilon)(logits, labels)
    golden.check_loss_and_gradients(case, loss, {"grad": logits})


def test_smoothing_is_the_published_one_mean_over_batch_then_sum_over_classes(golden):
    logits, labels = (t.detach() for t in golden.inputs("ce.logits", "ce.labels"))
    logits = logits.double()
    target = torch.full_like(logits, 0.1 / logits.shape[1])
    target[torch.arange(len(labels)), labels] += 0.9
    expected = -(target * logits.log_softmax(1)).mean(0).sum()
    torch.testing.assert_close(CrossEntropyLabelSmooth()(logits, labels), expected)


def test_bfloat16_logits_under_autocast():
    logits = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).bfloat16()
    labels = torch.arange(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = CrossEntropyLabelSmooth()(logits, labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, CrossEntropyLabelSmooth()(logits.float(), labels))
