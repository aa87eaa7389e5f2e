"""Checks of the keys' values in combination; each alone: :mod:`configs.ranges`."""

from __future__ import annotations

import math

from yacs.config import CfgNode

from configs.ranges import check_value
from configs.values import leaves
from utils.errors import ReIDError


def check_config(cfg: CfgNode) -> None:
    """Refuse values and combinations that cannot work, naming the key, the value and a valid one.

    Raises:
        ReIDError: at the first such value.
    """
    for key, value in leaves(cfg):
        check_value(key, value)
    _check_input(cfg)
    _check_batches(cfg)
    _check_schedules(cfg)
    _check_model(cfg)
    _check_test(cfg)


def _check_input(cfg: CfgNode) -> None:
    if cfg.INPUT.SIZE_TEST != cfg.INPUT.SIZE_TRAIN:
        raise ReIDError(
            f"INPUT.SIZE_TEST = {cfg.INPUT.SIZE_TEST} differs from INPUT.SIZE_TRAIN = {cfg.INPUT.SIZE_TRAIN}: "
            "the position embedding is learned for one size. Give both the same value."
        )
    resized, size = cfg.INPUT.RESIZE, cfg.INPUT.SIZE_TRAIN
    if any(resized) and (resized[0] < size[0] or resized[1] < size[1]):
        raise ReIDError(
            f"INPUT.RESIZE = {resized} is smaller than the crop INPUT.SIZE_TRAIN = {size}; make it as large or larger, "
            "or [0, 0] for no other size."
        )
    _check_fit(cfg)
    _check_colours(cfg)
    if cfg.INPUT.CUTOUT and min(size) < cfg.INPUT.CUTOUT_SIZE:
        raise ReIDError(
            f"INPUT.CUTOUT_SIZE = {cfg.INPUT.CUTOUT_SIZE} with INPUT.SIZE_TRAIN = {size}: the square does not fit in. "
            f"Set it to {min(size) // 2} or less."
        )
    if cfg.INPUT.WHITE != "auto" and not _is_positive(cfg.INPUT.WHITE):
        raise ReIDError(
            f"INPUT.WHITE = {cfg.INPUT.WHITE!r}: expected auto, or the stored value that is white, such as 4095 for 12 "
            "bits."
        )
    _check_alignment(cfg)
    if not 0 < cfg.DATASETS.TRAIN_FRACTION <= 1:
        raise ReIDError(f"DATASETS.TRAIN_FRACTION = {cfg.DATASETS.TRAIN_FRACTION}: expected a share above 0, up to 1.")
    if cfg.DATASETS.FOLDS == 1 or max(1, cfg.DATASETS.FOLDS) <= cfg.DATASETS.FOLD:
        raise ReIDError(
            f"DATASETS.FOLDS = {cfg.DATASETS.FOLDS} with DATASETS.FOLD = {cfg.DATASETS.FOLD}: expected two folds or "
            "more (0: none), and FOLD from 0 to FOLDS - 1."
        )
    if not cfg.DATASETS.NAMES:
        raise ReIDError("DATASETS.NAMES is empty: name a data set, see docs/datasets.md.")
    if not cfg.OUTPUT_DIR:
        raise ReIDError("OUTPUT_DIR is empty: name the folder that a run may write to.")


def _check_fit(cfg: CfgNode) -> None:
    train, test = cfg.INPUT.FIT_TRAIN, cfg.INPUT.FIT_TEST
    if train == "letterbox" and test != train:
        raise ReIDError(
            f"INPUT.FIT_TRAIN = letterbox with INPUT.FIT_TEST = {test}: test images would have other shapes than those "
            "of the training. Set both to letterbox."
        )
    if train == "letterbox" and cfg.INPUT.TRANSLATION:
        raise ReIDError(
            f"INPUT.FIT_TRAIN = letterbox with INPUT.TRANSLATION = {cfg.INPUT.TRANSLATION}, which stretches images. "
            "Set INPUT.TRANSLATION to 0; INPUT.PADDING moves images too."
        )


