"""How YAML files of the published code are read: keys that have no effect there, and its baselines' flat solver."""

RETIRED = {
    "MODEL.LAST_STRIDE": "the last stage of ResNets always has stride 1",
    "MODEL.NECK": "the BNNeck is always there",
    "MODEL.DIST_TRAIN": "torchrun decides",
    "MODEL.COS_LAYER": "use MODEL.ID_LOSS_TYPE",
    "MODEL.DROP_OUT": "CLIP has none",
    "MODEL.ATT_DROP_RATE": "CLIP has none",
    "MODEL.TRANSFORMER_TYPE": "use MODEL.NAME",
    "SOLVER.STAGE1.COSINE_MARGIN": "stage 1 has no ID loss",
    "SOLVER.STAGE1.COSINE_SCALE": "stage 1 has no ID loss",
    "TEST.EVAL": "the test always evaluates",
}
"""Keys that published YAML files may hold and that change nothing, each with the reason."""

RETIRED_IN_CLIP_REID = {
    "SOLVER.STAGE1.WEIGHT_DECAY_BIAS": "stage 1 of CLIP-ReID trains no bias",
    "SOLVER.STAGE1.EVAL_PERIOD": "stage 1 of CLIP-ReID does not change the image features",
}
"""Likewise in files that name no method, as published ones do; other methods have image stages that read these keys."""

EQUIVALENT = {
    "TEST.DISTANCE_METRIC": "TEST.METRIC",
    "TEST.DO_RERANK": "TEST.RE_RANKING",
    "TEST.RERANK.ENABLED": "TEST.RE_RANKING",
    "TEST.RERANK.K1": "TEST.RERANK_K1",
    "TEST.RERANK.K2": "TEST.RERANK_K2",
    "TEST.RERANK.LAMBDA": "TEST.RERANK_LAMBDA",
    "RE_RANKING.K1": "TEST.RERANK_K1",
    "RE_RANKING.K2": "TEST.RERANK_K2",
    "RE_RANKING.LAMBDA_VALUE": "TEST.RERANK_LAMBDA",
    "TEST.FLIP_FEATS": "TEST.FLIP",
    "TEST.FLIP.ENABLED": "TEST.FLIP",
    "MODEL.WEIGHTS": "TEST.WEIGHT",
    "MODEL.BACKBONE": "MODEL.NAME",
    "MODEL.BACKBONE.NAME": "MODEL.NAME",
    "MODEL.PRETRAIN": "MODEL.PRETRAIN_PATH",
    "SOLVER.STAGE1.PRETRAIN": "MODEL.PRETRAIN_PATH",
    "SOLVER.FP16": "SOLVER.PRECISION",
    "SOLVER.AMP": "SOLVER.PRECISION",
    "USE_MIXED_PRECISION": "SOLVER.PRECISION",
    "DETERMINISTIC": "SOLVER.DETERMINISTIC",
    "GPU_IDS": "MODEL.DEVICE_ID",
    "INPUT.FLIP_PROB": "INPUT.PROB",
    "INPUT.FLIP.PROB": "INPUT.PROB",
    "INPUT.REA.PROB": "INPUT.RE_PROB",
    "DATALOADER.K": "DATALOADER.NUM_INSTANCE",
}
"""Keys of forks of the published code and of its relatives (TransReID, FastReID), each with what it is called here."""


def retired_note(key: str) -> str:
    """Why a key of :data:`RETIRED` has no effect."""
    return f"{key} has no effect: {RETIRED[key]}."


def translate(tree: dict) -> tuple[dict, list[str]]:
    """Turn a published configuration into ours.

    Retired keys are dropped. The published baselines keep their one stage's settings directly under ``SOLVER``;
    those move to ``SOLVER.STAGE2``, the method becomes ``baseline`` and only stage 2 runs.

    Args:
        tree: the nested mapping of one YAML file.

    Returns:
        A new nested mapping and one note for each thing that was dropped or moved.
    """
    notes: list[str] = []
    model = tree.get("MODEL") or {}
    named = isinstance(model, dict) and ("METHOD" in model or "_BASE_" in tree)
    retired = RETIRED if named else RETIRED | RETIRED_IN_CLIP_REID

    def without_retired(node: dict, prefix: str) -> dict:
        kept = {}
        for key, value in node.items():
            name = f"{prefix}{key}"
            if name in retired:
                notes.append(f"{name} has no effect: {retired[name]}.")
            else:
                kept[key] = without_retired(value, f"{name}.") if isinstance(value, dict) else value
        return kept

    solver = tree.get("SOLVER")
    flat = isinstance(solver, dict) and "BASE_LR" in solver and not {"STAGE1", "STAGE2"} & solver.keys()
    if flat and isinstance(model, dict):
        ours = {key: value for key, value in solver.items() if key in ("SEED", "MARGIN", "PRECISION")}
        stage = {key: value for key, value in solver.items() if key not in ours}
        model = {"METHOD": "baseline", **model}
        tree = {**tree, "MODEL": model, "SOLVER": {**ours, "STAGES": [2], "STAGE2": stage}}
        notes.append("SOLVER has no stages: read as the published baseline (MODEL.METHOD baseline).")
    return without_retired(tree, ""), notes
