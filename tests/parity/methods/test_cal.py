"""CAL against raoyongming/CAL@0ba9d50, in float64 as its README says; what the arrays are: cal/README.md."""

from functools import cache

import pytest
import torch

from loss import TripletLoss
from model.backbones.resnet import SHAPES, ResNet
from model.base import Batch, Progress
from model.methods.cal import CAL, Gate, Heads, SplitAttention, bilinear_pooling
from tests.parity.methods.kit import GivenMap, Golden, load_published

golden = Golden("cal")
AT = Progress(2, 1, 1)
WIDE = torch.float64


def build(**options):
    meta = golden.meta
    backbone = ResNet(SHAPES["resnet50"], tuple(golden.input("image").shape[2:]))
    method = CAL(
        backbone,
        meta["num_classes"],
        maps=meta["attention_maps"],
        margin=meta["triplet_margin"],
        smoothing=meta["label_smoothing"],
        **options,
    ).to(WIDE)
    state = golden.state(dtype=WIDE)
    aliases = {name: state[own] for name, own in golden.manifest()["aliases"].items()}
    names = load_published(method, aliases | state)
    assert method.attentions.bn.eps == meta["attention_bn_eps"]
    assert {n for n in meta["param_names"] if method.rate(names[n], 2, SOLVER) is None} == set(meta["frozen"])
    return method, names


class SOLVER:
    """Rates, of which only the missing ones matter."""

    BASE_LR = WEIGHT_DECAY = WEIGHT_DECAY_BIAS = BIAS_LR_FACTOR = NEW_LR_FACTOR = 1.0
    LARGE_FC_LR = False


@cache
def evaluated():
    method = build()[0].eval()
    found = {}

    def keep(name, value):
        found.setdefault(name, value)

    method.attentions.register_forward_hook(lambda module, args, out: keep("attentions", out))
    for i, norm in enumerate(method.norms):
        norm.register_forward_hook(lambda module, args, out, i=i: keep(f"stage{i + 1}_mean", out.mean((2, 3))))
    images = golden.input("image", WIDE)
    with torch.no_grad():
        outputs, mirrored = method(Batch(images)), method(Batch(images.flip(3)))
        assert list(outputs) == ["bap"]
        found["logits"] = method.embed(outputs)
        found["logits_flip_sum"] = found["logits"] + method.embed(mirrored)
        found["global_feat"] = method.classifier_bap(outputs["bap"])
        method.feature = "neck"
        found["feat_bn"] = method.embed(outputs)
    return found


@cache
def trained():
    method, names = build()
    method.train().draw = lambda attention: golden.input("train.fake_att", WIDE)
    outputs = method(Batch(golden.input("train_image", WIDE)), AT)
    heads = method.heads(outputs)
    heads.feature.retain_grad()
    heads.score.retain_grad()
    method.heads = lambda _: heads  # computed once, as the running statistics count it
    terms, _ = method.losses(outputs, golden.input("train.labels"), AT)
    total = sum(terms.values())
    total.backward()
    found = {
        "cls_score": heads.score,
        "cls_score_minus_hat": heads.score - heads.counterfactual,
        "global_feat": heads.feature,
        "losses": torch.stack([terms["id"], terms["triplet"], terms["effect"], total]),
        "grad_global_feat": heads.feature.grad,
        "grad_cls_score": heads.score.grad,
    }
    return method, names, found


@golden.array(r"eval\.(.*)")
def eval_mode(array):
    return evaluated()[array]


@golden.array(r"train(?:64)?\.(cls_\w+|global_feat|losses|grad_global_feat|grad_cls_score)")
def train_mode(array):
    return trained()[2][array]


@golden.array(r"(train(?:64)?\.\w+_running_(?:mean|var))")
def statistics(name):
    method, names, _ = trained()
    return method.get_buffer(names[golden.source(name)])


@golden.array(r"train64\.param_grad_norms")
def gradient_norms():
    method, names, _ = trained()
    frozen = golden.meta["frozen"]
    gradients = [method.get_parameter(names[name]).grad for name in golden.meta["param_names"] if name not in frozen]
    norms = iter([gradient.norm() for gradient in gradients])
    return torch.tensor([0.0 if name in frozen else next(norms) for name in golden.meta["param_names"]], dtype=WIDE)


