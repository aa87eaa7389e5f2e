"""The value of each key alone: its choices, its length, its range."""

from __future__ import annotations

import math
from typing import Any

from utils.errors import ReIDError, require_choice

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
YES_NO = ("yes", "no")

CHOICES: dict[str, tuple] = {
    "MODEL.DEVICE": ("auto", "cuda", "mps", "cpu"),
    "MODEL.PRETRAIN_CHOICE": ("imagenet", "hands", "random"),
    "MODEL.ACTIVATION": ("quick_gelu", "gelu"),
    "MODEL.TEXT_LOSS": ("none", "i2t", "i2t+t2i", "i2tce", "i2tce+t2i"),
    "MODEL.TEXT_CONTROL": ("none", "shuffled"),
    "MODEL.SIE_ON": ("cls", "all"),
    "MODEL.ID_LOSS_TYPE": ("softmax", "arcface", "cosface", "amsoftmax", "circle"),
    "MODEL.METRIC_LOSS_TYPE": ("triplet", "center", "triplet_center"),
    "MODEL.IF_WITH_CENTER": YES_NO,
    "MODEL.COOP.POSITION": ("end", "middle"),
    "MODEL.COOP.NAMES": ("identity", "attributes"),
    "MODEL.MBA_NET.POSITIONS": ("value", "axial", "none"),
    "MODEL.LAGA_NET.POSITIONS": ("value", "axial", "none"),
    "MODEL.RGA_NET.BRANCH": ("both", "spatial", "channel"),
    "MODEL.PCB.STRIPES": ("even", "overlap", "adaptive"),
    "MODEL.CAL.FEATURE": ("score", "neck"),
    "MODEL.MGN.CE_DIM": (256, 2048),
    "MODEL.ABDNET.OW": ("stem", "all", "none"),
    "MODEL.CBDB_NET.DROP": ("three quarters", "whole"),
    "MODEL.PAT.MASK": ("softmax", "sigmoid"),
    "MODEL.PAT.NORM": ("behind", "before"),
    "MODEL.PAT.PART_LOSS": ("mean", "joined"),
    "MODEL.PAT.FEATURE": ("both", "whole", "parts"),
    "MODEL.AAFORMER.SIMILARITY": ("projected", "tokens"),
    "MODEL.CILP_FGDI.APN": ("euclidean", "cosine", "released"),
    "MODEL.PROMPTSG.REDUCTION": ("mean", "sum"),
    "MODEL.PROMPTSG.TEST": ("composed", "fixed"),
    "MODEL.ISP.ORDER": ("top", "centre"),
    "MODEL.IF_LABELSMOOTH": ("on", "off"),
    "INPUT.INTERPOLATION_TRAIN": INTERPOLATIONS,
    "INPUT.INTERPOLATION_TEST": INTERPOLATIONS,
    "INPUT.FIT_TRAIN": ("stretch", "letterbox"),
    "INPUT.FIT_TEST": ("stretch", "crop", "letterbox"),
    "INPUT.RE_FILL": ("noise", "mean", "value"),
    "INPUT.ALIGN": ("none", "rotate", "crop", "palm"),
    "DATASETS.CAMERA_RULE": ("auto", "market", "none"),
    "DATASETS.ASPECT": ("dorsal right", "dorsal left", "palmar right", "palmar left", "all"),
    "DATASETS.GALLERY": ("all", "aspect"),
    "DATASETS.RUN": tuple(range(10)),
    "DATASETS.TRAIN_FRACTION_BY": ("ids", "images"),
    "DATASETS.TEST_SIZE": (800, 1600, 2400),
    "DATASETS.BAD_IMAGES": ("error", "skip"),
    "DATASETS.PROTOCOL": ("auto", "open", "closed", "all_pairs", "fvc", "pairs"),
    "DATASETS.CACHE": ("none", "ram", "disk"),
    "DATALOADER.EPOCH": ("images", "identities"),
    "DATALOADER.SAMPLER": ("softmax", "softmax_triplet", "triplet", "pairs"),
    "SOLVER.PRECISION": ("auto", "fp32", "bf16", "fp16"),
    "SOLVER.STAGES": ([], [0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]),
    "TEST.PRECISION": ("fp32", "bf16", "fp16"),
    "TEST.NECK_FEAT": ("before", "after"),
    "TEST.FEATURE": ("both", "image", "projected"),
    "TEST.FEAT_NORM": YES_NO,
    "TEST.METRIC": ("euclidean", "cosine", "visible"),
    "TEST.AP": ("standard", "trapezoid"),
    "TEST.SEARCH": ("exact", "faiss"),
    "TEST.LOCAL": ("none", "poc"),
    "TEST.TEMPLATE": ("none", "gallery", "both"),
    "TEST.TEMPLATE_RULE": ("mean_feature", "best", "mean_score"),
    "TEST.FUSE": ("none", "mean", "logistic"),
    "TEST.SCORE_NORM": ("none", "z", "t", "s", "as"),
} | {
    f"SOLVER.{stage}.{key}": choices
    for stage in ("STAGE0", "STAGE1", "STAGE2")
    for key, choices in {
        "OPTIMIZER_NAME": ("Adam", "AMSGrad", "AdamW", "SGD"),
        "SCHEDULER": ("cosine", "multistep", "polynomial", "table"),
        "WARMUP_METHOD": ("linear", "constant"),
        "STEP_EACH": ("epoch", "iteration"),
    }.items()
}

