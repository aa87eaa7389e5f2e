"""OSNet as a backbone: sizes, published names, files that do not fit."""

import re

import pytest
import torch

from model.backbones.osnet import SHAPES, OSNet
from utils.errors import ReIDError


def small(size=(64, 32), name="osnet_x0_25"):
    torch.manual_seed(0)
    return OSNet(SHAPES[name], size).eval()


@pytest.mark.parametrize("size", [(64, 32), (100, 50), (33, 47), (32, 32)])
def test_grid_is_the_shape_of_the_last_map(size):
    network = small(size)
    found = network(torch.zeros(1, 3, *size))
    assert found["map"].shape == (1, network.dims["map"], *network.grid)
    assert found["feature"].shape == (1, network.dims["feature"])


@pytest.mark.parametrize("name", SHAPES)
def test_smallest_images_train(name):
    assert small((32, 32), name).train()(torch.randn(2, 3, 32, 32))["feature"].isfinite().all()
    with pytest.raises(ReIDError, match=r"SIZE_TRAIN = \[31, 64\].*at least 32"):
        small((31, 64), name)


def test_published_names_load_without_the_classifier():
    network = small()
    published = {_published(name): tensor + 1 for name, tensor in network.state_dict().items()}
    report = network.load(published | {"classifier.weight": torch.zeros(1000, 512)})
    assert list(report.skipped) == ["classifier.weight"]
    assert all(torch.equal(tensor, published[_published(name)]) for name, tensor in network.state_dict().items())


def _published(name):
    name = re.sub(r"^pool([23])\.", r"conv\1.2.", name).replace("streams.0.0.", "conv2a.")
    return re.sub(r"streams\.([123])\.", lambda match: f"conv2{'abcd'[int(match[1])]}.", name)


def test_a_file_of_another_width_is_refused():
    with pytest.raises(ReIDError, match=r"conv1.conv.weight"):
        small().load(small(name="osnet_x0_5").state_dict())
    lost = {name: tensor for name, tensor in small().state_dict().items() if name != "fc.0.bias"}
    with pytest.raises(ReIDError, match=r"fc.0.bias"):
        small().load(lost)


def test_saliency_is_between_0_and_1():
    maps = small().saliency(torch.randn(2, 3, 64, 32))
    assert maps.shape == (2, 4, 2)
    assert maps.amin((1, 2)).tolist() == [0, 0]
    assert maps.amax((1, 2)).tolist() == [1, 1]
