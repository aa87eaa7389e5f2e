"""RGA-SC against microsoft/Relation-Aware-Global-Attention-Networks@cdc9965; what the arrays are: rga_net/README.md."""

from functools import cache

import pytest
import torch

from configs import load_config
from loss import CrossEntropyLabelSmooth, TripletLoss
from model.backbones.resnet import SHAPES, ResNet
from model.base import Batch, Progress
from model.layers.relation import RelationAttention, RelationGate
from model.methods.rga_net import RGANet
from tests.parity.methods.kit import Golden, load_published, multistep_rates

golden = Golden("rga_net")
AT = Progress(2, 1, 1)
BRANCHES = {"rgasc": "both", "rgas": "spatial", "rgac": "channel", "sc": "both", "s": "spatial", "c": "channel"}


@cache
def published():
    return {name: t for name, t in golden.state().items() if not name.startswith("mod_")}


def build():
    meta = golden.meta
    size = tuple(meta["input"])
    method = RGANet(
        ResNet(SHAPES["resnet50"], size),
        meta["num_classes"],
        size,
        branch=BRANCHES[meta["branch"]],
        smoothing=meta["label_smoothing"],
        margin=meta["triplet_margin"],
    )
    assert list(meta["ratios"].values()) == [8, 8, 8]  # the defaults
    return method, load_published(method, published())


@cache
def evaluated():
    method, _ = build()
    found, seen = {}, {}

    def look(number):
        def hook(module, inputs, output):
            before, after = inputs[0].detach(), output.detach()
            found[f"att{number}_in_mean"], found[f"att{number}_out_mean"] = before.mean((2, 3)), after.mean((2, 3))
            found[f"att{number}_ratio"] = (after.sum(1) / before.sum(1)).flatten(1)

        return hook

    for number, attention in enumerate(method.attentions, 1):
        attention.register_forward_hook(look(number))
    with torch.no_grad():
        seen = method.eval()(Batch(golden.input("image")))
        found["feat_prebn"], found["feat_bn"] = seen["feature"], method.embed(seen)
    return found


@cache
def trained():
    method, names = build()
    golden.only_stored_gradients(method.train(), names)
    outputs = method(Batch(golden.input("image_train")), AT)
    behind = method.bottleneck(outputs["feature"])
    method.bottleneck.register_forward_hook(lambda *_: behind)  # the losses read this one
    before = {name: buffer.clone() for name, buffer in method.named_buffers()}
    terms, _ = method.losses(outputs, golden.input("labels_train"), AT)
    sum(terms.values()).backward()
    found = {"feat_prebn": outputs["feature"], "feat_bn": behind, "logits": method.classifier(behind)}
    return method, names, before, found | {f"loss_{name}": term for name, term in terms.items()}


@golden.array("eval_(.*)")
def eval_mode(kind):
    return evaluated()[kind]


@golden.array("train_(.*)")
def train_mode(kind):
    return trained()[3][kind]


@golden.array("(after_.*)")
def statistics(name):
    _, names, buffers, _ = trained()
    return buffers[names[golden.source(name)]]


@golden.array("(grad_.*)")
def gradients(name):
    method, names, *_ = trained()
    return method.get_parameter(names[golden.source(name)]).grad


@golden.array("mod_(s|c|sc)_(eval|train)_(y|gx)")
def module(branch, mode, kind):
    x, ratios = golden.input("mod_x").requires_grad_(), golden.meta["mod_ratios"]
    one = RelationAttention(
        x.shape[1], x.shape[2] * x.shape[3], BRANCHES[branch], (ratios["channel"], ratios["spatial"], ratios["down"])
    )
    prefix = f"mod_{branch}."
    state = {f"backbone.rga_att1.{n.removeprefix(prefix)}": t for n, t in golden.state(prefix=prefix).items()}
    one.load_state_dict({n.removeprefix("attentions.0."): t for n, t in RGANet.rename(state).items()})
    y = one.train(mode == "train")(x)
    (golden.input("mod_gy") * y).sum().backward()
    return {"y": y, "gx": x.grad}[kind]


@golden.array("loss_(ce_ls|triplet)(_gx)?")
def loss(kind, gradient):
    meta, labels = golden.meta, golden.input("loss_labels")
    x = golden.input({"ce_ls": "loss_logits", "triplet": "loss_feat"}[kind]).requires_grad_()
    criterion = (
        CrossEntropyLabelSmooth(meta["label_smoothing"]) if kind == "ce_ls" else TripletLoss(meta["triplet_margin"])
    )
    value = criterion(x, labels)
    value.backward()
    return x.grad if gradient else value


@golden.array("lr_by_epoch")
def rates():
    lr, cfg = golden.meta["lr"], load_config("configs/person/rga_net.yml")[0]
    solver = cfg.SOLVER.STAGE2
    assert lr["epochs"] == solver.MAX_EPOCHS and cfg.DATALOADER.EPOCH == "identities"
    return multistep_rates(solver.BASE_LR, solver)


test_array = golden.test()


def test_the_bias_of_the_neck_does_not_train():
    solver = load_config("configs/person/rga_net.yml")[0].SOLVER.STAGE2
    method = RGANet(ResNet(SHAPES["resnet-tiny"], (64, 64)), 3, (64, 64))
    assert [n for n, _ in method.named_parameters() if method.rate(n, 2, solver) is None] == ["bottleneck.bias"]


def test_relations_without_their_matrix_are_those_of_the_paper():
    """Against a loop over all pairs of nodes in float64."""
    torch.manual_seed(0)
    gate = RelationGate(6, 5, 2, 2, 2).double().eval()
    x = torch.randn(2, 6, 5, dtype=torch.float64)
    theta, phi = (embed(x[..., None])[..., 0] for embed in (gate.theta, gate.phi))
    rows = []
    for p in range(5):
        outgoing = [(theta[:, :, p] * phi[:, :, k]).sum(1) for k in range(5)]
        incoming = [(theta[:, :, k] * phi[:, :, p]).sum(1) for k in range(5)]
        rows.append(torch.stack(outgoing + incoming, dim=1))
    related = gate.gg(torch.stack(rows, dim=2)[..., None])
    own = gate.gx(x[..., None]).mean(1, keepdim=True)
    expected = gate.W(torch.cat([own, related], dim=1)).sigmoid()[..., 0]
    torch.testing.assert_close(gate(x), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("size", "branch"), [((96, 96), "both"), ((100, 52), "spatial"), ((64, 64), "channel")])
def test_any_image_size(size, branch):
    method = RGANet(ResNet(SHAPES["resnet-tiny"], size), 3, size, branch=branch).eval()
    assert method.test_feature(Batch(torch.zeros(1, 3, *size))).shape == (1, 256)
