"""CILP-FGDI's text stages and losses against the published code (Qi5Lei/CLIP-FGDI@1ad50a6), see the kit's README."""

import re
from functools import cache

import torch

from loss import CrossEntropyLabelSmooth, TripletLoss
from model.base import Progress
from model.clip.model import make_image_encoder
from model.clip.shapes import named_shape
from model.clip.simple_tokenizer import tokenize
from model.methods.cilp_fgdi import CILPFGDI, Reverse, push_from_domain
from tests.parity.methods.kit import Golden

golden = Golden("cilp_fgdi")
KINDS = {"as_released": "released", "euclidean": "euclidean", "cosine_distance": "cosine"}
FIRST, SECOND = Progress(1, 1, 1), Progress(1, 2, 1)
"""An epoch of stage 1 for the identities' tokens, and one for the domains'."""


@cache
def built():
    """The method with the kit's text side; its image encoder is not used."""
    meta, state = golden.meta, golden.state()
    backbone = make_image_encoder(named_shape("ViT-Tiny-16"), (32, 32))
    backbone.text.embedding = state.pop("token_embedding.weight")
    method = CILPFGDI(
        backbone,
        meta["num_classes"],
        text=backbone.text,
        sentence=meta["sentences"][0],
        domains=meta["domains"],
        domain_epochs=1,
        identity_epochs=1,
    )
    text = {name: state.pop(name) for name in list(state) if name in method.text_encoder.state_dict()}
    method.text_encoder.load_state_dict(text)
    renamed = CILPFGDI.rename(state)
    assert not method.load_state_dict(renamed, strict=False).unexpected_keys
    method.domain_of[golden.input("labels")] = golden.input("domains")
    return method.train(), dict(zip(state, renamed, strict=True))


@cache
def stage(number):
    """Prompts, texts, scores and losses of stage 2a or 2b, with the gradients of all parameters."""
    method, own = built()
    labels, images = golden.input("labels"), golden.input("image_features")
    method.zero_grad()
    if number == "a":
        prompts, texts = method.prompt_learner(labels, whole=True), method.encode_text(labels)
        classifier, seen = method.domain_reversed, Reverse.apply(texts)
    else:
        prompts = method.domain_prompts(method.prompt_learner.cls_ctx[labels], method.domain_of[labels])
        texts = method.encode_domain_text(labels)
        classifier, seen = method.domain_plain, texts.detach()
    scores = []
    hook = classifier.register_forward_hook(lambda *call: scores.append(call[2]))
    terms, _ = method.losses({"projected": images}, labels, FIRST if number == "a" else SECOND)
    hook.remove()
    sum(terms.values()).backward()
    parameters = dict(method.named_parameters())
    grads = {name: parameters[key].grad for name, key in own.items() if key in parameters}
    found = {
        "prompts_first16": prompts,
        "text": texts,
        "domain_logits": scores[0].log_softmax(1),
        "contrast": terms["i2t"] + terms["t2i"],
        "domain_loss": terms["domain"] / golden.meta["domain_weight"],
        "grads": {name: grad for name, grad in grads.items() if grad is not None},
    }
    if number == "a":
        found["grad_clsctx_of_domain_loss"] = torch.autograd.grad(
            torch.nn.functional.cross_entropy(classifier(seen), golden.input("domains")), method.prompt_learner.cls_ctx
        )[0]
    return found


@golden.array(r"s2([ab])_(prompts_first16|text|domain_logits|contrast|domain_loss|grad_clsctx_of_domain_loss)")
def of_stage(number, name):
    return stage(number)[name]


@golden.array(r"(s2([ab])_grad_(?:clsctx|dmctx|dcgrl_fc1|dc_fc1))")
def gradient(name, number):
    return stage(number)["grads"][golden.source(name)]


@golden.array(r"tokens(_domain|)")
def tokens(kind):
    return tokenize(golden.meta["sentences"][1 if kind else 0])[0].long()


@golden.array(r"apn_(as_released|euclidean|cosine_distance)(_ga|_gp|)")
def pushed(kind, gradient):
    given = {name: golden.input(f"apn_{name}").requires_grad_() for name in "apn"}
    loss = push_from_domain(given["a"], given["p"], given["n"], KINDS[kind])
    return torch.autograd.grad(loss, given[gradient[-1]])[0] if gradient else loss


@golden.array(r"triplet_soft(_g|)")
def triplet(gradient):
    features = golden.input("tri_f").requires_grad_()
    loss = TripletLoss(golden.meta["triplet_margin"])(features, golden.input("tri_labels"))
    return torch.autograd.grad(loss, features)[0] if gradient else loss


@golden.array(r"id_ls(_g|)")
def identity(gradient):
    scores = golden.input("id_z").requires_grad_()
    loss = CrossEntropyLabelSmooth(golden.meta["label_smoothing"])(scores, golden.input("id_labels"))
    return torch.autograd.grad(loss, scores)[0] if gradient else loss


test_cilp_fgdi = golden.test()


def test_the_domain_s_sentence_trains_only_the_domain_s_token():
    """No array shows that the identities' tokens are detached and that the classifier reads detached texts."""
    grads = stage("b")["grads"]
    assert {re.sub(r"\..*", "", name) for name in grads} == {"promptlearner", "dc"}
    assert "promptlearner.clsctx" not in grads
    terms, _ = built()[0].losses({"projected": golden.input("image_features")}, golden.input("labels"), SECOND)
    token = built()[0].domain_prompts.context
    assert torch.autograd.grad(terms["domain"], token, allow_unused=True)[0] is None
