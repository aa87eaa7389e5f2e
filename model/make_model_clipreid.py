"""From the configuration to a model with its start weights, or to one that is tested."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from model.backbones.timm_backbone import TimmShape, backbone_name, hub_weights
from model.clip.clip import find_weights
from model.clip.model import MLP, QuickGELU, VisionTransformer
from model.clip.shapes import CLIPShape, ResNetShape, named_shape, names_of, shape_of_checkpoint, shape_of_weights
from model.clip.weights import clip_weights, is_reid_checkpoint, read_reid_checkpoint, read_state_dict
from model.loading import (
    LoadReport,
    load_backbone_weights,
    load_clip_weights,
    load_prompts_only,
    load_reid_weights,
    load_start,
)
from model.methods.baseline import ImageReID, SideInformation
from model.methods.registry import METHODS
from utils.errors import ReIDError
from utils.logger import LOGGER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from yacs.config import CfgNode


NO_OVERLAP = (16, 16)
"""The published default of ``MODEL.STRIDE_SIZE``; it stands for the patch's own size, whatever that is."""

ACTIVATIONS: dict[str, type[nn.Module]] = {"quick_gelu": QuickGELU, "gelu": nn.GELU}
"""From the name in MODEL.ACTIVATION to the activation of the transformers; ResNets' convolutions have ReLU."""


def check_weights(cfg: CfgNode, test: bool = False) -> None:
    """Find out whether the weights that a run needs are there, before any data is read.

    Args:
        cfg: the configuration.
        test: look for ``TEST.WEIGHT`` and not for what training starts from.

    Raises:
        ReIDError: they are not, and cannot be downloaded.
    """
    if test and not cfg.TEST.WEIGHT:
        raise ReIDError("TEST.WEIGHT is empty: add TEST.WEIGHT and the path of a checkpoint that training wrote.")
    key, path = ("TEST.WEIGHT", cfg.TEST.WEIGHT) if test else ("MODEL.STAGE1_WEIGHT", cfg.MODEL.STAGE1_WEIGHT)
    if path and not Path(path).is_file():
        raise ReIDError(f"{key} = {path!r}: {_no_checkpoint(Path(path))}")
    if test:
        return
    backbone = backbone_name(cfg.MODEL.NAME)
    if cfg.MODEL.PRETRAIN_CHOICE == "random":
        _named_shape(cfg)
    elif backbone and not cfg.MODEL.PRETRAIN_PATH:
        hub_weights(backbone)  # from now on they are in the hub's cache
    else:
        find_weights(cfg.MODEL.NAME, cfg.MODEL.PRETRAIN_PATH)


def _no_checkpoint(path: Path) -> str:
    if not path.is_dir():
        return "no such file. Name the checkpoint that training wrote."
    newest = max(path.glob("*.pth"), key=lambda file: file.stat().st_mtime, default=None)
    return "this is a folder. Name " + (f"a checkpoint in it, such as {newest}." if newest else "a checkpoint.")


def make_model(
    cfg: CfgNode, num_classes: int, num_cameras: int, num_views: int, prompt: str, names: Sequence[str] = ()
) -> ImageReID:
    """The model that ``cfg`` describes: from CLIP's weights, timm's, a CLIP-ReID checkpoint or random weights.

    Args:
        cfg: ``MODEL.*``, ``INPUT.SIZE_TRAIN`` and ``TEST.NECK_FEAT`` are read.
        num_classes, num_cameras, num_views: counted on the training set.
        prompt: the data set's sentence, ``{}`` for the learnable tokens; ``MODEL.PROMPT`` goes before it.
        names: what the training identities are called, for methods that take names.

    Raises:
        ReIDError: weights are missing, unreadable or do not fit.
    """
    sentence = cfg.MODEL.PROMPT or prompt.format(METHODS[cfg.MODEL.METHOD].learnable)
    side = _side_information(cfg, num_cameras, num_views)
    if cfg.MODEL.PRETRAIN_CHOICE == "random":
        LOGGER.info("MODEL.PRETRAIN_CHOICE random: %s starts from random weights", cfg.MODEL.NAME)
        if cfg.MODEL.PRETRAIN_PATH:
            LOGGER.warning("so MODEL.PRETRAIN_PATH = %s is not read", cfg.MODEL.PRETRAIN_PATH)
        return _build(cfg, _named_shape(cfg), num_classes, side, sentence, names=names)
    backbone = backbone_name(cfg.MODEL.NAME)
    if backbone and not cfg.MODEL.PRETRAIN_PATH:
        path, tensors = f"timm's hub ({backbone})", hub_weights(backbone)
    else:
        path = find_weights(cfg.MODEL.NAME, cfg.MODEL.PRETRAIN_PATH)
        tensors = read_state_dict(path)
    with _about(path):
        if is_reid_checkpoint(tensors):
            shape = _shape_in(cfg, tensors)
            if METHODS[cfg.MODEL.METHOD].takes_embeddings and isinstance(shape, CLIPShape):
                shape = replace(shape, text=None)  # its token embeddings are not in the file
            model = _build(cfg, shape, num_classes, side, sentence, names=names)
            if model.reads_text:
                LOGGER.warning(
                    "%s has no token embeddings: the fixed words around the prompts stay those that it was trained "
                    "with, whatever the words in %r. MODEL.PROMPT should be its own sentence.",
                    path,
                    sentence,
                )
            report = load_start(model, tensors, sentence)
        elif backbone:
            model = _build(cfg, TimmShape(backbone), num_classes, side, sentence)
            report = load_backbone_weights(model, tensors)
        else:
            weights = clip_weights(tensors, path)
            table = weights["token_embedding.weight"]
            model = _build(cfg, shape_of_weights(weights), num_classes, side, sentence, table, names)
            report = load_clip_weights(model, weights)
    _log(path, "starts the training", report)
    return model


