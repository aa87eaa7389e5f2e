import torch

from loss import CenterLoss


def test_golden(golden):
    features, labels, centers = golden.inputs("center.feat", "center.labels", "center.centers")
    center = CenterLoss(*centers.shape)
    center.centers.data.copy_(centers)
    golden.check_loss_and_gradients(
        "center", center(features, labels), {"grad_feat": features, "grad_centers": center.centers}
    )


def test_centers_follow_their_features():
    torch.manual_seed(0)
    center, labels = CenterLoss(3, 4), torch.tensor([0, 0, 2])
    untouched, features = center.centers[1].clone(), torch.randn(3, 4)
    optimizer = torch.optim.SGD(center.parameters(), lr=0.3)
    for _ in range(200):
        optimizer.zero_grad()
        center(features, labels).backward()
        optimizer.step()
    torch.testing.assert_close(center.centers[0], features[:2].mean(0))
    torch.testing.assert_close(center.centers[2], features[2])
    assert torch.equal(center.centers[1], untouched)


def test_huge_distances_are_clamped_and_have_no_gradient():
    center, features = CenterLoss(2, 3), torch.full((1, 3), 1e8).requires_grad_()
    loss = center(features, torch.tensor([1]))
    loss.backward()
    assert loss == 1e12
    assert features.grad.count_nonzero() == 0
