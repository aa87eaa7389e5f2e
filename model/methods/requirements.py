"""Checks of a configuration that several methods share, and the options of their losses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from utils.errors import ReIDError

if TYPE_CHECKING:
    from yacs.config import CfgNode


def label_smoothing(cfg: CfgNode) -> float:
    """0.1, or 0 where MODEL.IF_LABELSMOOTH is off."""
    return 0.1 if cfg.MODEL.IF_LABELSMOOTH == "on" else 0.0


def triplet_margin(cfg: CfgNode) -> float | None:
    """SOLVER.MARGIN, or None for the soft margin."""
    return None if cfg.MODEL.NO_MARGIN else cfg.SOLVER.MARGIN


def id_loss_options(cfg: CfgNode) -> dict[str, float]:
    """Smoothing and weight of the ID loss, by the names of the methods' arguments."""
    return {"smoothing": label_smoothing(cfg), "id_weight": cfg.MODEL.ID_LOSS_WEIGHT}


def loss_options(cfg: CfgNode) -> dict[str, float | None]:
    """Those of the ID loss, and margin and weight of the triplet loss."""
    return id_loss_options(cfg) | {"margin": triplet_margin(cfg), "triplet_weight": cfg.MODEL.TRIPLET_LOSS_WEIGHT}


def softmax_classifiers(cfg: CfgNode) -> None:
    """Refuse margin losses, which the method's own losses have no place for."""
    model = cfg.MODEL
    if model.ID_LOSS_TYPE != "softmax":
        raise ReIDError(
            f"MODEL.ID_LOSS_TYPE = {model.ID_LOSS_TYPE} with MODEL.METHOD = {model.METHOD}, whose classifiers are "
            "linear and have no cosine. Set it to softmax."
        )


def linear_classifiers(cfg: CfgNode) -> None:
    """Refuse margin losses and the center loss."""
    softmax_classifiers(cfg)
    model = cfg.MODEL
    if model.IF_WITH_CENTER == "yes" or "center" in model.METRIC_LOSS_TYPE:
        raise ReIDError(
            f"MODEL.METRIC_LOSS_TYPE = {model.METRIC_LOSS_TYPE}, MODEL.IF_WITH_CENTER = {model.IF_WITH_CENTER} with "
            f"MODEL.METHOD = {model.METHOD}, which has no center loss. Set them to triplet and no."
        )


def identity_pairs(cfg: CfgNode) -> None:
    """Refuse batches without positive and negative pairs, which the triplet loss compares."""
    sampler, batch, instances = cfg.DATALOADER.SAMPLER, cfg.SOLVER.STAGE2.IMS_PER_BATCH, cfg.DATALOADER.NUM_INSTANCE
    if sampler != "softmax_triplet":
        raise ReIDError(
            f"DATALOADER.SAMPLER = {sampler} with MODEL.METHOD = {cfg.MODEL.METHOD}, which has an ID and a triplet "
            "loss. Set it to softmax_triplet."
        )
    if batch < 2 * instances:
        raise ReIDError(
            f"SOLVER.STAGE2.IMS_PER_BATCH = {batch} with DATALOADER.NUM_INSTANCE = {instances}: a batch of one "
            f"identity has no negatives for the triplet loss. Set it to at least {2 * instances}."
        )


def divisible_height(cfg: CfgNode, pixels: int, why: str) -> None:
    """Refuse image heights that are no multiple of ``pixels``; ``why`` names what would be divided unevenly."""
    height, width = cfg.INPUT.SIZE_TRAIN
    if height % pixels:
        below = max(height // pixels, 1) * pixels
        raise ReIDError(
            f"INPUT.SIZE_TRAIN = [{height}, {width}] with MODEL.METHOD = {cfg.MODEL.METHOD}: {why}. Set the height, "
            f"here and in INPUT.SIZE_TEST, to a multiple of {pixels}, such as {below} or {below + pixels}."
        )
