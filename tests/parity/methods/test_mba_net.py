"""MBA-Net against nathanlem1/MBA-Net@2c6349a; what the arrays are: mba_net/README.md."""

from functools import cache

import pytest
import torch
import torch.nn.functional as F

from model.base import Batch
from model.layers.attention import ChannelAttention, SpatialAttention
from model.layers.heads import make_block, make_classifier
from model.methods.mba_net import MBANet
from tests.parity.methods.kit import GivenMap, Golden
from tests.parity.methods.mba_family import register
from utils.metrics import evaluate_distances

golden = Golden("mba_net")
register(golden, MBANet)


def probed(module, kind):
    """Output of a module on ``mod_<kind>_x`` and gradients of sum(gy * y)."""
    x = golden.input(f"mod_{kind}_x").requires_grad_()
    y = module(x)
    (golden.input(f"mod_{kind}_gy") * y).sum().backward()
    found = {"y": y, "gx": x.grad}
    found |= {f"g_{name.removeprefix('rel_')}": p.grad for name, p in module.named_parameters()}
    return found


def module_state(prefix):
    return {name.removeprefix(prefix): t for name, t in golden.state(prefix=prefix).items()}


@cache
def spatial(positions, mode):
    x = golden.input("mod_sam_x")
    module = SpatialAttention(x.shape[1], tuple(x.shape[2:]), positions).train(mode == "train")
    state = module_state("mod_sam.")
    module.load_state_dict({name: state[name] for name in module.state_dict()})
    return probed(module, "sam")


@golden.array(r"mod_sam_(norpe_|alt_axial_)?(eval|train)_(.*)")
def spatial_attention(variant, mode, kind):
    return spatial({"norpe_": "none", "alt_axial_": "axial", None: "value"}[variant], mode)[kind]


@golden.array(r"mod_cam_(.*)")
def channel_attention(kind):
    module = ChannelAttention()
    torch.nn.init.constant_(module.gamma, golden.meta["mod_cam_gamma"])
    return probed(module, "cam")[kind]


@golden.array(r"mod_pool_(\d)x(\d)")
def part_pooling(rows, columns):
    maps = golden.input("mod_pool_x")
    method = MBANet(GivenMap(maps.shape[1]), 3, parts=(int(rows), int(columns)), attention=False)
    outputs = method(Batch(maps))
    return torch.stack([outputs[part] for part in method.parts], dim=2)


@golden.array(r"mod_block_(eval|train)_(.*)")
def block(mode, kind):
    state = module_state("mod_block.")
    (inner, outer), classes = state["add_block.0.weight"].shape, len(state["classifier.0.weight"])
    module = torch.nn.Sequential(make_block(outer, inner), make_classifier(inner, classes, bias=True))
    renamed = {n.replace("add_block", "0").replace("classifier.0", "1"): t for n, t in state.items()}
    module.load_state_dict(renamed)
    return probed(module.train(mode == "train"), "block")[kind]


@golden.array("metric_(cmc|map_trapezoid)")
def metric(kind):
    q, g = (golden.input(f"metric_{side}") for side in "qg")
    query, gallery = (golden.input(f"metric_{side}l") for side in "qg")
    known = torch.isin(query, gallery)
    found = evaluate_distances(
        -F.normalize(q[known]) @ F.normalize(g).T,
        query[known],
        gallery,
        torch.zeros(int(known.sum())),
        torch.ones(len(gallery)),
        camera_rule="none",
        max_rank=len(gallery),
        average_precision="trapezoid",
    )
    # The published code counts a query without a match as a failure; ours names it and leaves it out.
    share = float(known.float().mean())
    return torch.as_tensor(found.cmc) * share if kind == "cmc" else found.mAP * share


test_array = golden.test()


@pytest.mark.parametrize("positions", ["value", "axial"])
def test_positions_of_maps_that_are_not_square(positions):
    torch.manual_seed(0)
    module = SpatialAttention(16, (5, 3), positions)
    torch.nn.init.ones_(module.gamma)
    assert module(torch.randn(2, 16, 5, 3)).isfinite().all()
