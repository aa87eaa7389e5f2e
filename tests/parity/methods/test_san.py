"""SAN against microsoft/Semantics-Aligned-Representation-Learning@b317d88, in float64; arrays: san/README.md.

The golden gradients are those of one forward pass with unchanged weights, which is what joint optimisation has.
"""

from functools import cache

import torch

from loss import CrossEntropyLabelSmooth, TripletLoss
from model.backbones.resnet import SHAPES, ResNet
from model.base import Batch, Progress
from model.methods.san import SAN, Decoder, map_terms
from tests.parity.methods.kit import Golden, load_published

golden = Golden("san")
AT = Progress(2, 1, 1)
WIDE = torch.float64


@cache
def published():
    return golden.state(dtype=WIDE)


def build(image):
    meta = golden.meta
    images = golden.input(image, WIDE)
    backbone = ResNet(SHAPES["resnet50"], tuple(images.shape[2:]), meta["layer4_stride"])
    weights = {"smoothing": meta["label_smoothing"], "margin": meta["margin"], "map_margin": meta["sim_margin"]}
    method = SAN(backbone, meta["num_classes"], **weights).to(WIDE)
    return method, load_published(method, published()), images


@cache
def evaluated():
    method, _, images = build("image")
    seen = {}
    encoder = method.eval().image_encoder
    for number in range(1, 5):
        layer = getattr(encoder, f"layer{number}")
        layer.register_forward_hook(lambda m, i, out, n=number: seen.update({f"layer{n}_mean": out.mean((2, 3))}))
    with torch.no_grad():
        feature = method.embed(method(Batch(images)))
        texture, steps = method.decoder(_stages(encoder, images))
    assert list(texture.shape) == golden.meta["texture_shape"]
    maps = {f"x_sim{i}_mean": step.mean((2, 3)) for i, step in enumerate(steps, 1)}
    return seen | maps | {"feature": feature, "texture": texture}


def _stages(encoder, images):
    maps = [encoder.layer1(encoder.stem(images))]
    for number in (2, 3, 4):
        maps.append(getattr(encoder, f"layer{number}")(maps[-1]))
    return maps


@golden.array(r"eval\.(.*)")
def eval_mode(array):
    return evaluated()[array]


@cache
def trained():
    method, names, images = build("train_image")
    labels, target = golden.input("train.labels"), golden.input("texture_target", WIDE)
    seen = {}
    method.decoder.register_forward_hook(lambda m, i, out: seen.update(texture=out[0].detach()))
    outputs = method.train()(Batch(images, extra={"texture": target}), AT)
    feature = method.embed(outputs)
    feature.retain_grad()
    method.embed = lambda _: feature  # computed once, as the running statistics count it
    logits = method.classifier(feature)
    logits.retain_grad()
    method.classifier.register_forward_hook(lambda *_: logits)
    terms, _ = method.losses(outputs, labels, AT)
    maps = [outputs[f"map{i}"] for i in range(4)]
    sims = map_terms(maps, labels, method.map_margin)
    parameters = [method.get_parameter(names[name]) for name in golden.meta["param_names"]]
    found = {"losses": torch.stack([*[*terms.values()][:3], *sims, terms["texture"] + terms["maps"]])}
    for kind, total in (("texture", terms["texture"] + terms["maps"]), ("reid", terms["id"] + terms["triplet"])):
        method.zero_grad()
        total.backward(retain_graph=kind == "texture")
        norms = [torch.zeros((), dtype=WIDE) if p.grad is None else p.grad.norm() for p in parameters]
        found[f"param_grad_norms_{kind}"] = torch.stack(norms)
    found |= {f"x_sim{i}_mean": one.mean((2, 3)) for i, one in enumerate(maps, 1)}
    found |= {"logits": logits, "feature": feature, "texture": seen["texture"]}
    return found | {"grad_logits": logits.grad, "grad_feature": feature.grad}


@golden.array(r"train(?:64)?\.(.*)")
def train_mode(array):
    return trained()[array]


@golden.array(r"mod\.up3_(train|eval)(_grad)?")
def doubling(mode, gradient):
    decoder, prefix = Decoder(2048, True).to(WIDE), "decoder."
    decoder.load_state_dict({n.removeprefix(prefix): t for n, t in published().items() if n.startswith(prefix)})
    x = golden.input("mod.x", WIDE).requires_grad_()
    out = decoder.train(mode == "train").up3(x)
    out.square().sum().backward()
    return x.grad if gradient else out


@golden.array(r"loss\.(xent|triplet)(_grad)?")
def losses(kind, gradient):
    meta = golden.meta
    x = golden.input({"xent": "loss.logits", "triplet": "loss.feat"}[kind], WIDE).requires_grad_()
    criterion = CrossEntropyLabelSmooth(meta["label_smoothing"]) if kind == "xent" else TripletLoss(meta["margin"])
    value = criterion(x, golden.input("loss.labels"))
    value.backward()
    return x.grad if gradient else value


@golden.array(r"loss\.sims(?:_grad_x(\d))?")
def terms_of_the_maps(number):
    maps = [golden.input(f"loss.x{i}", WIDE).requires_grad_() for i in (1, 2, 3, 4)]
    labels = torch.arange(len(maps[0])) // golden.meta["block"]
    terms = map_terms(maps, labels, golden.meta["sim_margin"])
    terms.sum().backward()
    return torch.cat([terms, terms.sum()[None]]) if number is None else maps[int(number) - 1].grad


test_array = golden.test()


def test_two_images_of_each_identity_and_images_as_wide_as_high():
    method = SAN(ResNet(SHAPES["resnet-tiny"], (64, 64)), 2, double_width=False)
    batch = Batch(torch.randn(4, 3, 64, 64), extra={"texture": torch.zeros(4, 3, 64, 64)})
    terms, _ = method.losses(method(batch, AT), torch.tensor([0, 0, 1, 1]), AT)
    assert terms.keys() == {"id", "triplet", "texture", "maps"} and all(term.isfinite() for term in terms.values())
