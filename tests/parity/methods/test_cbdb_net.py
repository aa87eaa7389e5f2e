"""CBDB-Net against hongchenphd/CBDB-Net@8ff6dc2; what the arrays are: cbdb_net/README.md."""

from functools import cache

import pytest
import torch

from loss import CrossEntropyLabelSmooth, TripletLoss
from model.backbones.resnet import SHAPES, ResNet
from model.base import Batch, Progress
from model.methods.cbdb_net import CBDBNet, ElasticTripletLoss, rows_kept
from tests.parity.methods.kit import GivenMap, Golden, load_published

golden = Golden("cbdb_net")
AT = Progress(2, 1, 1)


@cache
def published():
    return golden.state()


def build():
    meta = golden.meta
    method = CBDBNet(
        ResNet(SHAPES["resnet50"], tuple(meta["input_size"])),
        meta["num_classes"],
        strips=meta["drop"]["strips"],
        smoothing=meta["label_smoothing"],
        extra_weight=meta["extra_weight"],
        margin=meta["triplet_margin"],
    )
    return method, load_published(method, published())


@cache
def evaluated():
    method, found = build()[0].eval(), {}
    method.image_encoder.layer3.register_forward_hook(lambda module, args, out: found.update(map=out))
    with torch.no_grad():
        outputs = method(Batch(golden.input("image")))
        found["feat"] = method.embed(outputs)
    assert list(outputs) == ["complete"]
    return found | {"layer3_mean": found["map"].mean((2, 3)), "layer3_rows": found["map"].mean((1, 3))}


@cache
def trained():
    method, names = build()
    recorded, reduce = [], method.reduce
    method.train().reduce = lambda pooled: recorded.append(reduce(pooled)) or recorded[-1]
    outputs = method(Batch(golden.input("train_image")), AT)
    loss = sum(method.losses(outputs, golden.labels("train_labels"), AT)[0].values())
    loss.backward()
    complete, *features = recorded
    found = {f"feat_{i}": feature for i, feature in enumerate(features)}
    found |= {f"score_{i}": method.classifier(feature) for i, feature in enumerate(features)}
    return method, names, found | {"complete": complete, "loss": loss[None]}


@golden.array(r"eval\.(.*)")
def eval_mode(array):
    return evaluated()[array]


@golden.array(r"train\.(feat_\d+|score_\d+|loss)")
def train_mode(array):
    return trained()[2][array]


@golden.array(r"train\.grad_lognorms")
def gradient_norms():
    method, names, _ = trained()
    norms = [method.get_parameter(names[name]).grad.norm() for name in golden.meta["grad_names"]]
    found = torch.stack(norms).log()
    for i, name in enumerate(golden.meta["grad_names"]):
        if name in golden.meta["zero_grad_names"]:  # rounding noise, whose logarithm means nothing
            assert norms[i] < golden.meta["zero_grad_atol"]
            found[i] = float(golden.stored["train.grad_lognorms"][i])
    return found


@golden.array(r"train\.grad\.(.*)")
def gradients(source):
    method, names, _ = trained()
    return method.get_parameter(names[source]).grad


@golden.array(r"(train\.after\..*)")
def statistics(name):
    method, names, _ = trained()
    found = method.get_buffer(names[golden.source(name)])
    return found[None] if found.dim() == 0 else found


@golden.array(r"drop\.(\d+)_rows_kept")
def dropped_rows(strip):
    drop = golden.meta["drop"]
    return rows_kept(drop["map"][0], drop["strips"], whole=False)[int(strip) - 1]


golden.refuse(r"drop\.short_map_(rows_kept|cols)", "the README keeps them as a warning, not as a target: literal rows")


@golden.array(r"loss\.(soft|elastic_m03|extra)(\.grad)?")
def triplets(kind, gradient):
    meta, feature = golden.meta, golden.input("loss_feature").requires_grad_()
    criterion = ElasticTripletLoss(meta["elastic_margin"]) if kind == "elastic_m03" else TripletLoss(None)
    value = criterion(feature, golden.labels("loss_labels")) * (meta["extra_weight"] if kind == "extra" else 1)
    value.backward()
    return feature.grad if gradient else value[None]


@golden.array(r"loss\.dist_(ap|an)")
def distances(kind):
    found = TripletLoss(None).hardest_distances(golden.input("loss_feature"), golden.labels("loss_labels"))
    return found[("ap", "an").index(kind)]


@golden.array(r"loss\.ce_smooth(\.grad)?")
def cross_entropy(gradient):
    score = golden.input("loss_score").requires_grad_()
    value = CrossEntropyLabelSmooth(golden.meta["label_smoothing"])(score, golden.labels("loss_labels"))
    value.backward()
    return score.grad if gradient else value[None]


test_array = golden.test()


@pytest.mark.parametrize(("height", "strips"), [(24, 6), (16, 6), (14, 6), (7, 3)])
def test_strips_cover_every_map(height, strips):
    assert rows_kept(height, strips, whole=True).sum(0).tolist() == [strips - 1] * height
    assert (rows_kept(height, strips, whole=False).sum(1) < height).all()


def test_elastic_loss_of_a_batch_without_negatives_is_0():
    features = torch.randn(4, 5, requires_grad=True)
    for margin in (None, 0.3):
        loss = ElasticTripletLoss(margin)(features, torch.zeros(4, dtype=torch.long))
        loss.backward()
        assert loss == 0
    assert torch.equal(features.grad, torch.zeros(4, 5))


def test_the_weights_reach_their_losses_and_the_map_is_dropped_in_training_alone():
    method = CBDBNet(
        GivenMap(8), 3, strips=2, reduced=4, whole=True, id_weight=0.0, triplet_weight=0.0, extra_weight=1.0
    )
    batch, labels = Batch(torch.randn(4, 8, 6, 3)), torch.tensor([0, 0, 1, 1])
    outputs = method(batch, AT)
    torch.testing.assert_close(outputs["dropped"][:, :, 0], batch.images[:, :, 3:].sum((2, 3)) / 18)
    terms = method.losses(outputs, labels, AT)[0]
    assert [terms["id"].item(), terms["triplet"].item()] == [0, 0]
    assert terms["extra"] > 0
    assert list(method.eval()(batch)) == ["complete"]
