"""LAGA-Net against MBA-Net's code in its configuration (nathanlem1/MBA-Net@2c6349a); arrays: laga_net/README.md.

No code of LAGA-Net is known. Its triplet loss is ours, and nothing here checks it against the paper.
"""

from functools import cache

import torch
import torch.nn.functional as F

from configs import load_config
from loss import CrossEntropyLabelSmooth, TripletLoss
from model.backbones.resnet import SHAPES, ResNet
from model.base import Batch, Progress
from model.methods.laga_net import LAGANet
from solver.lr_scheduler import multistep_factor
from tests.parity.methods.kit import Golden, load_published

golden = Golden("laga_net")
AT = Progress(2, 1, 1)


@cache
def published():
    return golden.state()


def build():
    """A model in the manifest's state, and own names by published ones."""
    meta = golden.meta
    assert meta["part_v"] == 1 and meta["use_attention"]
    backbone = ResNet(SHAPES["resnet50"], tuple(meta["input"]))
    options = {"stripes": meta["part_h"], "dropout": 0.0, "smoothing": meta["label_smoothing"]}
    method = LAGANet(backbone, meta["num_classes"], **options)
    aliases = {name: published()[own] for name, own in golden.manifest()["aliases"].items()}
    names = load_published(method, aliases | published())
    assert method.heads == meta["heads"]
    return method, names


@cache
def evaluated():
    method, _ = build()
    method.eval()
    images = golden.input("image")
    with torch.no_grad():
        outputs, mirrored = (method(Batch(x)) for x in (images, images.flip(3)))
        feature, other = method.embed(outputs), method.embed(mirrored)
        return {
            "feature": feature,
            "feature_flip_sum_l2": F.normalize(feature + other),
            "logits": torch.stack(method.logits(outputs)),
        }


@cache
def trained():
    method, names = build()
    golden.only_stored_gradients(method.train(), names)
    outputs, labels = method(Batch(golden.input("image_train")), AT), golden.input("labels_train")
    logits = method.logits(outputs)
    method.logits = lambda _: logits  # computed once, as the running statistics count it
    terms, _ = method.losses(outputs, labels, AT)
    terms["id"].backward(retain_graph=True)
    found = {"logits": torch.stack(logits), "feature": method.embed(outputs), "loss": terms["id"]}
    triplets = [TripletLoss(0.3)(outputs[head], labels) for head in ("g", "s", "c")]
    torch.testing.assert_close(terms["triplet"], sum(triplets))
    return method, names, found


@golden.array("eval_(.*)")
def eval_mode(kind):
    return evaluated()[kind]


@golden.array("train_(.*)")
def train_mode(kind):
    return trained()[2][kind]


@golden.array("(after_.*)")
def statistics(name):
    method, names, _ = trained()
    return method.get_buffer(names[golden.source(name)])


@golden.array("(grad_.*)")
def gradients(name):
    method, names, _ = trained()
    return method.get_parameter(names[golden.source(name)]).grad


@golden.array("loss_(value|gx)")
def loss(kind):
    logits = golden.input("loss_logits").requires_grad_()
    criterion = CrossEntropyLabelSmooth(golden.meta["label_smoothing"])
    value = sum(criterion(head, golden.input("loss_labels")) for head in logits)
    value.backward()
    return {"value": value, "gx": logits.grad}[kind]


@golden.array("lr_(new|backbone)_by_epoch")
def rates(part):
    # The published code counts epochs from 0, ours from 1.
    lr, solver = golden.meta["lr"], load_config("configs/hand/laga_net.yml")[0].SOLVER.STAGE2
    assert lr["epochs"] == solver.MAX_EPOCHS
    rate = LAGANet.rate(None, {"new": "blocks.g.0.weight", "backbone": "image_encoder.conv1.weight"}[part], 2, solver)
    schedule = {
        "milestones": solver.STEPS,
        "gamma": solver.GAMMA,
        "warmup_factor": solver.WARMUP_FACTOR,
        "warmup_iters": solver.WARMUP_ITERS,
        "warmup_method": solver.WARMUP_METHOD,
    }
    return torch.tensor([rate.lr * multistep_factor(e, **schedule) for e in range(lr["epochs"])])


test_array = golden.test()