_AT_LEAST_ONE = {
    *("CHECKPOINTS_KEPT", "CHECKPOINT_PERIOD", "CLUSTER_EVERY", "CLUSTER_UNTIL", "CONTEXT", "CUTOUT_SIZE"),
    *("DECODERS", "ENCODERS", "EVAL_PERIOD", "GROUPS", "HEADS", "HIDDEN", "IMAGES_PER_ID", "IMS_PER_BATCH"),
    *("ITERATIONS", "LOG_PERIOD", "MAPS", "MASKS", "MATCHING_EPOCH", "MAX_EPOCHS", "MICRO_BATCHES", "NUM_INSTANCE"),
    *("PARTS", "REDUCED", "RESTARTS", "RUNS", "SHIFT", "SIZE", "SIZE_TEST", "SIZE_TRAIN", "STRIDE_SIZE"),
    *("TEMPLATE_SIZE", "TEST_IDS", "TRAIN_IDS", "WIDTH"),
}
_POSITIVE = {
    *("BASE_LR", "CENTER_LR", "COSINE_SCALE", "DOMAIN_LR", "EPS", "LAYER_DECAY", "MAX_SCALE", "MEMORY_TEMPERATURE"),
    *("NEW_LR_FACTOR", "PIXEL_STD", "POWER", "RATIO", "RE_AREA", "TEMPERATURE"),
}
_SHARES = {
    *("APN_WEIGHT", "ATTRIBUTE_WEIGHT", "AUGMIX_PROB", "COLOR_JITTER", "COLOR_PROB", "COLOR_RANGES", "CUTOUT"),
    *("DROPOUT", "DROP_PATH", "GAMMA", "GLOBAL_WEIGHT", "GREY_PROB", "HEAD_DROPOUT", "LAYER_DECAY"),
    *("MEMORY_MOMENTUM", "OPEN_SET", "PLAIN_SHARE", "PROB", "RATIO", "RERANK_LAMBDA", "RE_AREA", "RE_PROB"),
    *("TRANSLATION", "WARMUP_FACTOR"),
}
_LENGTHS = {
    **dict.fromkeys(("RESIZE", "SIZE_TRAIN", "SIZE_TEST", "STRIDE_SIZE", "POSITION_GRID"), 2),
    **dict.fromkeys(("PIXEL_MEAN", "PIXEL_STD", "RE_VALUE"), 3),
    "COLOR_RANGES": 4,
}
_MAY_BE_NEGATIVE = {"PIXEL_MEAN", "RE_VALUE", "SIE_COE", "THRESHOLDS"}
_LARGEST_SEED = 2**32 - 1


def check_value(key: str, value: Any) -> None:
    """Refuse a value that cannot work whatever the others are.

    Args:
        key: in full, ``SOLVER.STAGE2.BASE_LR``.
        value: of the key.

    Raises:
        ReIDError: it is none of the key's choices, too long or short, or out of range.
    """
    if key in CHOICES:
        require_choice(key, value, CHOICES[key])
    leaf = key.split(".")[-1]
    values = value if isinstance(value, list) else [value]
    if leaf in _LENGTHS and len(values) != _LENGTHS[leaf]:
        raise ReIDError(f"{key} = {value!r}: expected {_LENGTHS[leaf]} numbers, found {len(values)}.")
    for number in values:
        if isinstance(number, str) and "\0" in number:
            raise ReIDError(f"{key} = {value!r}: a name cannot contain a null character.")
        if isinstance(number, (bool, str)):
            continue
        if not math.isfinite(number):
            raise ReIDError(f"{key} = {value!r}: expected a finite number.")
        if leaf in _AT_LEAST_ONE and number < 1:
            raise ReIDError(f"{key} = {value!r}: must be at least 1.")
        if leaf in _POSITIVE and number <= 0:
            raise ReIDError(f"{key} = {value!r}: must be greater than 0.")
        if leaf in _SHARES and not 0 <= number <= 1:
            raise ReIDError(f"{key} = {value!r}: must lie between 0 and 1.")
        if key == "SOLVER.SEED" and number > _LARGEST_SEED:
            raise ReIDError(f"{key} = {value!r}: NumPy takes seeds up to {_LARGEST_SEED}.")
        if leaf not in _MAY_BE_NEGATIVE and number < 0:
            raise ReIDError(f"{key} = {value!r}: must not be negative.")