def make_test_model(cfg: CfgNode, num_views: int, num_cameras: int = 0) -> ImageReID:
    """The model in ``TEST.WEIGHT``, a CLIP-ReID checkpoint or CLIP's or timm's weights as they are, to embed images.

    Sizes of CLIP's networks and the numbers of identities and cameras are read from the file, so neither CLIP's weights
    nor the training images are needed.

    Args:
        cfg: the configuration.
        num_views: of the data set; tells cameras from views where the side information has both.
        num_cameras: of the data set, to be compared with those of the side information; 0 if unknown.

    Raises:
        ReIDError: ``TEST.WEIGHT`` is empty, missing, unreadable or does not fit ``cfg`` or the data set.
    """
    path = cfg.TEST.WEIGHT
    tensors = read_state_dict(path)
    with _about(path):
        if is_reid_checkpoint(tensors):
            shape = _shape_in(cfg, tensors)
            side = _trained_side_information(cfg, tensors, num_cameras, num_views)
            num_classes = len(tensors["classifier.weight"]) if "classifier.weight" in tensors else 1
            model = _build(cfg, shape, num_classes, side)
            report, what = load_reid_weights(model, tensors), "is read"
        elif backbone := backbone_name(cfg.MODEL.NAME):
            model = _build(cfg, TimmShape(backbone), 1, None)
            report, what = (
                load_backbone_weights(model, tensors),
                "holds a backbone's own weights: zero-shot",
            )
        else:
            weights = clip_weights(tensors, path)
            model = _build(cfg, shape_of_weights(weights), 1, None)
            report, what = load_clip_weights(model, weights), "holds CLIP's own weights: zero-shot"
    _log(path, what, report)
    return model


def load_prompts(model: ImageReID, path: str) -> None:
    """Take the prompts that stage 1 learned from the checkpoint ``path``.

    Raises:
        ReIDError: they belong to another number of identities or another sentence, or the model has no prompts.
    """
    if not hasattr(model, "prompt_learner"):
        raise ReIDError(f"MODEL.STAGE1_WEIGHT = {path!r}: {type(model).__name__} has no prompts. Leave it empty.")
    with _about(f"MODEL.STAGE1_WEIGHT = {path}"):
        report = load_prompts_only(model, read_reid_checkpoint(path))
    _log(path, "gives the prompts", report)


def _named_shape(cfg: CfgNode) -> CLIPShape | TimmShape:
    backbone = backbone_name(cfg.MODEL.NAME)
    return TimmShape(backbone) if backbone else named_shape(cfg.MODEL.NAME)


def _shape_in(cfg: CfgNode, checkpoint: Mapping[str, Tensor]) -> CLIPShape | TimmShape:
    """Sizes in a checkpoint of ours; of a backbone of timm its name alone tells them."""
    backbone = backbone_name(cfg.MODEL.NAME)
    return TimmShape(backbone) if backbone else shape_of_checkpoint(checkpoint)