def _check_colours(cfg: CfgNode) -> None:
    ranges = cfg.INPUT.COLOR_RANGES
    if any(ranges) and cfg.INPUT.COLOR_JITTER:
        raise ReIDError(
            f"INPUT.COLOR_RANGES = {ranges} with INPUT.COLOR_JITTER = {cfg.INPUT.COLOR_JITTER}: both are the change of "
            "colours. Set one of them to 0."
        )
    if ranges[3] > 0.5:
        raise ReIDError(
            f"INPUT.COLOR_RANGES = {ranges}: the last one, of the hue, is a share of a full turn "
            "in each direction, at most 0.5. Lower it."
        )


def _check_alignment(cfg: CfgNode) -> None:
    if cfg.INPUT.ALIGN == "none":
        return
    if not cfg.INPUT.EXIF:
        raise ReIDError(
            f"INPUT.ALIGN = {cfg.INPUT.ALIGN} with INPUT.EXIF = False: key points are those of the upright "
            "photograph. Set INPUT.EXIF to True."
        )
    for key in ("INTERPOLATION_TRAIN", "INTERPOLATION_TEST"):
        if cfg.INPUT[key] == "lanczos":
            raise ReIDError(
                f"INPUT.{key} = lanczos with INPUT.ALIGN = {cfg.INPUT.ALIGN}: choose nearest, bilinear or bicubic "
                "to turn pictures."
            )


def _is_positive(text: str) -> bool:
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False


def _check_batches(cfg: CfgNode) -> None:
    """Batches of the stages that read images; stage 1 has its outputs cached."""
    for number in (0, 2):
        if number == 2 or number in cfg.SOLVER.STAGES:
            _check_batch(cfg, f"SOLVER.STAGE{number}.IMS_PER_BATCH", cfg.SOLVER[f"STAGE{number}"].IMS_PER_BATCH)


def _check_batch(cfg: CfgNode, key: str, batch: int) -> None:
    instances = cfg.DATALOADER.NUM_INSTANCE
    if cfg.DATALOADER.EPOCH == "identities" and cfg.DATALOADER.SAMPLER not in ("softmax_triplet", "triplet"):
        raise ReIDError(
            f"DATALOADER.EPOCH = identities with DATALOADER.SAMPLER = {cfg.DATALOADER.SAMPLER}, whose batches are not "
            "of identities. Set it to images."
        )
    if cfg.DATALOADER.SAMPLER == "softmax":
        if batch < 2 and 2 in cfg.SOLVER.STAGES:
            raise ReIDError(f"{key} = {batch}: batch normalisation needs at least 2 images in a batch.")
        return
    if cfg.DATALOADER.SAMPLER == "pairs":
        if batch % 2 or batch < 4:
            raise ReIDError(
                f"{key} = {batch} with DATALOADER.SAMPLER = pairs: must be even and at least 4, two pairs of images."
            )
        return
    if batch % instances:
        raise ReIDError(
            f"{key} = {batch} is not a multiple of DATALOADER.NUM_INSTANCE = {instances}; "
            f"the nearest that is: {max(2, round(batch / instances)) * instances}."
        )
    if batch // instances < 2:
        raise ReIDError(
            f"{key} = {batch} holds one identity of {instances} images (DATALOADER."
            f"NUM_INSTANCE); the triplet loss needs two: set IMS_PER_BATCH to {2 * instances} or more."
        )


def _check_schedules(cfg: CfgNode) -> None:
    for number in cfg.SOLVER.STAGES:
        name, stage = f"SOLVER.STAGE{number}", cfg.SOLVER[f"STAGE{number}"]
        if any(stage.CYCLES) and (stage.SCHEDULER != "cosine" or sum(stage.CYCLES) != stage.MAX_EPOCHS):
            raise ReIDError(
                f"{name}.CYCLES = {stage.CYCLES} with SCHEDULER {stage.SCHEDULER} and MAX_EPOCHS {stage.MAX_EPOCHS}: "
                "cycles are of the cosine schedule and add up to MAX_EPOCHS. Change them, or set CYCLES to [0] for one "
                "schedule."
            )
        if stage.SCHEDULER == "table" and (
            len(stage.FACTORS) != len(stage.STEPS) or sorted(set(stage.STEPS)) != stage.STEPS
        ):
            raise ReIDError(
                f"{name}.STEPS = {stage.STEPS} with {name}.FACTORS = {stage.FACTORS}: the table needs rising epochs "
                "and a factor for each."
            )
        if stage.SCHEDULER in ("multistep", "table"):
            continue
        ends = ["LR_MIN", *(["WARMUP_LR_INIT"] if stage.WARMUP_EPOCHS else [])]
        above = [f"{name}.{key} = {stage[key]:g}" for key in ends if stage[key] > stage.BASE_LR]
        if above:
            raise ReIDError(
                f"{' and '.join(above)} with {name}.BASE_LR = {stage.BASE_LR:g}: the {stage.SCHEDULER} schedule rises "
                "to BASE_LR and falls from it. Set both ends at or below BASE_LR."
            )


