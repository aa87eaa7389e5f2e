"""Recipes with a published result have the settings of that result."""

from pathlib import Path

import pytest

from configs import load_config
from processor.compare import plan

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


@pytest.mark.parametrize(
    ("folder", "methods"),
    [("cnn", {}), ("transformers", {"transreid_base": "transreid"})],
)
def test_methods_of_one_kind_are_one_comparison(folder, methods, tmp_path):
    """One data set, test protocol, batches and rates; each configuration is called like its method."""
    files = sorted((CONFIGS / "hand" / "compare" / folder).glob("*.yml"))
    jobs = plan(files, [1], tmp_path, [])
    assert {job.name: job.settings["MODEL.METHOD"] for job in jobs} == {
        file.stem: methods.get(file.stem, file.stem) for file in files
    }
    alike = ("INPUT.SIZE_TRAIN", "SOLVER.STAGE2.BASE_LR", "SOLVER.STAGE2.IMS_PER_BATCH")
    for key in alike:
        assert len({str(job.settings[key]) for job in jobs}) == 1, key
    # CILP-FGDI spends some of them in stage 0.
    epochs = {
        sum(job.settings[f"SOLVER.STAGE{n}.MAX_EPOCHS"] for n in {0, 2} & set(job.settings["SOLVER.STAGES"]))
        for job in jobs
    }
    assert len(epochs) == 1


def test_augmentation_and_epochs_as_published():
    """What the public codes do besides flipping: each as a key."""
    person = {name: load_config(CONFIGS / "person" / f"{name}.yml")[0] for name in ("abdnet", "cbdb_net", "mgn", "pcb")}
    abdnet = person["abdnet"].INPUT
    assert (abdnet.TRANSLATION, abdnet.RE_AREA, abdnet.RE_FILL) == (0.5, 0.4, "value")
    assert abdnet.RE_VALUE == [0.4914, 0.4822, 0.4465]
    assert (person["cbdb_net"].INPUT.CUTOUT, person["cbdb_net"].INPUT.CUTOUT_SIZE) == (0.5, 64)
    mgn = person["mgn"]
    assert (mgn.INPUT.RE_FILL, mgn.INPUT.RE_VALUE) == ("value", [0, 0, 0])
    assert (mgn.DATALOADER.EPOCH, mgn.SOLVER.STAGE2.OPTIMIZER_NAME) == ("identities", "AMSGrad")
    assert (mgn.SOLVER.STAGE2.MAX_EPOCHS, mgn.SOLVER.STAGE2.STEPS) == (400, [320, 380])
    assert person["pcb"].SOLVER.STAGE2.NESTEROV
    assert load_config(CONFIGS / "hand" / "mba_net.yml")[0].INPUT.COLOR_FIRST
    horeid = load_config(CONFIGS / "person" / "horeid.yml")[0]
    assert (horeid.DATALOADER.EPOCH_BATCHES, horeid.SOLVER.STAGE2.MAX_EPOCHS) == (200, 120)
