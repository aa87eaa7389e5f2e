"""ABD-Net against VITA-Group/ABD-Net@502305e, in float64 as its README says; what the arrays are: abdnet/README.md."""

from functools import cache

import pytest
import torch

from model.backbones.resnet import SHAPES, ResNet
from model.base import Batch, Progress
from model.layers.attention import ChannelAttention, PositionAttention
from model.methods.abdnet import OF_IMAGES, PARTS, ABDNet, AttentionHead, Penalties, eigenvalue_spread
from tests.parity.methods.kit import Golden, load_published

golden = Golden("abdnet")
WIDE = torch.float64
POSITIONS = ("intermediate", "before", "cam", "pam", "after")


@cache
def published():
    return golden.state(dtype=WIDE)


def build():
    meta = golden.meta
    method = ABDNet(
        ResNet(SHAPES["resnet50"], tuple(golden.input(meta["image"]).shape[2:])),
        meta["num_classes"],
        dropout=0.0,
        head_dropout=0.0,
        smoothing=meta["label_smoothing"],
        margin=meta["triplet_margin"],
        triplet_weight=meta["triplet_weight"],
        penalties=Penalties(meta["of"]["beta"], meta["ow"]["beta"]),
    ).to(WIDE)
    assert meta["of"]["batch_numerator"] == OF_IMAGES
    return method, load_published(method, published())


def given_starts(method, prefix):
    """Make the penalty on maps start from the kit's vectors, in the order of positions and halves."""
    names = [f"{name}.{half}" for name in POSITIONS for half in range(1 if name == "intermediate" else 2)]
    stored = iter(names)

    def starts(maps):
        name = next(stored)
        return tuple(golden.input(f"{prefix}.{name}.{end}", WIDE) for end in ("largest", "smallest"))

    method.map_starts = starts


@cache
def evaluated():
    method = build()[0].eval()
    with torch.no_grad():
        return method.embed(method(Batch(golden.input(golden.meta["image"], WIDE))))


@cache
def trained():
    method, names = build()
    golden.only_stored_gradients(method.train(), names)
    at = Progress(2, method.penalties.of_epoch, 1)
    given_starts(method, "start")
    method.weight_starts = lambda _: tuple(golden.input(f"start.ow.{i}", WIDE) for i in range(2))
    recorded, penalty = {}, method.map_penalty
    method.map_penalty = lambda maps: recorded.update(maps) or penalty(maps)
    outputs = method(Batch(golden.input(golden.meta["train_image"], WIDE)), at)
    assert tuple(recorded) == POSITIONS
    features = method.features(outputs)
    method.features = lambda _: features  # computed once, as the running statistics count it
    terms, _ = method.losses(outputs, golden.labels("train_labels"), at)
    both = terms["id"] + terms["triplet"]
    both.backward()
    scores = [classifier(feature) for classifier, feature in zip(method.classifiers, features, strict=True)]
    found = {f"map.{name}.{i}": half for name, halves in recorded.items() for i, half in enumerate(halves)}
    for name, score, feature in zip(PARTS, scores, features, strict=True):
        found |= {f"logits.{name}": score, f"triplet.{name}": feature}
    htri = terms["triplet"] / method.triplet_weight
    found |= {"loss.xent": terms["id"], "loss.htri": htri, "loss.xent_plus_htri": both}
    return method, names, found | {"loss.of": terms["of"], "loss.ow": terms["ow"]}


@golden.array(r"eval\.feature")
def eval_mode():
    return evaluated()


@golden.array(r"train\.((?:logits|triplet|map|loss)\..*)")
def train_mode(array):
    return trained()[2][array]


@golden.array(r"train\.grad\.(.*)")
def gradients(source):
    method, names, _ = trained()
    return method.get_parameter(names[source]).grad


@golden.array(r"(train\.(?:running_mean|running_var|num_batches_tracked)\..*)")
def statistics(name):
    method, names, _ = trained()
    return method.get_buffer(names[golden.source(name)])