def _check_model(cfg: CfgNode) -> None:
    model = cfg.MODEL
    if model.NAME.startswith("RN") and cfg.SOLVER.GRAD_CHECKPOINTING:
        raise ReIDError(
            f"SOLVER.GRAD_CHECKPOINTING with MODEL.NAME = {model.NAME}: it is for transformer blocks. To save memory "
            "with a ResNet, raise SOLVER.STAGE2.MICRO_BATCHES."
        )
    if model.NAME.startswith(("RN", "timm/")) and (model.SIE_CAMERA or model.SIE_VIEW):
        raise ReIDError(
            f"MODEL.SIE_CAMERA/SIE_VIEW with MODEL.NAME = {model.NAME}: side information is added to the class token "
            "of CLIP's ViTs; a ResNet has none. Switch both off or take a ViT."
        )
    if model.NAME.startswith("timm/") and model.STRIDE_SIZE != [16, 16]:
        raise ReIDError(
            f"MODEL.STRIDE_SIZE = {model.STRIDE_SIZE} with MODEL.NAME = {model.NAME}: overlapping patches are of "
            "CLIP's ViTs. Leave it at [16, 16], which means the backbone's own."
        )
    if model.DROP_PATH >= 1:
        raise ReIDError(f"MODEL.DROP_PATH = {model.DROP_PATH}: must be below 1, or nothing is left of the last block.")
    if model.ID_LOSS_TYPE != "softmax" and cfg.DATALOADER.SAMPLER == "triplet":
        raise ReIDError(
            f"MODEL.ID_LOSS_TYPE = {model.ID_LOSS_TYPE} with DATALOADER.SAMPLER = triplet, which trains no ID loss: "
            "take softmax_triplet."
        )


def schedule_notes(cfg: CfgNode) -> list[str]:
    """Notes on schedule keys that have no effect in the given number of epochs."""
    notes = []
    for number in cfg.SOLVER.STAGES:
        name, stage = f"SOLVER.STAGE{number}", cfg.SOLVER[f"STAGE{number}"]
        epochs = f"{name}.MAX_EPOCHS = {stage.MAX_EPOCHS}"
        warmup = "WARMUP_ITERS" if stage.SCHEDULER == "multistep" else "WARMUP_EPOCHS"
        if stage.SCHEDULER != "table" and stage[warmup] > stage.MAX_EPOCHS:
            notes.append(
                f"{name}.{warmup} = {stage[warmup]} is more than {epochs}: the learning rate does not reach BASE_LR"
            )
        late = [step for step in stage.STEPS if step > stage.MAX_EPOCHS]
        if stage.SCHEDULER in ("multistep", "table") and late:
            notes.append(f"{name}.STEPS {', '.join(map(str, late))} come after {epochs}: they lower no learning rate")
    return notes


