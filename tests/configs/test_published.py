"""The published configurations: files laid out as theirs, and the values our recipes must have."""

from pathlib import Path

import pytest

from configs import load_config
from configs.published import RETIRED
from utils.errors import ReIDError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

CLIPREID = """
MODEL:
  PRETRAIN_CHOICE: 'imagenet'
  METRIC_LOSS_TYPE: 'triplet'
  IF_LABELSMOOTH: 'on'
  IF_WITH_CENTER: 'no'
  NAME: 'ViT-B-16'
  STRIDE_SIZE: [16, 16]
  ID_LOSS_WEIGHT : 0.25
  TRIPLET_LOSS_WEIGHT : 1.0
  I2T_LOSS_WEIGHT : 1.0
  # SIE_CAMERA: True
INPUT:
  SIZE_TRAIN: [256, 128]
  SIZE_TEST: [256, 128]
  PROB: 0.5
  RE_PROB: 0.5
  PADDING: 10
  PIXEL_MEAN: [0.5, 0.5, 0.5]
  PIXEL_STD: [0.5, 0.5, 0.5]
DATALOADER:
  SAMPLER: 'softmax_triplet'
  NUM_INSTANCE: 4
  NUM_WORKERS: 8
SOLVER:
  STAGE1:
    IMS_PER_BATCH: 64
    OPTIMIZER_NAME: "Adam"
    BASE_LR: 0.00035
    WARMUP_LR_INIT: 0.00001
    LR_MIN: 1e-6
    WARMUP_METHOD: 'linear'
    WEIGHT_DECAY:  1e-4
    WEIGHT_DECAY_BIAS: 1e-4
    MAX_EPOCHS: 120
    CHECKPOINT_PERIOD: 120
    LOG_PERIOD: 50
    WARMUP_EPOCHS: 5
  STAGE2:
    IMS_PER_BATCH: 64
    OPTIMIZER_NAME: "Adam"
    BASE_LR: 0.000005
    WARMUP_METHOD: 'linear'
    WARMUP_ITERS: 10
    WARMUP_FACTOR: 0.1
    WEIGHT_DECAY:  0.0001
    WEIGHT_DECAY_BIAS: 0.0001
    LARGE_FC_LR: False
    MAX_EPOCHS: 60
    CHECKPOINT_PERIOD: 60
    LOG_PERIOD: 50
    EVAL_PERIOD: 60
    BIAS_LR_FACTOR: 2
    STEPS: [30, 50]
    GAMMA: 0.1
TEST:
  EVAL: True
  IMS_PER_BATCH: 64
  RE_RANKING: False
  WEIGHT: ''
  NECK_FEAT: 'before'
  FEAT_NORM: 'yes'
DATASETS:
#  NAMES: ('market1501')
#  ROOT_DIR: ('../data')
# OUTPUT_DIR: '../logs'
"""

BASELINE = """
MODEL:
  PRETRAIN_CHOICE: 'imagenet'
  LAST_STRIDE: 1
  NECK: 'bnneck'
  METRIC_LOSS_TYPE: 'triplet'
  IF_LABELSMOOTH: 'on'
  IF_WITH_CENTER: 'no'
  NAME: 'RN50'
INPUT:
  SIZE_TRAIN: [256, 128]
  SIZE_TEST: [256, 128]
DATALOADER:
  SAMPLER: 'softmax_triplet'
SOLVER:
  MARGIN: 0.2
  OPTIMIZER_NAME: 'Adam'
  IMS_PER_BATCH: 32
  MAX_EPOCHS: 120
  BASE_LR: 3.5e-4
  WARMUP_METHOD: 'linear'
  WARMUP_ITERS: 10
  WARMUP_FACTOR: 0.01
  LARGE_FC_LR: False
  WEIGHT_DECAY: 5e-4
  WEIGHT_DECAY_BIAS: 5e-4
  BIAS_LR_FACTOR: 1
  CHECKPOINT_PERIOD: 120
  LOG_PERIOD: 50
  EVAL_PERIOD: 120
  STEPS: [40, 70]
  GAMMA: 0.1
  SEED: 4
TEST:
  EVAL: True
  NECK_FEAT: 'after'
DATASETS:
  NAMES: ('market1501')
  ROOT_DIR: ('../data')
OUTPUT_DIR: ('../logs/base')
"""


