"""The methods by ``MODEL.METHOD``."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from model.backbones.timm_backbone import PREFIX
from model.methods.baseline import ImageReID
from model.methods.clipreid import CLIPReID
from model.methods.coop import CoOp
from model.methods.handid import HandID
from model.methods.pcl import PCL
from model.methods.tfmemory import TFMemory
from model.methods.zeroshot import ZeroShot
from utils.errors import ReIDError

if TYPE_CHECKING:
    from yacs.config import CfgNode

METHODS: dict[str, type[ImageReID]] = {
    "clipreid": CLIPReID,
    "baseline": ImageReID,
    "zeroshot": ZeroShot,
    "coop": CoOp,
    "handid": HandID,
    "pcl": PCL,
    "tfmemory": TFMemory,
}
"""From the name to the class; docs/methods.md tells what each is."""

ON_ANY_BACKBONE = ("baseline", "zeroshot")
"""Methods that make do with the one feature of a backbone of timm."""


def check_method(cfg: CfgNode) -> None:
    """Refuse a method, stages or losses that cannot work.

    Raises:
        ReIDError: naming the key, the value and a valid one.
    """
    name, stages = cfg.MODEL.METHOD, cfg.SOLVER.STAGES
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ReIDError(f"MODEL.METHOD = {name!r}: choose one of {', '.join(METHODS)}.{hint}")
    method = METHODS[name]
    if stages not in method.stages:
        choices = " or ".join(str(choice) for choice in method.stages)
        raise ReIDError(f"SOLVER.STAGES = {stages}: MODEL.METHOD {name} has other stages; set it to {choices}.")
    if cfg.MODEL.NAME.startswith(PREFIX) and name not in ON_ANY_BACKBONE:
        raise ReIDError(
            f"MODEL.METHOD = {name} with MODEL.NAME = {cfg.MODEL.NAME}: it needs CLIP's text encoder or both of CLIP's "
            f"image features, which no backbone of timm has. Take {' or '.join(ON_ANY_BACKBONE)}, or a CLIP network."
        )
    if cfg.MODEL.STAGE1_WEIGHT and 1 in stages:
        raise ReIDError(
            f"MODEL.STAGE1_WEIGHT = {cfg.MODEL.STAGE1_WEIGHT} with SOLVER.STAGES = {stages}: stage 1 would learn its "
            "prompts anew. Leave it empty, or set SOLVER.STAGES to [2]."
        )
    if (cfg.MODEL.SIE_CAMERA or cfg.MODEL.SIE_VIEW) and 2 not in stages:
        raise ReIDError(
            f"MODEL.SIE_CAMERA/SIE_VIEW with SOLVER.STAGES = {stages}: side information is learned in stage 2; without "
            "it random numbers would be added to every feature. Set both to False (stage 1 does not use them)."
        )
    method.check(cfg)
    if 2 in stages:
        _check_losses(cfg, method)


def _check_losses(cfg: CfgNode, method: type[ImageReID]) -> None:
    """Stage 2 needs a loss; which ones there are, sampler and method decide, see :func:`loss.make_loss.make_loss`."""
    model, sampler = cfg.MODEL, cfg.DATALOADER.SAMPLER
    center = "center" in model.METRIC_LOSS_TYPE or model.IF_WITH_CENTER == "yes"
    weights = {f"MODEL.{key}": model[key] for key in method.own_losses(cfg)}
    if sampler != "triplet":
        weights["MODEL.ID_LOSS_WEIGHT"] = model.ID_LOSS_WEIGHT
    if sampler != "softmax" and "triplet" in model.METRIC_LOSS_TYPE:
        weights["MODEL.TRIPLET_LOSS_WEIGHT"] = model.TRIPLET_LOSS_WEIGHT
    if center:
        weights["SOLVER.STAGE2.CENTER_LOSS_WEIGHT"] = cfg.SOLVER.STAGE2.CENTER_LOSS_WEIGHT
    if not any(weights.values()):
        raise ReIDError(
            f"{' = '.join(weights) or 'no weight'} = 0 leaves stage 2 without a loss (DATALOADER.SAMPLER = {sampler}, "
            f"MODEL.METHOD = {model.METHOD}, MODEL.METRIC_LOSS_TYPE = {model.METRIC_LOSS_TYPE}). Give one of them a "
            "weight above 0, or take DATALOADER.SAMPLER softmax_triplet."
        )
