"""The backbones by ``MODEL.NAME``, with or without their pre-training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn

from model.backbones import autoreid, cdnet, hrnet, osnet, resnet, vit
from model.backbones.base import Backbone
from model.backbones.timm_backbone import PREFIX, TimmEncoder, backbone_name, hub_weights
from model.clip.clip import find_weights
from model.clip.hands_clip import hands_weights
from model.clip.model import MLP, QuickGELU, VisionTransformer, make_image_encoder
from model.clip.shapes import (
    CLIPShape,
    ResNetShape,
    named_shape,
    names_of,
    shape_of_checkpoint,
    shape_of_weights,
)
from model.clip.weights import clip_weights, read_state_dict
from utils.console.logger import LOGGER
from utils.errors import ReIDError

if TYPE_CHECKING:
    from yacs.config import CfgNode

NO_OVERLAP = (16, 16)
"""The published default of ``MODEL.STRIDE_SIZE``; it means the patch's own size, whatever that is."""

ACTIVATIONS: dict[str, type[nn.Module]] = {"quick_gelu": QuickGELU, "gelu": nn.GELU}
"""From the name in MODEL.ACTIVATION to the activation of the transformers; ResNets' convolutions have ReLU."""

Size = tuple[int, int]
"""Height and width in pixels."""


class Entry(NamedTuple):
    """A backbone that is neither CLIP's nor timm's own module.

    Attributes:
        family: see :class:`model.backbones.base.Backbone`.
        make: from the configuration and the image size to the network with random weights.
        hub: timm's name of its pre-trained weights; empty for none.
    """

    family: str
    make: Callable[[CfgNode, Size], Backbone]
    hub: str = ""


def _of_shape(network: Callable[[Any, Size], Backbone], shape: Any) -> Callable[[CfgNode, Size], Backbone]:
    """A network that needs nothing of the configuration but the image size."""
    return lambda cfg, size: network(shape, size)


def _vit(name: str) -> Callable[[CfgNode, Size], Backbone]:
    def make(cfg: CfgNode, size: Size) -> Backbone:
        rows, columns = cfg.MODEL.STRIDE_SIZE
        return vit.ViT(vit.SIZES[name], size, (rows, columns), cfg.MODEL.DROP_PATH)

    return make


SHAPED = {
    "resnet": (resnet.ResNet, resnet.SHAPES, {"resnet50": "resnet50.tv_in1k"}),
    "osnet": (osnet.OSNet, osnet.SHAPES, {}),
    "autoreid": (autoreid.AutoReIDNet, autoreid.SHAPES, {}),
    "cdnet": (cdnet.CDNet, cdnet.SHAPES, {}),
    "hrnet": (hrnet.HRNet, hrnet.SHAPES, {"hrnet_w32": "hrnet_w32.ms_in1k"}),
}
"""By family: the network, its shapes by name, and timm's names of their pre-trained weights."""

BACKBONES: dict[str, Entry] = {
    **{
        name: Entry(family, _of_shape(network, shape), hubs.get(name, ""))
        for family, (network, shapes, hubs) in SHAPED.items()
        for name, shape in shapes.items()
    },
    **{name: Entry("vit", _vit(name), size.pretrained) for name, size in vit.SIZES.items()},
}
"""By ``MODEL.NAME``, besides CLIP's networks (:data:`model.clip.shapes.ARCHITECTURES`) and ``timm/<name>``."""


def family_of(name: str) -> str:
    """The family of ``MODEL.NAME``."""
    if name.startswith(PREFIX):
        return "timm"
    return BACKBONES[name].family if name in BACKBONES else "clip"


def make_backbone(cfg: CfgNode, checkpoint: Mapping[str, Tensor] | None = None) -> Backbone:
    """The network of ``MODEL.NAME`` with random weights, of the sizes in ``checkpoint`` where that holds some.

    Args:
        cfg: ``MODEL.*`` and ``INPUT.SIZE_TRAIN`` are read.
        checkpoint: of re-identification; a CLIP network takes its sizes from it.

    Raises:
        ReIDError: there is no such network, or it takes no images of this size.
    """
    name, size = cfg.MODEL.NAME, (cfg.INPUT.SIZE_TRAIN[0], cfg.INPUT.SIZE_TRAIN[1])
    if name in BACKBONES:
        return BACKBONES[name].make(cfg, size)
    if own := backbone_name(name):
        return TimmEncoder(own, size)
    if checkpoint is None:
        return _clip(cfg, named_shape(name, BACKBONES))
    backbone = _clip(cfg, shape_of_checkpoint(checkpoint))
    if backbone.text is not None:
        backbone.text.reads_words = False
    return backbone