@golden.array(r"(train64\.grad_(?!global_feat|cls_score).*)")
def gradients(name):
    method, names, _ = trained()
    return method.get_parameter(names[golden.source(name)]).grad


def first(kind, prefix):
    """A module behind the stem in the manifest's state."""
    module = kind(golden.input("mod.x").shape[1]).to(WIDE)
    state = golden.state(prefix=prefix, dtype=WIDE)
    module.load_state_dict({name.removeprefix(prefix): t for name, t in state.items()})
    return module


@golden.array(r"mod\.multiheadatt_(eval|train)(_gradx)?")
def split_attention(mode, gradient):
    x = golden.input("mod.x", WIDE).requires_grad_()
    module = first(SplitAttention, "att_s1.").train(mode == "train")
    y = module(x)
    y.square().sum().backward()
    return x.grad if gradient else y


@golden.array(r"mod\.se_gate")
def gate():
    return first(Gate, "att1.")(golden.input("mod.x", WIDE))


@golden.array(r"bap\.(.*)")
def pooling(array):
    features, attention = (golden.input(f"bap.{name}", WIDE).requires_grad_() for name in ("features", "attentions"))
    factual = bilinear_pooling(features, attention)
    counterfactual = bilinear_pooling(features, torch.ones_like(attention))
    ((factual - counterfactual) * golden.input("bap.w", WIDE)).sum().backward()
    return {
        "factual": factual,
        "counterfactual_eval": counterfactual,
        "counterfactual_fake": bilinear_pooling(features, golden.input("bap.fake", WIDE)),
        "grad_features": features.grad,
        "grad_attentions": attention.grad,
    }[array]


@golden.array(r"loss\.xent_k(\d+)(_grad)?")
def cross_entropy(classes, gradient):
    smoothing = golden.meta["label_smoothing"]
    method = CAL(Stages(), golden.meta["num_classes"], smoothing=smoothing, smoothing_classes=int(classes))
    logits = golden.input("loss.logits", WIDE).requires_grad_()
    value = method.cross_entropy(logits, golden.input("loss.labels"))
    value.backward()
    return logits.grad if gradient else value


@golden.array(r"loss\.triplet(_grad)?")
def triplet(gradient):
    feature = golden.input("loss.feat", WIDE).requires_grad_()
    value = TripletLoss(golden.meta["triplet_margin"])(feature, golden.input("loss.labels"))
    value.backward()
    return feature.grad if gradient else value


class Stages(GivenMap):
    """A backbone of a few channels for the heads alone."""

    def __init__(self):
        super().__init__(64)
        self.bn1 = torch.nn.BatchNorm2d(8)


test_array = golden.test()


def test_random_attention_is_drawn_in_training_alone():
    method = CAL(ResNet(SHAPES["resnet-tiny"], (64, 32)), 3)
    batch = Batch(torch.randn(2, 3, 64, 32))
    first, second = method(batch, AT), method(batch, AT)
    assert not torch.equal(first["fake"], second["fake"])
    assert first["fake"].shape == first["bap"].shape == (2, 8 * method.image_encoder.dims["map"])
    drawn = method.draw(torch.zeros(4, 8, 64, 32))
    assert 0 <= drawn.min() < 0.01
    assert 1.99 < drawn.max() <= 2


def test_the_weights_reach_their_losses():
    torch.manual_seed(0)
    method = CAL(Stages(), 3, id_weight=2.0, triplet_weight=3.0)
    plain = CAL(Stages(), 3)
    heads, labels = Heads(torch.randn(4, 5), torch.randn(4, 3), torch.randn(4, 3)), torch.tensor([0, 0, 1, 1])
    method.heads = plain.heads = lambda _: heads
    terms, expected = method.losses({}, labels, AT)[0], plain.losses({}, labels, AT)[0]
    factors = {"id": 2.0, "effect": 2.0, "triplet": 3.0}
    assert {name: float(terms[name] / expected[name]) for name in terms} == pytest.approx(factors)