def write(folder, text):
    (folder / "published.yml").write_text(text)
    return folder / "published.yml"


def test_a_published_clipreid_file(tmp_path):
    overrides = ["DATASETS.NAMES", "('msmt17')", "MODEL.STRIDE_SIZE", "[12, 12]", "MODEL.SIE_CAMERA", "True"]
    cfg, notes = load_config(write(tmp_path, CLIPREID), [*overrides, "TEST.EVAL", "True"])
    assert cfg.MODEL.METHOD == "clipreid" and cfg.SOLVER.STAGES == [1, 2]
    one, two = cfg.SOLVER.STAGE1, cfg.SOLVER.STAGE2
    assert (one.LR_MIN, one.WEIGHT_DECAY, one.BASE_LR, one.WARMUP_LR_INIT) == (1e-6, 1e-4, 3.5e-4, 1e-5)
    assert (one.MAX_EPOCHS, one.WARMUP_EPOCHS, one.SCHEDULER) == (120, 5, "cosine")
    assert (two.BASE_LR, two.BIAS_LR_FACTOR, two.STEPS, two.SCHEDULER) == (5e-6, 2.0, [30, 50], "multistep")
    assert (cfg.MODEL.ID_LOSS_WEIGHT, cfg.MODEL.IF_WITH_CENTER, cfg.TEST.NECK_FEAT) == (0.25, "no", "before")
    assert (cfg.DATASETS.NAMES, cfg.MODEL.STRIDE_SIZE, cfg.MODEL.SIE_CAMERA) == ("msmt17", [12, 12], True)
    assert cfg.INPUT.INTERPOLATION_TEST == "bilinear" and cfg.DATASETS.ROOT_DIR == "data"
    assert sorted(note.split(" ")[0] for note in notes) == [
        "SOLVER.STAGE1.WEIGHT_DECAY_BIAS",
        "TEST.EVAL",
        "TEST.EVAL",
    ]


def test_a_published_file_is_our_recipe(tmp_path):
    ours, _ = load_config(CONFIGS / "person" / "vit_clipreid.yml", ["OUTPUT_DIR", "x"])
    assert load_config(write(tmp_path, CLIPREID), ["OUTPUT_DIR", "x"])[0] == ours


def test_a_published_baseline_with_a_flat_solver(tmp_path):
    cfg, notes = load_config(write(tmp_path, BASELINE))
    assert (cfg.MODEL.METHOD, cfg.SOLVER.STAGES, cfg.MODEL.NAME) == ("baseline", [2], "RN50")
    assert (cfg.SOLVER.MARGIN, cfg.SOLVER.SEED) == (0.2, 4)
    stage = cfg.SOLVER.STAGE2
    assert (stage.IMS_PER_BATCH, stage.BASE_LR, stage.WEIGHT_DECAY, stage.MAX_EPOCHS) == (32, 3.5e-4, 5e-4, 120)
    assert (stage.STEPS, stage.WARMUP_FACTOR, stage.BIAS_LR_FACTOR) == ([40, 70], 0.01, 1.0)
    assert (cfg.DATASETS.NAMES, cfg.DATASETS.ROOT_DIR, cfg.OUTPUT_DIR) == ("market1501", "../data", "../logs/base")
    assert {note.split(" ")[0] for note in notes} == {"SOLVER", "MODEL.LAST_STRIDE", "MODEL.NECK", "TEST.EVAL"}


@pytest.mark.parametrize("key", sorted(RETIRED))
def test_retired_keys_change_nothing_and_are_reported(tmp_path, key):
    *groups, leaf = key.split(".")
    text = "".join("  " * depth + group + ":\n" for depth, group in enumerate(groups))
    cfg, notes = load_config(write(tmp_path, text + "  " * len(groups) + f"{leaf}: 1\n"))
    assert cfg == load_config()[0] and len(notes) == 1 and key in notes[0] and RETIRED[key] in notes[0]
    cfg, notes = load_config(None, [key, "1"])
    assert cfg == load_config()[0] and len(notes) == 1 and key in notes[0]