@cache
def module(kind):
    x = golden.input("mod.head_x" if kind.startswith("head") else "mod.x", WIDE).requires_grad_()
    channels = x.shape[1]
    made = {
        "cam": lambda: ChannelAttention(),
        "pam": lambda: PositionAttention(channels),
        "head_cam": lambda: AttentionHead(channels, ChannelAttention(), 0.0),
        "head_pam": lambda: AttentionHead(channels, PositionAttention(channels // 2), 0.0),
        "head_identity": lambda: AttentionHead(channels, torch.nn.Identity(), 0.0),
    }[kind]().to(WIDE)
    prefix = f"mod.{kind}."
    state = golden.state("manifest_modules", prefix=prefix, dtype=WIDE)
    made.load_state_dict({name.removeprefix(prefix): t for name, t in state.items()})
    y = made(x)
    (y.square().sum() / 2).backward()
    return {"out": y, "grad": x.grad, "out_eval": made.eval()(x)}


@golden.array(r"mod\.(\w+)\.(out|grad|out_eval)")
def modules(kind, array):
    return module(kind)[array]


def small(**options):
    meta = golden.meta
    margin = {"margin": meta["triplet_margin"], "triplet_weight": meta["triplet_weight"]}
    return ABDNet(ResNet(SHAPES["resnet-tiny"], (64, 32)), meta["num_classes"], **margin, **options)


@golden.array(r"loss\.(xent|htri|total_xent_htri)(?:\.grad(\d+))?")
def identity_losses(kind, index):
    scores = [golden.input(f"loss.logits{i}", WIDE).requires_grad_() for i in range(3)]
    features = [golden.input(f"loss.feat{i}", WIDE).requires_grad_() for i in range(3)]
    method = small(smoothing=golden.meta["label_smoothing"])
    terms = method.identity_terms(scores, features, golden.labels("loss_labels"))
    values = {"xent": terms["id"], "htri": terms["triplet"] / method.triplet_weight}
    value = values.get(kind, sum(terms.values()))
    value.backward()
    return value if index is None else {"xent": scores, "htri": features}[kind][int(index)].grad


@golden.array(r"loss\.of_beta1(?:\.grad\.(.*))?")
def map_penalty(gradient):
    counts = {name: 1 if name == "intermediate" else 2 for name in POSITIONS}
    maps = {
        name: [golden.input(f"loss.fmap.{name}.{i}", WIDE).requires_grad_() for i in range(count)]
        for name, count in counts.items()
    }
    method = small(penalties=Penalties(of_beta=golden.meta["of"]["small_case_beta"]))
    given_starts(method, "loss.start")
    outputs = {"of": method.map_penalty(maps)}
    count = len(outputs["of"])
    method.features = lambda _: [torch.ones(count, 128, dtype=WIDE)] * 3
    value = method.to(WIDE).losses(outputs, torch.arange(count), Progress(2, 1))[0]["of"]
    value.backward()
    if gradient is None:
        return value
    name, half = gradient.split(".")
    return maps[name][int(half)].grad


@golden.array(r"loss\.ow_beta1\.(square|point)(\.grad)?")
def weight_penalty(kind, gradient):
    weight = golden.input({"square": "loss.ow_weight", "point": "loss.ow_weight_1x1"}[kind], WIDE).requires_grad_()
    method = small()
    ends = ("largest", "smallest")
    method.weight_starts = lambda _: tuple(golden.input(f"loss.start.ow.{kind}.{end}", WIDE) for end in ends)
    value = golden.meta["ow"]["small_case_beta"] * method.weight_penalty(weight)
    value.backward()
    return weight.grad if gradient else value


test_array = golden.test()


def test_power_steps_from_eigenvectors_give_the_eigenvalues():
    rows = torch.randn(3, 5, 9, dtype=WIDE)
    values, vectors = torch.linalg.eigh(rows @ rows.transpose(1, 2))
    spread = eigenvalue_spread(rows, vectors[:, :, -1:], vectors[:, :, :1])
    torch.testing.assert_close(spread, values[:, -1] - values[:, 0])


def test_stage_1_trains_what_is_new_and_has_no_penalties():
    method, labels = small(penalties=Penalties(of_epoch=2)).train(), torch.tensor([0, 0, 1, 1])
    batch = Batch(torch.randn(4, 3, 64, 32))
    rates = {n.split(".")[0] for n, _ in method.named_parameters() if method.rate(n, 1, SOLVER) is not None}
    assert rates == {"shallow_cam", "fc", "reduction", "heads", "sum_conv", "classifiers"}
    assert method.frozen(Progress(1, 1)) == ("image_encoder.", "abd_layer4.")
    for at, expected in {
        Progress(1, 5, 1): {"id", "triplet"},
        Progress(2, 1, 1): {"id", "triplet", "ow"},
        Progress(2, 2, 1): {"id", "triplet", "ow", "of"},
    }.items():
        assert set(method.losses(method(batch, at), labels, at)[0]) == expected


@pytest.mark.parametrize(("where", "count"), [("none", 0), ("stem", 1), ("all", 21)])
def test_convolutions_that_the_penalty_on_weights_reads(where, count):
    # resnet-tiny: the stem, 4 x (3 + shortcut), and the copy of the last stage
    method = small(penalties=Penalties(ow=where))
    assert len(method.penalised_weights()) == count


def test_checkpoints_with_the_branches_in_the_other_order_load():
    swap = {"branches.0.": "branches.1.", "branches.1.": "branches.0."}
    named = dict.fromkeys(e["name"] for e in golden.manifest()["tensors"])
    swapped = {swap.get(name[:11], name[:11]) + name[11:]: None for name in named}
    assert swapped != named
    assert set(ABDNet.rename(swapped)) == set(ABDNet.rename(named))
    assert "abd_layer4.0.conv1.weight" in ABDNet.rename(swapped)


class SOLVER:
    """Rates, of which only the missing ones matter."""

    BASE_LR = WEIGHT_DECAY = WEIGHT_DECAY_BIAS = BIAS_LR_FACTOR = NEW_LR_FACTOR = 1.0
    LARGE_FC_LR = False
