"""Golden arrays that MBA-Net's kit and those of its relatives have in common; all come from MBA-Net's released code."""

from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F

from configs import load_config
from loss import CrossEntropyLabelSmooth
from model.backbones.resnet import SHAPES, ResNet
from model.base import Batch, Progress
from tests.parity.methods.kit import load_published, multistep_rates

AT = Progress(2, 1, 1)


class Trained(NamedTuple):
    """After one step: the method, own names by published ones, and what the step gave."""

    method: object
    names: dict
    found: dict
    outputs: dict
    terms: dict


def register(golden, kind, **options):
    """Say how the common arrays of ``golden`` are computed, with ``kind(backbone, identities, **options)``.

    Returns:
        A function that gives the :class:`Trained` of the kit.
    """

    def build():
        meta = golden.meta
        backbone = ResNet(SHAPES["resnet50"], tuple(meta["input"]))
        method = kind(backbone, meta["num_classes"], dropout=0.0, smoothing=meta["label_smoothing"], **options)
        state = {name: t for name, t in golden.state().items() if not name.startswith("mod_")}
        if not meta.get("use_attention", True):
            state = {name: t for name, t in state.items() if not name.startswith(("sam_att", "cam_att"))}
        aliases = {name: state[own] for name, own in golden.manifest()["aliases"].items()}
        names = load_published(method, aliases | state)
        assert method.heads == meta["heads"]
        return method, names

    @cache
    def evaluated():
        method = build()[0].eval()
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
        outputs = method(Batch(golden.input("image_train")), AT)
        logits = method.logits(outputs)
        method.logits = lambda _: logits  # computed once, as the running statistics count it
        terms, _ = method.losses(outputs, golden.input("labels_train"), AT)
        terms["id"].backward(retain_graph=True)
        found = {"logits": torch.stack(logits), "feature": method.embed(outputs), "loss": terms["id"]}
        return Trained(method, names, found, outputs, terms)

    @golden.array("eval_(.*)")
    def eval_mode(name):
        return evaluated()[name]

    @golden.array("train_(.*)")
    def train_mode(name):
        return trained().found[name]

    @golden.array("(after_.*)")
    def statistics(name):
        return trained().method.get_buffer(trained().names[golden.source(name)])

    @golden.array("(grad_.*)")
    def gradients(name):
        return trained().method.get_parameter(trained().names[golden.source(name)]).grad

    @golden.array("loss_(value|gx)")
    def loss(name):
        logits = golden.input("loss_logits").requires_grad_()
        criterion = CrossEntropyLabelSmooth(golden.meta["label_smoothing"])
        value = sum(criterion(head, golden.input("loss_labels")) for head in logits)
        value.backward()
        return {"value": value, "gx": logits.grad}[name]

    @golden.array("lr_(new|backbone)_by_epoch")
    def rates(part):
        lr, solver = golden.meta["lr"], load_config(f"configs/hand/{golden.folder.name}.yml")[0].SOLVER.STAGE2
        assert lr["epochs"] == solver.MAX_EPOCHS
        rate = kind.rate(None, {"new": "blocks.g.0.weight", "backbone": "image_encoder.conv1.weight"}[part], 2, solver)
        return multistep_rates(rate.lr, solver)

    return trained