def _build(
    cfg: CfgNode,
    shape: CLIPShape | TimmShape,
    num_classes: int,
    side: SideInformation | None,
    sentence: str = "",
    token_embedding: Tensor | None = None,
    names: Sequence[str] = (),
) -> ImageReID:
    """A model with random weights: for training if there is a ``sentence``, else for a test."""
    stride = tuple(cfg.MODEL.STRIDE_SIZE)
    image = (tuple(cfg.INPUT.SIZE_TRAIN), None if stride == NO_OVERLAP else stride)
    options = {
        "side_information": side,
        "cosine_head": cfg.MODEL.ID_LOSS_TYPE != "softmax",
        "neck_feat": cfg.TEST.NECK_FEAT,
    }
    if isinstance(shape, CLIPShape):
        _check_shape(cfg, shape)
    # A test needs the image half alone, which all methods share.
    method = METHODS[cfg.MODEL.METHOD] if sentence else ImageReID
    if method.reads_text:
        if shape.text is None:
            raise ReIDError(
                f"there is no text encoder in it, which MODEL.METHOD {cfg.MODEL.METHOD} needs. Start from CLIP's "
                "weights or from a checkpoint of CLIP-ReID, or set MODEL.METHOD to baseline."
            )
        options |= {"sentence": sentence, "token_embedding": token_embedding}
    if method.takes_embeddings:
        options["token_embedding"] = token_embedding
    if method.takes_names:
        options["names"] = names
    model = method(shape, num_classes, *image, **options, **method.options(cfg))
    for module in model.modules():
        if isinstance(module, MLP):
            module.gelu = ACTIVATIONS[cfg.MODEL.ACTIVATION]()
        elif isinstance(module, VisionTransformer):
            module.side_on_all = cfg.MODEL.SIE_ON == "all"
    return model


def _check_shape(cfg: CfgNode, shape: CLIPShape) -> None:
    """Refuse weights of another architecture than the name's, and images that are too small for it."""
    resnet = isinstance(shape.image, ResNetShape)
    own = names_of(shape.image)
    if resnet != cfg.MODEL.NAME.startswith("RN") or (own and shape.image != named_shape(cfg.MODEL.NAME).image):
        kind = " or ".join(own) or ("ResNet" if resnet else "ViT")
        raise ReIDError(
            f"these are the weights of a {kind}, but MODEL.NAME = {cfg.MODEL.NAME}. Give MODEL.NAME the name of their "
            "architecture."
        )
    if not own:
        LOGGER.warning("the network has the sizes of its weights, %s, which are no %s's", shape.image, cfg.MODEL.NAME)
    smallest = 15 if resnet else shape.image.patch
    if min(cfg.INPUT.SIZE_TRAIN) < smallest:
        raise ReIDError(
            f"INPUT.SIZE_TRAIN = {cfg.INPUT.SIZE_TRAIN} is too small: this {cfg.MODEL.NAME} needs at least {smallest} "
            "pixels in each direction."
        )


@contextmanager
def _about(source: object) -> Iterator[None]:
    """Put the file into messages that do not name it."""
    try:
        yield
    except ReIDError as error:
        raise error if str(source) in str(error) else ReIDError(f"{source}: {error}") from None


def _log(path: object, what: str, report: LoadReport) -> None:
    LOGGER.info("%s %s\n%s", path, what, report.table())


def _side_information(cfg: CfgNode, num_cameras: int, num_views: int) -> SideInformation | None:
    cameras = num_cameras if cfg.MODEL.SIE_CAMERA else 0
    views = num_views if cfg.MODEL.SIE_VIEW else 0
    return SideInformation(cameras, views, cfg.MODEL.SIE_COE) if cameras or views else None


def _trained_side_information(
    cfg: CfgNode, state: Mapping[str, Tensor], num_cameras: int, num_views: int
) -> SideInformation | None:
    """The cameras and views that the checkpoint's table was made for, if ``cfg`` asks for them.

    Switching the side information off leaves the table of another data set's cameras alone; one that fits this data
    set must be used.
    """
    rows = len(state["cv_embed"]) if "cv_embed" in state else 0
    if not (cfg.MODEL.SIE_CAMERA or cfg.MODEL.SIE_VIEW):
        if rows and cfg.MODEL.NAME.startswith("ViT"):
            if rows in (num_cameras, num_views, num_cameras * num_views) or not num_cameras:
                raise ReIDError(
                    "it was trained with side information; set MODEL.SIE_CAMERA and MODEL.SIE_VIEW as in its training."
                )
            LOGGER.warning("%s: its side information is of other cameras and is left alone", cfg.TEST.WEIGHT)
        return None
    if not rows:
        raise ReIDError("it was trained without side information; set MODEL.SIE_CAMERA and MODEL.SIE_VIEW to False.")
    off = "Set MODEL.SIE_CAMERA and MODEL.SIE_VIEW to False to test without side information."
    if cfg.MODEL.SIE_CAMERA and cfg.MODEL.SIE_VIEW and rows % num_views:
        raise ReIDError(
            f"its side information cv_embed has {rows} rows, no multiple of the data set's {num_views} views. {off}"
        )
    views = (num_views if cfg.MODEL.SIE_CAMERA else rows) if cfg.MODEL.SIE_VIEW else 0
    cameras = rows // max(views, 1) if cfg.MODEL.SIE_CAMERA else 0
    for word, known, seen in (("cameras", cameras, num_cameras), ("views", views, num_views)):
        if known and seen > known:
            raise ReIDError(f"its side information cv_embed knows {known} {word}; the data set has {seen}. {off}")
    return SideInformation(cameras, views, cfg.MODEL.SIE_COE)
