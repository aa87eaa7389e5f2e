"""CDNet against solicucu/ReID@6c5fd57, in float64 as its README says; what the arrays are: cdnet/README.md."""

from functools import cache

import pytest
import torch

from loss import CrossEntropyLabelSmooth, TripletLoss
from model.backbones.cdnet import SHAPES, CDNet
from model.base import Batch, Progress
from model.methods.cdnet import BRANCHES, CDNetReID
from tests.parity.methods.kit import Golden, load_published

golden = Golden("cdnet")
AT = Progress(2, 1, 1)
WIDE = torch.float64


def build():
    size = tuple(golden.manifest()["eval_size"])
    meta = golden.meta
    method = CDNetReID(
        CDNet(SHAPES["cdnet"], size),
        meta["num_classes"],
        dropout=0.0,
        smoothing=meta["label_smoothing"],
        margin=meta["triplet_margin"],
    ).to(WIDE)
    return method, load_published(method, golden.state(dtype=WIDE))


@cache
def evaluated():
    method, found = build()[0].eval(), {}
    network = method.image_encoder
    for name, module in [("stem", network.maxpool), *((f"cell{i}", cell) for i, cell in enumerate(network.cells))]:
        module.register_forward_hook(lambda _, args, out, name=name: found.update({f"{name}_mean": out.mean((2, 3))}))
    with torch.no_grad():
        feature = method.embed(method(Batch(golden.input("image", WIDE))))
    return found | {"feature": feature}


@golden.array(r"eval\.(.*)")
def eval_mode(array):
    return evaluated()[array]


@cache
def trained():
    method, names = build()
    outputs = method.train()(Batch(golden.input("train_image", WIDE)), AT)
    for output in outputs.values():
        output.retain_grad()
    found = {"stem_running_var": method.image_encoder.stem.bn.running_var.clone()}
    scores, compute = {}, method.scores
    method.scores = lambda name, feature: scores.setdefault(name, compute(name, feature))
    terms = method.losses(outputs, golden.input("train.labels"), AT)[0]
    total = sum(terms.values())
    total.backward()
    order = [f"{kind}_{name}" for name in BRANCHES for kind in ("id", "triplet")]
    found |= {"losses": torch.stack([*(terms[name] for name in order), total])}
    for (name, published), suffix in zip(BRANCHES.items(), ("feat", "feats"), strict=True):
        found |= {f"{published}_scores": scores[name], f"{published}_{suffix}": outputs[name]}
        found |= {f"grad_{published}_{suffix}": outputs[name].grad}
    norms = [method.get_parameter(names[name]).grad.norm() for name in golden.meta["param_names"]]
    return found | {"param_grad_norms": torch.stack(norms)}


@golden.array(r"train(?:64)?\.(.*)")
def train_mode(array):
    return trained()[array]


@golden.array(r"mod\.cblock_(eval|train)(_mean|_gradx|)")
def block(mode, array):
    block = build()[0].train(mode == "train").image_encoder.cells[0][0]
    x = golden.input("mod.x", WIDE).requires_grad_()
    out = block(x)
    out.square().sum().backward()
    return {"_mean": out.mean((2, 3)), "_gradx": x.grad.norm(dim=(2, 3)), "": out}[array]


@golden.array(r"mod\.(adaptive_fuse_mean|downsample)")
def modules(array):
    network = build()[0].eval().image_encoder
    if array == "downsample":
        return network.cells[golden.meta["downsample_cells"][0]](golden.input("mod.xd", WIDE))
    return network.cells[0][0].gate(golden.input("mod.xa", WIDE)).mean((2, 3))


@golden.array(r"loss\.(xent|triplet)(_grad)?")
def losses(kind, gradient):
    criterion, source = (
        (CrossEntropyLabelSmooth(golden.meta["label_smoothing"]), "loss.logits")
        if kind == "xent"
        else (TripletLoss(golden.meta["triplet_margin"]), "loss.feat")
    )
    x = golden.input(source, WIDE).requires_grad_()
    value = criterion(x, golden.input("loss.labels"))
    value.backward()
    return x.grad if gradient else value


golden.refuse(r"search\..*", "architecture search is left out, see docs/methods.md: the published network alone")

test_array = golden.test()


def test_parameters():
    method = build()[0]
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in method.named_children()}
    total, tested = (golden.meta["params_millions"][key] for key in ("training", "without fcs and classifiers"))
    assert sum(counts.values()) / 1e6 == pytest.approx(total, abs=5e-5)
    assert (counts["image_encoder"] + counts["squeeze"]) / 1e6 == pytest.approx(tested, abs=5e-5)


def test_the_network_has_the_published_genotype():
    cells = [cell for stage in SHAPES["cdnet"].stages for cell in stage]
    assert [[*cell.kernels, cell.repeats] for cell in cells] == golden.meta["genotype"]


def test_dropout_is_in_front_of_the_triplet_loss():
    torch.manual_seed(0)
    method = CDNetReID(CDNet(SHAPES["cdnet-tiny"], (64, 32)), 2, dropout=0.9).train()
    labels = torch.tensor([0, 0, 1, 1])
    outputs = method(Batch(torch.randn(4, 3, 64, 32)), AT)
    first, second = (method.losses(outputs, labels, AT)[0] for _ in range(2))
    assert all(first[f"triplet_{name}"] != second[f"triplet_{name}"] for name in BRANCHES)
    method.eval()
    assert torch.equal(*(method.losses(outputs, labels, AT)[0]["triplet_halves"] for _ in range(2)))
