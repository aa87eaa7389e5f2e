"""OSNet, IBN and AIN against torchreid, in float64 as its README says; what the arrays are: osnet/README.md."""

from functools import cache

import pytest
import torch
from torch import nn

from loss import CrossEntropyLabelSmooth
from model.backbones.osnet import BEHIND, INSIDE, SHAPES, OSBlock, OSNet, own_names
from model.base import Batch, Progress
from model.layers.light import Gate, LightConv
from model.methods.osnet import OSNetClassifier
from tests.parity.methods.kit import Golden, load_published

golden = Golden("osnet")
AT = Progress(2, 1, 1)
WIDE = torch.float64
MODULES = {
    "light": lambda: LightConv(16),
    "gate": lambda: Gate(32),
    "block": lambda: OSBlock(64, 128),
    "block_same": lambda: OSBlock(128, 128),
    "block_ibn": lambda: OSBlock(64, 128, BEHIND),
    "ain_block": lambda: OSBlock(64, 128),
    "ain_block_inin": lambda: OSBlock(64, 128, INSIDE),
}


def build(model):
    prefix = f"{model}."
    state = golden.state(golden.meta["manifests"][model].removesuffix(".json"), prefix=prefix, dtype=WIDE)
    size = tuple(golden.input(golden.meta["image"]).shape[2:])
    smoothing = golden.meta["label_smoothing"]
    method = OSNetClassifier(OSNet(SHAPES[model], size), golden.meta["num_classes"], smoothing=smoothing).to(WIDE)
    return method, load_published(method, {n.removeprefix(prefix): t for n, t in state.items()})


@golden.array(r"(osnet_\w+)\.eval\.(feature|map)")
def eval_mode(model, array):
    network = build(model)[0].eval().image_encoder
    with torch.no_grad():
        return network(golden.input(golden.meta["image"], WIDE))[array]


@cache
def trained(model):
    method, names = build(model)
    golden.only_stored_gradients(method.train(), names, f"{model}.")
    outputs = method(Batch(golden.input(golden.meta["train_image"], WIDE)), AT)
    feature = method.embed(outputs)
    method.embed = lambda _: feature  # computed once, as the statistics count it
    terms = method.losses(outputs, golden.labels("train_labels"), AT)[0]
    if terms["id"].requires_grad:
        terms["id"].backward()
    return method, names, {"feature": feature, "logits": method.scores(outputs), "loss.xent": terms["id"]}


@golden.array(r"(osnet_\w+)\.train\.(feature|logits|loss\.xent)")
def train_mode(model, array):
    return trained(model)[2][array]


@golden.array(r"((osnet_\w+)\.train\.grad\..*)")
def gradients(array, model):
    method, names, _ = trained(model)
    return method.get_parameter(names[golden.source(array)]).grad


@golden.array(r"((osnet_\w+)\.train\.running_(?:mean|var)\..*)")
def statistics(array, model):
    method, names, _ = trained(model)
    return method.get_buffer(names[golden.source(array)])


@golden.array(r"mod\.(\w+)\.(out|grad|out_eval)")
def modules(name, array):
    module, prefix = MODULES[name]().to(WIDE).train(), f"mod.{name}."
    state = golden.state("manifest_modules", prefix=prefix, dtype=WIDE)
    module.load_state_dict(own_names({n.removeprefix(prefix): t for n, t in state.items()}))
    x = golden.input(golden.meta["module_inputs"][name], WIDE).requires_grad_()
    out = module(x)
    out.square().sum().div(2).backward()
    return {"out": out, "grad": x.grad, "out_eval": module.eval()(x)}[array]


@golden.array(r"loss\.xent(\.grad)?")
def loss(gradient):
    scores = golden.input("loss.logits", WIDE).requires_grad_()
    value = CrossEntropyLabelSmooth(golden.meta["label_smoothing"])(scores, golden.labels("loss_labels"))
    value.backward()
    return scores.grad if gradient else value


test_array = golden.test()


@pytest.mark.parametrize(
    ("name", "millions"),
    [("osnet_x1_0", 2.176), ("osnet_ibn_x1_0", 2.177), ("osnet_ain_x1_0", 2.176), ("osnet_x0_25", 0.209)],
)
def test_parameters(name, millions):
    """As counted in the public code with 13 classes."""
    method = OSNetClassifier(OSNet(SHAPES[name], (64, 32)), 13)
    assert sum(p.numel() for p in method.parameters()) / 1e6 == pytest.approx(millions, abs=5e-4)


def test_streams_share_one_gate():
    assert [type(m) for m in OSBlock(16, 64).modules()].count(Gate) == 1
    assert not any(isinstance(m, nn.InstanceNorm2d) for m in OSBlock(16, 64).modules())
