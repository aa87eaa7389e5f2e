"""CDNet as a backbone: sizes, published names, files that do not fit."""

import json
from pathlib import Path

import pytest
import torch

from model.backbones.cdnet import SHAPES, CDNet, own_name
from utils.errors import ReIDError

MANIFEST = Path(__file__).parents[2] / "parity" / "methods" / "cdnet" / "manifest.json"


def tiny(size=(64, 32)):
    torch.manual_seed(0)
    return CDNet(SHAPES["cdnet-tiny"], size).eval()


@pytest.mark.parametrize("size", [(64, 32), (100, 50), (33, 47), (32, 32)])
def test_grid_is_the_shape_of_the_last_maps(size):
    network = tiny(size)
    found = network(torch.zeros(1, 3, *size))
    for name in ("middle", "map"):
        assert found[name].shape == (1, network.dims[name], *network.grid)
    assert torch.equal(found["feature"], found["map"].mean((2, 3)))


def test_smallest_images():
    assert tiny((32, 32)).train()(torch.randn(2, 3, 32, 32))["feature"].isfinite().all()
    with pytest.raises(ReIDError, match=r"SIZE_TRAIN = \[31, 64\].*at least 32"):
        tiny((31, 64))


def test_published_names_load_without_the_neck():
    network = CDNet(SHAPES["cdnet"], (64, 32))
    entries = json.loads(MANIFEST.read_text())["tensors"]
    published = {e["name"]: torch.full(e["shape"], 0.5).to(getattr(torch, e["dtype"])) for e in entries}
    report = network.load(published)
    assert set(report.skipped) == {name for name in published if name.startswith("neck.")}
    assert {own_name(name) for name in published if name.startswith("base.")} == set(network.state_dict())
    assert all((t == 0.5).all() for name, t in network.state_dict().items() if "num_batches" not in name)


def test_a_file_of_another_genotype_is_refused():
    with pytest.raises(ReIDError, match=r"stem.conv.weight has the shape \[64, 3, 7, 7\]; CDNet needs \[16, 3, 7, 7\]"):
        tiny().load(CDNet(SHAPES["cdnet"], (64, 32)).state_dict())


def test_saliency_is_between_0_and_1():
    maps = tiny().saliency(torch.randn(2, 3, 64, 32))
    assert maps.shape == (2, 4, 2)
    assert maps.amin((1, 2)).tolist() == [0, 0]
    assert maps.amax((1, 2)).tolist() == [1, 1]
