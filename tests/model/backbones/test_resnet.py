"""ResNet: equal to torchvision's and timm's, their files load, stride and grid, errors that name the tensor."""

import pytest
import torch
from torchvision.models import resnet50

from model.backbones.resnet import SHAPES, ResNet, set_stride
from utils.errors import ReIDError


def tiny(last_stride=1, size=(64, 32)):
    torch.manual_seed(0)
    return ResNet(SHAPES["resnet-tiny"], size, last_stride).eval()


def test_equals_torchvisions_network_with_its_file():
    theirs = resnet50(weights=None).eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    ours = ResNet(SHAPES["resnet50"], (64, 64), last_stride=2).eval()
    report = ours.load(theirs.state_dict())
    assert sorted(report.skipped) == ["fc.bias", "fc.weight"]
    theirs.fc = torch.nn.Identity()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(images)["feature"], theirs(images))
    assert list(ours.state_dict()) == list(theirs.state_dict())


def test_timms_resnet50_has_the_same_names_and_shapes():
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        theirs = timm.create_model("resnet50").state_dict()
        ours = ResNet(SHAPES["resnet50"], (64, 64)).state_dict()
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in theirs.items() if not n.startswith("fc.")}


def test_old_files_do_not_count_batches():
    state = {n: t for n, t in tiny().state_dict().items() if not n.endswith("num_batches_tracked")}
    assert tiny().load(state).loaded == list(state)


@pytest.mark.parametrize(("stride", "size"), [(1, (64, 32)), (2, (64, 32)), (1, (324, 324)), (1, (100, 50))])
def test_grid_is_the_shape_of_the_last_map(stride, size):
    network = tiny(stride, size)
    found = network(torch.zeros(1, 3, *size))
    assert found["map"].shape == (1, network.dims["map"], *network.grid)
    assert found["feature"].shape == (1, network.dims["feature"])


def test_stride_of_a_stage():
    network = tiny(1)
    set_stride(network.layer4, 2)
    images = torch.randn(1, 3, 64, 32)
    assert torch.equal(network(images)["map"], tiny(2)(images)["map"])


def test_saliency_is_between_0_and_1():
    maps = tiny().saliency(torch.randn(2, 3, 64, 32))
    assert maps.shape == (2, 4, 2)
    assert maps.amin((1, 2)).tolist() == [0, 0]
    assert maps.amax((1, 2)).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("spoil", "names"),
    [
        (lambda state: state.pop("layer2.0.conv1.weight"), "layer2.0.conv1.weight"),
        (lambda state: state.update({"conv1.weight": torch.zeros(8, 3, 3, 3)}), r"conv1.weight.*\[8, 3, 3, 3\].*7, 7"),
        (lambda state: state.update({"head.weight": torch.zeros(1)}), "head.weight.*no such tensor"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(spoil, names):
    state = dict(tiny().state_dict())
    spoil(state)
    with pytest.raises(ReIDError, match=f"MODEL.PRETRAIN_PATH.*{names}"):
        tiny().load(state)
