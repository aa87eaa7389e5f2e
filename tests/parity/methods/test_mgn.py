"""MGN against public code, in float64 as its README says; what the arrays are: mgn/README.md."""

from functools import cache

import torch
import torch.nn.functional as F

from model.backbones.resnet import SHAPES, ResNet
from model.base import Batch, Progress
from model.methods.mgn import MGN, ORDER
from tests.parity.methods.kit import Golden, load_published

golden = Golden("mgn")
AT = Progress(2, 1, 1)
WIDE = torch.float64


@cache
def published():
    return golden.state(dtype=WIDE)


def build(shared=False, ce_dim=256):
    meta, state = golden.meta, published()
    assert meta["order"] == list(ORDER)
    if shared:
        state = {n: t for n, t in state.items() if not n.startswith("reduction_") or n.startswith("reduction_0.")}
    if ce_dim == 2048:
        state = {n: t for n, t in state.items() if not n.startswith("fc_id_2048")}
        paper = golden.state("manifest_paper2048", dtype=WIDE)
        state |= {name.removeprefix("paper."): t for name, t in paper.items()}
    backbone = ResNet(SHAPES["resnet50"], tuple(golden.input(meta["image"]).shape[2:]))
    losses = {"triplet_weight": meta["weights"]["triplet"], "id_weight": meta["weights"]["ce"]}
    losses |= {"margin": meta["triplet_margin"], "smoothing": 0.0}
    method = MGN(backbone, meta["num_classes"], shared=shared, ce_dim=ce_dim, **losses)
    return method.to(WIDE), load_published(method, state)


@cache
def pooled():
    """Outputs on the images, their mirror images and the training images: the same with any heads."""
    method, _ = build()
    images = golden.input(golden.meta["image"], WIDE)
    with torch.no_grad():
        plain, mirrored = (method.eval()(Batch(x)) for x in (images, images.flip(3)))
    return plain, mirrored


@cache
def trained(shared, ce_dim=256):
    method, names = build(shared, ce_dim)
    golden.only_stored_gradients(method.train(), names)
    outputs = method(Batch(golden.input(golden.meta["train_image"], WIDE)), AT) if not shared else trained(False)[3]
    reduced = method.reduce(outputs)
    scores = method.logits(outputs, reduced)
    method.reduce, method.logits = lambda _: reduced, lambda *_: scores  # computed once, as the statistics count it
    terms = method.losses(outputs, golden.labels("train_labels"), AT)[0]
    total = sum(terms.values())
    if not shared:
        total.backward(retain_graph=True)
    found = {f"logits.{name}": score for name, score in zip(ORDER, scores, strict=True)} | {
        "features": torch.cat(reduced, 1),
        "loss.triplet": terms["triplet"] / method.triplet_weight,
        "loss.ce": terms["id"] / method.id_weight,
        "loss.2triplet_plus_ce": total,
    }
    return method, names, found, outputs


@golden.array(r"(separate|shared)\.eval\.(feature|flip_normalised)")
def eval_mode(kind, array):
    method = build(kind == "shared")[0].eval()
    with torch.no_grad():
        plain, mirrored = (method.embed(outputs) for outputs in pooled())
    return plain if array == "feature" else F.normalize(plain + mirrored)


@golden.array(r"(separate|shared)\.train\.(features|logits\.\w+|loss\.\w+)")
def train_mode(kind, array):
    return trained(kind == "shared")[2][array]


@golden.array(r"train\.pooled\.maxpool_(\w+)")
def max_pooling(vector):
    rows = [ORDER.index(name) for name in golden.meta["pooled"][vector]]
    return trained(False)[3]["pooled"][:, :, rows]


@golden.array(r"paper2048\.train\.logits\.(\w+)")
def classifiers_of_the_paper(part):
    method = build(ce_dim=2048)[0].train()
    outputs = trained(False)[3]
    return method.logits(outputs, method.reduce(outputs))[ORDER.index(part)]


@golden.array(r"separate\.train\.grad\.(.*)")
def gradients(source):
    method, names, *_ = trained(False)
    return method.get_parameter(names[source]).grad


@golden.array(r"((?:separate|shared)\.train\.(?:running_mean|running_var|num_batches_tracked)\..*)")
def statistics(name):
    method, names, *_ = trained(name.startswith("shared"))
    return method.get_buffer(names[golden.source(name)])


@golden.array(r"loss\.(triplet|ce)(?:\.grad(\d+))?")
def losses(kind, index):
    backbone, margin = ResNet(SHAPES["resnet-tiny"], (96, 96)), golden.meta["triplet_margin"]
    method = MGN(backbone, golden.meta["num_classes"], margin=margin, smoothing=0.0)
    features = [golden.input(f"loss.feat{i}", WIDE).requires_grad_() for i in range(3)]
    scores = [golden.input(f"loss.logits{i}", WIDE).requires_grad_() for i in range(len(ORDER))]
    method.reduce, method.logits = lambda _: features, lambda *_: scores
    terms = method.losses({}, golden.labels("loss_labels"), AT)[0]
    value = {"triplet": terms["triplet"] / method.triplet_weight, "ce": terms["id"] / method.id_weight}[kind]
    value.backward()
    return value if index is None else {"triplet": features, "ce": scores}[kind][int(index)].grad


test_array = golden.test()


def test_branches_start_as_copies_and_the_first_is_coarser():
    backbone = ResNet(SHAPES["resnet-tiny"], (96, 96))
    method = MGN(backbone, 3)
    for branch in method.branches.values():
        assert all(torch.equal(a, b) for a, b in zip(branch[1].parameters(), backbone.layer4.parameters(), strict=True))
        assert branch[1] is not backbone.layer4
    x = torch.zeros(1, 128, 6, 6)
    assert [tuple(method.branches[name](x).shape[2:]) for name in ("p1", "p3")] == [(3, 3), (6, 6)]
    assert tuple(backbone.layer4(x).shape[2:]) == (6, 6)
