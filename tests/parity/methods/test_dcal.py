"""DCAL against an independent implementation of its paper, see the kit's README: there is no published code."""

from functools import cache

import torch
from torch import nn

from model.backbones.vit import Block, ViT, ViTSize, attention_weights
from model.base import Batch, Progress
from model.methods.dcal import BRANCHES, DCAL, attend_pair, attend_selected, select
from tests.parity.methods.kit import Golden, load_published
from tests.parity.methods.vits import backbone_of, soft_margin, without_random_start

golden = Golden("dcal")
AT = Progress(2, 1, 1)


def module(name):
    block = Block(golden.input("tokens").shape[-1], golden.meta["module"]["heads"])
    state = golden.state("manifest_modules")
    block.load_state_dict({k.removeprefix(f"{name}."): t for k, t in state.items() if k.startswith(f"{name}.")})
    return block


@cache
def modules():
    """What the modules make of the tokens."""
    meta = golden.meta["module"]
    tokens = golden.input("tokens").requires_grad_()
    cotangent = golden.input("cotangent")
    block, glca = module("block"), module("glca")
    vit = ViT(ViTSize(tokens.shape[-1], 1, meta["heads"]), (16, 16))
    vit.blocks = nn.ModuleList([block, block])
    _, rolled = vit.trace(tokens)
    query, key, _ = block.attn.project(block.norm1(tokens))
    selected = select(rolled, int(meta["ratio"] * (tokens.shape[1] - 1)))
    # The kit lists the tokens in ascending order; the result of each does not depend on it.
    selected = selected.sort(1).values
    pwca = attend_pair(block, tokens, torch.tensor(meta["perm"]))
    chosen = attend_selected(glca, tokens, selected)
    return {
        "sa": block(tokens),
        "sa_attention": attention_weights(query, key),
        "rollout2": rolled,
        "selected": selected,
        "pwca": pwca,
        "pwca.grad": torch.autograd.grad((pwca * cotangent).sum(), tokens)[0],
        "glca": chosen,
        "glca.grad": torch.autograd.grad((chosen * cotangent[:, : chosen.shape[1]]).sum(), tokens)[0],
    }


@golden.array(r"module\.(.+)")
def of_modules(name):
    return modules()[name]


@cache
def built():
    meta, state = golden.meta, golden.state()
    with without_random_start():
        stride = (meta["stride"],) * 2
        size = golden.manifest()["input_size"]
        backbone = backbone_of(state, meta["heads"], meta["patch"], size, stride, "base.")
        method = DCAL(backbone, meta["num_classes"], ratio=meta["ratio"], criterion=soft_margin())
    return method, load_published(method, state)


@cache
@torch.no_grad()
def evaluated():
    method = built()[0].eval()
    embedded = method.image_encoder.embed(golden.input("image"))
    rolled = method.image_encoder.trace(embedded)[1]
    outputs = method(Batch(golden.input("image")))
    return {
        "rollout_cls": rolled[:, 0],
        "selected": select(rolled, method.queries).sort(1).values,
        "feat_sa": outputs["feature"],
        "feat_glca": outputs["glca"],
        "feat": method.embed(outputs),
    }


@golden.array(r"eval\.(.+)")
def of_eval(name):
    return evaluated()[name]


@cache
def trained():
    evaluated()  # before the statistics of the necks change
    method, own = built()
    scores = []
    for classifier in (method.classifier, method.classifier_glca):
        classifier.register_forward_hook(lambda *call: scores.append(call[2].detach()))
    method.train()
    embedded = method.image_encoder.embed(golden.input("train_image"))
    outputs = method.branches(embedded)
    outputs["pwca"] = method.paired(embedded, torch.tensor(golden.meta["perm"]))
    terms, logged = method.losses(outputs, golden.labels("train_labels"), AT)
    loss = torch.stack(list(terms.values())).sum()
    loss.backward()
    parameters = dict(method.named_parameters())
    grads = {name: parameters[key].grad for name, key in own.items() if key in parameters}
    found = {"loss": loss[None], "grads": {name: grad for name, grad in grads.items() if grad is not None}}
    # scores come in the order of the branches, in which the statistics of the shared neck are counted
    for name, key, score in zip(("sa", "glca", "pwca"), ("feature", "glca", "pwca"), scores, strict=True):
        found |= {f"score_{name}": score, f"feat_{name}": outputs[key]}
    for name, branch in zip(("sa", "glca", "pwca"), BRANCHES, strict=True):
        found[f"loss_{name}"] = logged[f"loss_{branch}"][None]
    with torch.no_grad():
        rolled = method.eval().image_encoder.trace(method.image_encoder.embed(golden.input("train_image")))[1]
    return found | {"selected": select(rolled, method.queries).sort(1).values}


@golden.array(r"train\.(selected|loss|(?:feat|score|loss)_\w+)")
def of_training(name):
    return trained()[name]


@golden.array(r"train\.grad\.(.+)")
def gradient(name):
    return trained()["grads"][name]


@golden.array(r"train\.grad_lognorms")
def gradients():
    meta, grads = golden.meta, trained()["grads"]
    assert not set(meta["no_grad_names"]) & set(grads)
    assert all(grads[name].norm() < meta["zero_grad_atol"] for name in meta["zero_grad_names"])
    return torch.stack([grads[name].norm().log() for name in meta["grad_names"]])


test_dcal = golden.test()
