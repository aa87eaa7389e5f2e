"""Methods on small CLIP networks, without a configuration."""

from types import SimpleNamespace

import torch

from loss import Criterion
from model.base import Batch, Method, Progress
from model.clip.model import make_image_encoder

AT = Progress(2, 1, 1)


def build(method: type[Method], shape, classes=5, size=(32, 32), stride=None, **options) -> Method:
    """``method`` on a random CLIP network of ``shape``; with a ``sentence`` or ``names`` it gets the text tower."""
    backbone = make_image_encoder(shape, size, stride)
    if {"sentence", "names"} & options.keys():
        options["text"] = backbone.text
    options.setdefault("criterion", Criterion())
    model = method(backbone, classes, **options)
    side = options.get("side_information")
    model.inputs = frozenset() if side is None else frozenset(n for n in ("cameras", "views") if getattr(side, n))
    return model


def training_set(model: Method, images: torch.Tensor, labels: torch.Tensor, **side: torch.Tensor) -> SimpleNamespace:
    """What :meth:`Method.begin_epoch` gets, over tensors."""

    @torch.no_grad()
    def features(read, side_too=True):
        batch = Batch(images, labels, **(side if side_too else {}))
        return read(model.eval()(batch)), labels

    return SimpleNamespace(features=lambda read, side=True: features(read, side))