def test_a_typo_in_a_published_file_keeps_its_place(tmp_path):
    with pytest.raises(ReIDError, match=r"published.yml: unknown key SOLVER.STAGE2.STEP\. .*SOLVER.STAGE2.STEPS"):
        load_config(write(tmp_path, BASELINE.replace("STEPS", "STEP")))


VIT = {
    "MODEL.NAME": "ViT-B-16",
    "INPUT.PIXEL_MEAN": [0.5] * 3,
    "INPUT.PIXEL_STD": [0.5] * 3,
    "SOLVER.STAGE2.OPTIMIZER_NAME": "Adam",
    "SOLVER.STAGE2.BASE_LR": 5e-6,
    "SOLVER.STAGE2.WEIGHT_DECAY": 1e-4,
    "SOLVER.STAGE2.BIAS_LR_FACTOR": 2.0,
    "SOLVER.STAGE2.MAX_EPOCHS": 60,
    "SOLVER.STAGE2.SCHEDULER": "multistep",
    "SOLVER.STAGE2.WARMUP_ITERS": 10,
    "SOLVER.STAGE2.WARMUP_FACTOR": 0.1,
    "SOLVER.STAGE2.STEPS": [30, 50],
    "SOLVER.STAGE2.GAMMA": 0.1,
    "MODEL.STRIDE_SIZE": [16, 16],
}
RN = {
    "MODEL.NAME": "RN50",
    "INPUT.PIXEL_MEAN": [0.485, 0.456, 0.406],
    "INPUT.PIXEL_STD": [0.229, 0.224, 0.225],
    "SOLVER.STAGE2.OPTIMIZER_NAME": "Adam",
    "SOLVER.STAGE2.BASE_LR": 3.5e-4,
    "SOLVER.STAGE2.WEIGHT_DECAY": 5e-4,
    "SOLVER.STAGE2.MAX_EPOCHS": 120,
    "SOLVER.STAGE2.WARMUP_ITERS": 10,
    "SOLVER.STAGE2.WARMUP_FACTOR": 0.01,
    "SOLVER.STAGE2.STEPS": [40, 70],
    "SOLVER.STAGE2.GAMMA": 0.1,
    "MODEL.ID_LOSS_WEIGHT": 1.0,
}
BOTH = {
    "SOLVER.STAGE1.OPTIMIZER_NAME": "Adam",
    "SOLVER.STAGE1.BASE_LR": 3.5e-4,
    "SOLVER.STAGE1.WEIGHT_DECAY": 1e-4,
    "SOLVER.STAGE1.SCHEDULER": "cosine",
    "SOLVER.STAGE1.WARMUP_EPOCHS": 5,
    "SOLVER.STAGE1.WARMUP_LR_INIT": 1e-5,
    "SOLVER.STAGE1.LR_MIN": 1e-6,
    "SOLVER.STAGE2.IMS_PER_BATCH": 64,
    "DATALOADER.SAMPLER": "softmax_triplet",
    "DATALOADER.NUM_INSTANCE": 4,
    "MODEL.TRIPLET_LOSS_WEIGHT": 1.0,
    "MODEL.I2T_LOSS_WEIGHT": 1.0,
    "SOLVER.MARGIN": 0.3,
    "INPUT.PROB": 0.5,
    "INPUT.PADDING": 10,
    "INPUT.RE_PROB": 0.5,
    "INPUT.INTERPOLATION_TRAIN": "bicubic",
    "INPUT.INTERPOLATION_TEST": "bilinear",
    "TEST.NECK_FEAT": "before",
    "TEST.FEAT_NORM": "yes",
    "TEST.RE_RANKING": False,
}
PERSON = {"INPUT.SIZE_TRAIN": [256, 128], "INPUT.SIZE_TEST": [256, 128], "SOLVER.STAGE1.IMS_PER_BATCH": 64}
VEHICLE = {"INPUT.SIZE_TRAIN": [256, 256], "INPUT.SIZE_TEST": [256, 256], "SOLVER.STAGE1.MAX_EPOCHS": 60}
TEXT, NO_TEXT = (
    {"MODEL.METHOD": "clipreid", "SOLVER.STAGES": [1, 2]},
    {"MODEL.METHOD": "baseline", "SOLVER.STAGES": [2]},
)

