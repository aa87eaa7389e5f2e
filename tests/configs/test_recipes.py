"""Recipes that carry a published number have the settings that it was published for."""

from pathlib import Path

from configs import load_config

CONFIGS = Path(__file__).parents[2] / "configs"


def test_zero_shot_as_published():
    cfg, _ = load_config(CONFIGS / "hand" / "vit_zeroshot.yml")
    assert (cfg.TEST.FEATURE, cfg.INPUT.FIT_TEST, cfg.INPUT.INTERPOLATION_TEST) == ("projected", "crop", "bicubic")
    # openai/CLIP, clip/clip.py
    assert cfg.INPUT.PIXEL_MEAN == [0.48145466, 0.4578275, 0.40821073]
    assert cfg.INPUT.PIXEL_STD == [0.26862954, 0.26130258, 0.27577711]
    assert cfg.INPUT.SIZE_TEST == [224, 224] and cfg.SOLVER.STAGES == []
    both, _ = load_config(CONFIGS / "hand" / "vit_zeroshot_both.yml")
    assert (both.TEST.FEATURE, both.INPUT.FIT_TEST) == ("both", "stretch")


def test_pcl_has_the_papers_settings():
    cfg, _ = load_config(CONFIGS / "person" / "vit_pcl.yml")
    stage = cfg.SOLVER.STAGE2
    assert (stage.OPTIMIZER_NAME, stage.BASE_LR, stage.WEIGHT_DECAY) == ("SGD", 3.5e-4, 5e-4)
    assert (stage.IMS_PER_BATCH, cfg.DATALOADER.NUM_INSTANCE) == (256, 8)
    assert stage.WEIGHT_DECAY_BIAS == stage.WEIGHT_DECAY and stage.BIAS_LR_FACTOR == 1
    assert cfg.MODEL.FREEZE_PATCHES and cfg.MODEL.ID_LOSS_WEIGHT == 0.25 and cfg.MODEL.MEMORY_MOMENTUM == 0.2
    # 60 epochs of 200 batches of 256 images; Market-1501 has 12,936 for training
    images = stage.MAX_EPOCHS * 12_936
    assert abs(images / (60 * 200 * 256) - 1) < 0.02
    assert [round(epoch / stage.MAX_EPOCHS, 3) for epoch in (stage.WARMUP_ITERS, *stage.STEPS)] == [0.167, 0.5, 0.833]
