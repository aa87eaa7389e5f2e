"""Averages over an epoch."""

import torch

from utils.progress import Meters


def test_means_are_weighted_by_images():
    meters = Meters()
    meters.update({"loss": torch.tensor(1.0), "id": torch.tensor(4.0)}, 3)
    meters.update({"loss": torch.tensor(5.0), "id": torch.tensor(0.0)}, 1)
    assert meters.means() == {"loss": 2.0, "id": 3.0} and meters.count == 4


def test_nothing_yet():
    assert Meters().means() == {} and Meters().count == 0


def test_half_precision_does_not_saturate_and_no_graph_is_kept():
    meters = Meters()
    value = torch.tensor(1000.0, dtype=torch.float16, requires_grad=True)
    for _ in range(100):
        meters.update({"loss": value * 1}, 64)
    assert meters.means() == {"loss": 1000.0}
    assert not any(total.requires_grad for total in meters._sums.values())
