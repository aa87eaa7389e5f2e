"""PCB and RPP against syfafterzy/PCB_RPP_for_reID@e29cf54; what the arrays are: pcb/README.md."""

from functools import cache

import torch

from loss import CrossEntropyLabelSmooth
from model.backbones.resnet import SHAPES, ResNet
from model.base import Batch, Progress
from model.layers.parts import stripe_means
from model.methods.pcb import GROUP, PCB
from tests.parity.methods.kit import GivenMap, Golden, load_published

golden = Golden("pcb")
AT = Progress(2, 1, 1)


@cache
def published(kind):
    manifests = ["manifest", "manifest_rpp"][: 1 + (kind == "rpp")]
    return golden.state(*manifests) | {"base.fc.weight": torch.zeros(1)}


def build(kind, backbone=None):
    meta = golden.meta
    assert meta["mask_channel_group"] == GROUP
    state = published(kind)
    if backbone is None:
        backbone = ResNet(SHAPES["resnet50"], tuple(golden.input(meta["image"]).shape[2:]))
    else:
        state = {name: t for name, t in state.items() if not name.startswith("base.")}
    options = {"parts": meta["parts"], "reduced": len(state["feat_bn2d.bias"]), "rpp": kind == "rpp", "dropout": 0.0}
    method = PCB(backbone, meta["num_classes"], **options)
    return method, load_published(method, state)


def trained_on(method, images, labels):
    """Outputs, logits and loss of one step in train mode, behind its backward pass."""
    outputs = method.train()(Batch(images), AT)
    logits = method.logits(outputs)
    method.logits = lambda _: logits  # computed once, as the running statistics count it
    loss = sum(method.losses(outputs, labels, AT)[0].values())
    loss.backward()
    return {f"logits.{i}": score for i, score in enumerate(logits)} | {"loss": loss, "stripes": outputs["stripes"]}


@cache
def evaluated(kind):
    method = build(kind)[0].eval()
    images = golden.input(golden.meta["image"])
    with torch.no_grad():
        found = {"feature": method.embed(method(Batch(images)))}
        if kind == "rpp":
            found["mask"] = method.masks(method.image_encoder(images)["map"])
    return found


@cache
def trained(kind):
    method, names = build(kind)
    golden.only_stored_gradients(method, names, f"{kind}.train")
    images = golden.input(golden.meta["train_image"])
    recorded, masks = [], method.masks
    method.masks = lambda maps: recorded.append(masks(maps)) or recorded[-1]
    found = trained_on(method, images, golden.labels("train_labels"))
    return method, names, found | {"mask": recorded[0] if recorded else None}


@cache
def on_map(kind, size):
    maps = golden.input(f"map.{size}").requires_grad_()
    method = build(kind, GivenMap(maps.shape[1]))[0]
    found = trained_on(method, maps, golden.labels("head_labels"))
    feature = method.embed({"stripes": found["stripes"]}).unflatten(1, (maps.shape[1], -1))
    found |= {"grad": maps.grad, "feature": feature}
    if kind == "rpp":
        found["mask"] = method.masks(maps)
    return found


@golden.array(r"(pcb|rpp)\.eval\.(.*)")
def eval_mode(kind, array):
    return evaluated(kind)[array]


@golden.array(r"(pcb|rpp)\.train\.(mask|loss|logits\.\d+)")
def train_mode(kind, array):
    return trained(kind)[2][array]


@golden.array(r"(pcb|rpp)\.train\.grad\.(.*)")
def gradients(kind, source):
    method, names, _ = trained(kind)
    return method.get_parameter(names[source]).grad


@golden.array(r"(pcb|rpp)\.train\.(running_mean|running_var|num_batches_tracked)\.(.*)")
def statistics(kind, buffer, layer):
    method, names, _ = trained(kind)
    return method.get_buffer(names[f"{layer}.{buffer}"])


@golden.array(r"(pcb|rpp)\.head\.(\d+x\d+)\.(.*)")
def heads(kind, size, array):
    return on_map(kind, size)[array]


@golden.array(r"pool\.(adaptive|official)\.(\d+x\d+)")
def pooling(kind, size):
    return stripe_means(golden.input(f"map.{size}"), golden.meta["parts"], kind == "adaptive")


@golden.array(r"loss\.ce_sum(?:\.grad(\d+))?")
def losses(index):
    logits = [golden.input(f"loss.logits{i}").requires_grad_() for i in range(golden.meta["parts"])]
    method = PCB(GivenMap(16), golden.meta["num_classes"], parts=len(logits))
    method.logits = lambda _: logits
    loss = sum(method.losses({}, golden.labels("loss_labels"), AT)[0].values())
    loss.backward()
    return loss if index is None else logits[int(index)].grad


test_array = golden.test()


def test_smoothing_and_weight_reach_the_loss():
    method = PCB(GivenMap(16), 3, parts=2, smoothing=0.1, id_weight=0.5)
    logits, labels = torch.randn(2, 4, 3), torch.tensor([0, 1, 2, 0])
    method.logits = lambda _: list(logits)
    terms = method.losses({}, labels, AT)[0]
    expected = [0.5 * CrossEntropyLabelSmooth(0.1)(score, labels) for score in logits]
    assert [terms["id0"], terms["id1"]] == expected


def test_the_first_stage_of_rpp_trains_pcb_and_the_masks_may_train_alone():
    method = PCB(ResNet(SHAPES["resnet-tiny"], (96, 32)), 3, parts=3, rpp=True, mask_epochs=2).eval()
    batch = Batch(torch.randn(2, 3, 96, 32))
    plain = stripe_means(method.image_encoder(batch.images)["map"], 3)
    assert torch.equal(method(batch, Progress(1, 1, 1))["stripes"], plain)
    assert not torch.allclose(method(batch, Progress(2, 1, 1))["stripes"], plain)
    for stage, expected in ((1, plain), (2, method(batch, Progress(2, 1, 1))["stripes"])):
        method.begin_epoch(None, Progress(stage, 1))
        assert torch.equal(method(batch)["stripes"], expected)
    trains = {n.split(".")[0] for n, _ in method.named_parameters() if not n.startswith(method.frozen(Progress(2, 2)))}
    assert trains == {"local_mask"}
    assert method.frozen(Progress(2, 3)) == method.frozen(Progress(1, 1)) == ()
    assert method.rate("local_mask.weight", 1, None) is None