PUBLISHED = {
    "person/vit_clipreid": PERSON | VIT | TEXT | {"SOLVER.STAGE1.MAX_EPOCHS": 120, "MODEL.ID_LOSS_WEIGHT": 0.25},
    "person/cnn_clipreid": PERSON | RN | TEXT | {"SOLVER.STAGE1.MAX_EPOCHS": 60},
    "person/vit_base": PERSON | VIT | NO_TEXT,
    "person/cnn_base": PERSON | RN | NO_TEXT,
    "veri/vit_clipreid": VEHICLE | VIT | TEXT | {"DATASETS.NAMES": "veri"},
    "veri/cnn_clipreid": VEHICLE | RN | TEXT | {"DATASETS.NAMES": "veri"},
    "VehicleID/vit_clipreid": VEHICLE | VIT | TEXT | {"SOLVER.STAGE2.BASE_LR": 5e-5, "DATASETS.NAMES": "vehicleid"},
    "VehicleID/cnn_clipreid": VEHICLE | RN | TEXT | {"DATASETS.NAMES": "vehicleid"},
}
"""Values of the paper and its released recipes, by our file's name."""

HAND = {
    "hand/clip_hand_stage1": {
        "SOLVER.STAGES": [1],
        "SOLVER.STAGE1.OPTIMIZER_NAME": "AdamW",
        "SOLVER.STAGE1.BASE_LR": 5e-4,
        "SOLVER.STAGE1.SCHEDULER": "cosine",
        "SOLVER.STAGE1.MAX_EPOCHS": 60,
        "MODEL.PROMPT": "A photo of a X X X X hand.",
    },
    "hand/clip_hand_stage2": {
        "SOLVER.STAGES": [2],
        "SOLVER.STAGE2.OPTIMIZER_NAME": "AdamW",
        "SOLVER.STAGE2.BASE_LR": 1e-5,
        "SOLVER.STAGE2.SCHEDULER": "multistep",
        "SOLVER.STAGE2.MAX_EPOCHS": 60,
        "SOLVER.STAGE2.IMS_PER_BATCH": 64,
    },
    "hand/vit_clipreid": {"SOLVER.STAGES": [1, 2], "MODEL.NAME": "ViT-B-16", "MODEL.SIE_VIEW": False},
    "hand/cnn_clipreid": {"SOLVER.STAGES": [1, 2], "MODEL.NAME": "RN50"},
    "hand/vit_clipreid_sie_olp": {"MODEL.SIE_VIEW": True, "MODEL.STRIDE_SIZE": [12, 12], "MODEL.SIE_CAMERA": False},
}
"""Values of this project's recipes for hands."""


@pytest.mark.parametrize("name", [*PUBLISHED, *HAND])
def test_recipes_have_the_expected_values(name):
    cfg, _ = load_config(CONFIGS / f"{name}.yml")
    square = {"INPUT.SIZE_TRAIN": [224, 224], "INPUT.SIZE_TEST": [224, 224], "DATASETS.NAMES": "hand"}
    expected = BOTH | PUBLISHED[name] if name in PUBLISHED else square | HAND[name]
    found = {}
    for key in expected:
        node = cfg
        for part in key.split("."):
            node = node[part]
        found[key] = node
    assert found == expected


def test_hand_stage_two_starts_from_what_stage_one_writes():
    one, _ = load_config(CONFIGS / "hand" / "clip_hand_stage1.yml")
    two, _ = load_config(CONFIGS / "hand" / "clip_hand_stage2.yml")
    written = f"{one.OUTPUT_DIR}/{one.MODEL.NAME}_stage1_{one.SOLVER.STAGE1.MAX_EPOCHS}.pth"
    assert written == two.MODEL.STAGE1_WEIGHT
    assert (one.MODEL.PROMPT, one.INPUT, one.DATASETS) == (two.MODEL.PROMPT, two.INPUT, two.DATASETS)
