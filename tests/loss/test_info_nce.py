"""InfoNCE in which several rows belong together, against the formula row by row in float64."""

import pytest
import torch

from loss.info_nce import info_nce


def slow(queries, gallery, log_scale, groups):
    total = 0.0
    for left, right in ((queries.double(), gallery.double()), (gallery.double(), queries.double())):
        for i, row in enumerate(left):
            logits = [float(log_scale.exp() * row @ other / row.norm() / other.norm()) for other in right]
            norm = torch.tensor(logits).logsumexp(0)
            own = [j for j, group in enumerate(groups.tolist()) if group == groups[i]]
            total += sum(float(norm) - logits[j] for j in own) / len(own)
    return total / (2 * len(queries))


def test_rows_of_a_group_are_positives_of_each_other():
    torch.manual_seed(0)
    queries, gallery, scale = torch.randn(7, 5), torch.randn(7, 5), torch.tensor(1.3)
    groups = torch.tensor([0, 1, 0, 2, 2, 2, 3])
    assert float(info_nce(queries, gallery, scale, groups=groups)) == pytest.approx(
        slow(queries, gallery, scale, groups), rel=1e-5
    )


def test_groups_of_one_row_are_the_plain_loss():
    torch.manual_seed(1)
    queries, gallery, scale = torch.randn(6, 4), torch.randn(6, 4), torch.tensor(2.0)
    alone = info_nce(queries, gallery, scale, groups=torch.arange(6))
    torch.testing.assert_close(alone, info_nce(queries, gallery, scale))