def _check_test(cfg: CfgNode) -> None:
    k1, k2 = cfg.TEST.RERANK_K1, cfg.TEST.RERANK_K2
    for key, value in (("RERANK_K1", k1), ("RERANK_K2", k2)):
        if value != "auto" and not (value.isdecimal() and int(value) >= 1):
            raise ReIDError(f"TEST.{key} = {value!r}: expected auto, or a whole number of at least 1.")
    if (k1 == "auto") != (k2 == "auto"):
        raise ReIDError(
            f"TEST.RERANK_K1 = {k1} with TEST.RERANK_K2 = {k2}: set both, or leave both at auto. The published pairs "
            "are 50 and 15, 20 and 6."
        )
    if k1 != "auto" and int(k2) > int(k1):
        raise ReIDError(
            f"TEST.RERANK_K2 = {k2} exceeds TEST.RERANK_K1 = {k1}; the published pairs are 50 and 15, 20 and 6."
        )
    for key in ("FAR", "FPIR"):
        rates = cfg.TEST[key]
        if any(not 0 < rate < 1 for rate in rates):
            raise ReIDError(f"TEST.{key} = {rates}: each must lie between 0 and 1, such as 0.001.")
    if not cfg.TEST.TEMPLATE_SIZE:
        raise ReIDError("TEST.TEMPLATE_SIZE = []: name at least one number of images, such as [1, 2, 4].")
    if cfg.TEST.METRIC == "visible":
        _check_visible(cfg)
    if cfg.TEST.RE_RANKING and cfg.TEST.METRIC != "euclidean":
        raise ReIDError(
            f"TEST.RE_RANKING with TEST.METRIC = {cfg.TEST.METRIC}: re-ranking is defined on Euclidean distances "
            "(the same order as cosine once TEST.FEAT_NORM is yes). Set TEST.METRIC to euclidean."
        )
    _check_local(cfg.TEST)
    if cfg.TEST.TARGETS and (cfg.MODEL.SIE_CAMERA or cfg.MODEL.SIE_VIEW):
        raise ReIDError(
            "TEST.TARGETS with MODEL.SIE_CAMERA or MODEL.SIE_VIEW: the cameras and views of another data set are not "
            "those that the model has learned. Set both to False, or TEST.TARGETS to []."
        )
    if cfg.TEST.DIST_MAT and not cfg.TEST.DIST_MAT.endswith(".npy"):
        raise ReIDError(f"TEST.DIST_MAT = {cfg.TEST.DIST_MAT!r}: the name must end in .npy, which is what is written.")


def _check_local(test: CfgNode) -> None:
    """Combinations of keys with matched skin detail."""
    if test.POINTS != "all" and not test.POINTS.isdecimal():
        raise ReIDError(
            f"TEST.POINTS = {test.POINTS!r}: expected the number of nearest images to order by points, such as 100, "
            "or all, or 0 to leave it out."
        )
    on = [f"TEST.{key} {test[key]}" for key, off in (("POINTS", "0"), ("LOCAL", "none")) if test[key] != off]
    if len(on) > 1:
        raise ReIDError(f"{' with '.join(on)}: each is a ranking of its own. Choose one of them.")
    if test.FUSE_LOCAL != "none" and test.POINTS == "0":
        raise ReIDError(
            f"TEST.FUSE_LOCAL = {test.FUSE_LOCAL!r} without TEST.POINTS: the joint score needs agreeing points. Set "
            "TEST.POINTS to a number of nearest images, such as 100, or to all."
        )
    if test.POINTS_MASK and test.POINTS == "0":
        raise ReIDError("TEST.POINTS_MASK without TEST.POINTS: no points are found. Set TEST.POINTS, such as to 100.")
    by_features = {"OPEN_SET": 0, "TEMPLATE": "none", "FUSE": "none", "SCORE_NORM": "none", "CALIBRATION": False}
    others = [f"TEST.{key}" for key, off in {**by_features, "DIST_MAT": ""}.items() if test[key] != off]
    if on and others:
        raise ReIDError(
            f"{on[0]} with {', '.join(others)}: these read features, and the ranking comes from scores of pairs of "
            "images. Leave one of them out."
        )


_NOT_BY_PARTS = {
    "FEAT_NORM": "no",
    "VERIFICATION": False,
    "SEARCH": "exact",
    "OPEN_SET": 0.0,
    "TEMPLATE": "none",
    "FUSE": "none",
    "SCORE_NORM": "none",
    "CALIBRATION": False,
    "GROUPS": [],
    "THRESHOLDS": [],
}
"""Keys of TEST with the one value that goes with METRIC visible, which is a ratio and no distance of vectors."""


def _check_visible(cfg: CfgNode) -> None:
    if cfg.MODEL.METHOD != "isp":
        raise ReIDError(
            f"TEST.METRIC = visible with MODEL.METHOD = {cfg.MODEL.METHOD}: only isp has parts with visibilities. Set "
            "it to euclidean."
        )
    for key, works in _NOT_BY_PARTS.items():
        if cfg.TEST[key] != works:
            raise ReIDError(
                f"TEST.{key} = {cfg.TEST[key]} with TEST.METRIC = visible: a ratio over the parts of both images "
                f"is not a distance of vectors. Set TEST.{key} to {works}, or TEST.METRIC to euclidean."
            )
