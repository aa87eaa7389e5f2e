"""PromptSG against an independent reading of its paper, see the kit's README: there is no published code."""

from functools import cache

import pytest
import torch
import torch.nn.functional as F

from loss import Criterion, SupConLoss, contrast_terms
from model.backbones.vit import attention_weights
from model.base import Batch, Progress
from model.clip.model import make_image_encoder
from model.clip.shapes import shape_of_weights
from model.clip.simple_tokenizer import tokenize
from model.methods.promptsg import PromptSG
from tests.parity.methods.kit import Golden
from tests.parity.methods.vits import without_random_start

golden = Golden("promptsg")
AT = Progress(2, 1, 1)
OWN = ("inversion.", "ln_text.", "ln_image.", "cross.", "blocks.", "ln_post.", "bottleneck.", "classifier.")
INTERACTION = ("ln_text.", "ln_image.", "cross.", "blocks.", "ln_post.")


@cache
def built(model):
    """The method with the kit's weights; evaluations leave it as it is."""
    state = golden.state(f"manifest_{model}")
    clip = {name: tensor for name, tensor in state.items() if not name.startswith(OWN)}
    with without_random_start():
        backbone = make_image_encoder(shape_of_weights(clip), tuple(golden.meta["input"]))
        backbone.load(clip)
        sentence = golden.meta["sentences"]["tokens_composed"]
        classes = golden.meta["num_classes"]
        method = PromptSG(backbone, classes, backbone.text, sentence, criterion=Criterion(), temperature=1.0)
    own = {name: tensor for name, tensor in state.items() if name.startswith(OWN)}
    own = {f"interaction.{name}" if name.startswith(INTERACTION) else name: t for name, t in own.items()}
    missing, unexpected = method.load_state_dict(own, strict=False)
    assert not unexpected
    assert all(name.startswith(("image_encoder.", "text_encoder.", "template.", "fixed_sentence")) for name in missing)
    return method


def passed(method, images):
    """Every step of a pass in the module's mode."""
    outputs = method(Batch(golden.input(images)))
    tokens = outputs["tokens"]
    star = method.inversion(tokens[:, 0])
    return {"x11": outputs["penultimate"], "x12": outputs["feature"], "v": tokens[:, 0], "star": star} | guided(
        method, tokens, method.read(star)
    )


def guided(method, tokens, text):
    inside = method.interaction
    query, key, _ = inside.cross.project(inside.ln_text(text)[:, None], inside.ln_image(tokens))
    f = inside(text, tokens)
    f_bn = method.bottleneck(f)
    return {
        "text": text,
        "attention": attention_weights(query, key).mean(1)[:, 0],
        "z": inside.cross(inside.ln_text(text)[:, None], inside.ln_image(tokens))[:, 0],
        "f": f,
        "f_bn": f_bn,
        "logits": method.classifier(f_bn),
    }


@cache
@torch.no_grad()
def evaluated(model):
    method = built(model).eval()
    found = passed(method, "image")
    outputs = method(Batch(golden.input("image")))
    assert torch.equal(method.embed(outputs), found["f"])
    method.neck_feat = "after"
    torch.testing.assert_close(method.embed(outputs), found["f_bn"])
    method.neck_feat, method.composed = "before", False
    text = method.text_encoder(method.fixed_sentence, method.fixed_end)
    simple = guided(method, outputs["tokens"], text.expand(len(outputs["tokens"]), -1))
    assert torch.equal(method.embed(outputs), simple["f"])
    return found | {f"simple_{name}": value for name, value in simple.items()} | {"simple_text": text}


@cache
def trained(model):
    evaluated(model)  # before the statistics change
    method = built(model).train()
    found = passed(method, "image_train")
    found["after"] = method.inversion[-1].running_mean.clone()
    image, text, labels = F.normalize(found["v"]), F.normalize(found["text"]), golden.input("labels_train")
    for tau in golden.meta["taus"]:
        found[f"supcon_tau{tau}"] = sum(contrast_terms(SupConLoss(tau), image, text, labels).values())
    watched = (method.inversion[4].weight, method.inversion[0].weight, method.image_encoder.proj)
    grads = torch.autograd.grad(found[f"supcon_tau{golden.meta['grad_tau']}"], watched)
    return found | {
        f"grad_{k}": g for k, g in zip(("inv_last_weight", "inv_first_weight", "visual_proj"), grads, strict=True)
    }


@golden.array(r"([TB])_eval_(\w+)")
def of_eval(model, name):
    return evaluated(model)[name]


@golden.array(r"([TB])_train_(.+)")
def of_training(model, name):
    return trained(model)[name]


@golden.array(r"([TB])_(grad_\w+)")
def gradient(model, name):
    return trained(model)[name]


@golden.array(r"([TB])_after_inv_bn_mean")
def statistics(model):
    return trained(model)["after"]


@golden.array(r"loss_supcon_(mean|sum)_tau([\d.]+?)(_gv|_gl|)")
def contrast(reduction, tau, gradient):
    image, text = (golden.input(name).requires_grad_() for name in ("loss_v", "loss_l"))
    terms = contrast_terms(
        SupConLoss(float(tau), reduction), F.normalize(image), F.normalize(text), golden.input("loss_labels")
    )
    loss = sum(terms.values())
    return torch.autograd.grad(loss, image if gradient == "_gv" else text)[0] if gradient else loss


test_promptsg = golden.test()


@pytest.mark.parametrize("name", ["tokens_composed", "tokens_simple", "tokens_composed_hand"])
def test_tokens_of_the_sentences(name):
    stored = golden.input(name)
    assert torch.equal(tokenize(golden.meta["sentences"][name])[0, : len(stored)].long(), stored)


def test_losses_reach_every_trained_parameter():
    method = built("T").train()
    method.zero_grad()
    terms, _ = method.losses(method(Batch(golden.input("image_train"))), golden.input("labels_train"), AT)
    assert terms.keys() == {"id", "triplet", "i2t", "t2i"}
    sum(terms.values()).backward()
    # With one query the attention weights of the blocks are 1: their query and key maps, which are packed with the
    # value map, matter to nothing.
    without = {name for name, p in method.named_parameters() if p.grad is None or not p.grad.any()}
    assert without <= {"bottleneck.bias"}