def check_pretraining(cfg: CfgNode) -> None:
    """Find the pre-trained weights, or download them, before any data is read.

    Raises:
        ReIDError: they are not there and cannot be downloaded.
    """
    if family_of(cfg.MODEL.NAME) == "clip":
        named_shape(cfg.MODEL.NAME, BACKBONES)
    else:
        backbone_name(cfg.MODEL.NAME)
    if cfg.MODEL.PRETRAIN_CHOICE == "random":
        return
    if cfg.MODEL.PRETRAIN_CHOICE == "hands":
        hands_weights(cfg)
        return
    hub = _hub(cfg.MODEL.NAME)
    if family_of(cfg.MODEL.NAME) == "clip" or cfg.MODEL.PRETRAIN_PATH:
        find_weights(cfg.MODEL.NAME, cfg.MODEL.PRETRAIN_PATH)
    elif hub:
        hub_weights(hub)  # from now on they are in the hub's cache
    else:
        raise ReIDError(
            f"MODEL.NAME = {cfg.MODEL.NAME}: no weights are published for it. Name a file in MODEL.PRETRAIN_PATH, or "
            "start at random with MODEL.PRETRAIN_CHOICE random."
        )


def read_pretraining(cfg: CfgNode) -> tuple[Path | str, dict[str, Tensor]]:
    """Where ``MODEL.PRETRAIN_PATH``, the download or the small CLIP is and its tensors.

    Raises:
        ReIDError: missing or unreadable.
    """
    if cfg.MODEL.PRETRAIN_CHOICE == "hands":
        path = hands_weights(cfg)
        return path, read_state_dict(path)
    hub = _hub(cfg.MODEL.NAME)
    if hub and not cfg.MODEL.PRETRAIN_PATH:
        return f"timm's hub ({hub})", hub_weights(hub)
    path = find_weights(cfg.MODEL.NAME, cfg.MODEL.PRETRAIN_PATH)
    return path, read_state_dict(path)


def pretrained(cfg: CfgNode, path: Path | str, tensors: dict[str, Tensor]) -> tuple[Backbone, str]:
    """The network of ``MODEL.NAME`` with the pre-training in ``tensors``, and a table for the log.

    Raises:
        ReIDError: they do not fit.
    """
    if family_of(cfg.MODEL.NAME) == "clip":
        tensors = clip_weights(tensors, path)
        backbone: Backbone = _clip(cfg, shape_of_weights(tensors))
    else:
        backbone = make_backbone(cfg)
    return backbone, backbone.load(tensors).table()


def _hub(name: str) -> str:
    if name in BACKBONES:
        return BACKBONES[name].hub
    return backbone_name(name) or ""


def _clip(cfg: CfgNode, shape: CLIPShape) -> Backbone:
    _check_shape(cfg, shape)
    stride = (cfg.MODEL.STRIDE_SIZE[0], cfg.MODEL.STRIDE_SIZE[1])
    size = (cfg.INPUT.SIZE_TRAIN[0], cfg.INPUT.SIZE_TRAIN[1])
    encoder = make_image_encoder(shape, size, None if stride == NO_OVERLAP else stride)
    towers = [encoder, *([encoder.text.encoder] if encoder.text else [])]
    for module in (module for tower in towers for module in tower.modules()):
        if isinstance(module, MLP):
            module.gelu = ACTIVATIONS[cfg.MODEL.ACTIVATION]()
    if isinstance(encoder, VisionTransformer):
        encoder.side_on_all = cfg.MODEL.SIE_ON == "all"
    return encoder


def _check_shape(cfg: CfgNode, shape: CLIPShape) -> None:
    """Refuse weights of another architecture than the name's, and images that are too small for it."""
    is_resnet = isinstance(shape.image, ResNetShape)
    own = names_of(shape.image)
    meant = named_shape(cfg.MODEL.NAME, BACKBONES).image
    if is_resnet != cfg.MODEL.NAME.startswith("RN") or (own and shape.image != meant):
        kind = " or ".join(own) or ("ResNet" if is_resnet else "ViT")
        raise ReIDError(
            f"these are the weights of a {kind}, but MODEL.NAME = {cfg.MODEL.NAME}. Give MODEL.NAME the name of their "
            "architecture."
        )
    if not own:
        LOGGER.warning(
            "the network has the sizes of its weights, %s, which are not those of %s", shape.image, cfg.MODEL.NAME
        )
    smallest = 15 if is_resnet else shape.image.patch
    if min(cfg.INPUT.SIZE_TRAIN) < smallest:
        raise ReIDError(
            f"INPUT.SIZE_TRAIN = {cfg.INPUT.SIZE_TRAIN} is too small: this {cfg.MODEL.NAME} needs at least {smallest} "
            "pixels in each direction."
        )
