"""Whole runs that must learn: losses fall, unseen people are distinguished better, and the seed does not matter."""

import pytest
import torch

import train_clipreid
from configs import load_config
from datasets import make_dataloader, make_dataset
from model import make_model
from model.base import Stage
from processor import do_train_stage1, do_train_stage2, start_run
from solver import make_optimizers, make_scheduler
from tests.scripts import metrics_of, train, words
from tests.toy_hands import make_toy_hands, write_config

LEARN = {
    "SOLVER.STAGE1.MAX_EPOCHS": 8,
    "SOLVER.STAGE1.BASE_LR": 0.003,
    "SOLVER.STAGE2.MAX_EPOCHS": 10,
    "SOLVER.STAGE2.IMS_PER_BATCH": 24,
    "SOLVER.STAGE2.STEPS": "[8]",
    "INPUT.RE_PROB": 0.0,
    "TEST.BEFORE_TRAINING": True,
}


def run(file, folder, options):
    train(file, "OUTPUT_DIR", folder, *words(options))
    return metrics_of(folder)


@pytest.mark.parametrize(("name", "rate"), [("ViT-Tiny-16", 0.0005), ("RN-Tiny", 0.002)])
def test_losses_fall_and_unseen_people_are_distinguished(tmp_path, name, rate):
    """Chance level is a mAP of about 20. Only colours identify; untrained networks respond to the stripes, too."""
    hands = make_toy_hands(tmp_path / "hands", train_ids=12, test_ids=8, images=6, clutter=0.2)
    metrics = run(
        write_config(hands, tmp_path / "run", name), tmp_path / "run", LEARN | {"SOLVER.STAGE2.BASE_LR": rate}
    )
    losses = {stage: [e["loss"] for e in metrics["history"] if e["stage"] == stage] for stage in (1, 2)}
    assert losses[1][-1] < losses[1][0] and losses[2][-1] < 0.75 * losses[2][0]
    second = [entry for entry in metrics["history"] if entry["stage"] == 2]
    assert second[-1]["id"] < 0.95 * second[0]["id"] and second[-1]["triplet"] < 0.8 * second[0]["triplet"]
    untrained, trained = metrics["results"]["untrained"]["mAP"], metrics["results"]["trained"]["mAP"]
    assert trained > 60 and trained > untrained + 15


def parts(config, *overrides):
    """What the script builds before it trains."""
    cfg, _ = load_config(config, overrides)
    run = start_run(cfg)
    dataset = make_dataset(cfg)
    model = make_model(cfg, train_clipreid.facts_of(cfg, dataset))
    return cfg, run, make_dataloader(cfg, dataset), model


def changed(model, before):
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


def copy(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("name", ["ViT-Tiny-16", "RN-Tiny"])
def test_stage_one_changes_the_prompts_and_nothing_else(config, name):
    cfg, run, loaders, model = parts(config, "MODEL.NAME", name)
    before = copy(model)
    stage, optimizers = model.stages[1], make_optimizers(cfg, model, 1)
    scheduler = make_scheduler(cfg.SOLVER.STAGE1, optimizers)
    do_train_stage1(cfg, model, stage, loaders.plain, optimizers, scheduler, run)
    assert changed(model, before) == {"prompt_learner.cls_ctx"}
    moved = (model.prompt_learner.cls_ctx - before["prompt_learner.cls_ctx"]).abs().amax((1, 2))
    assert (moved > 0).all(), "every identity's prompt is learned"


def train_stage2(cfg, run, loaders, model):
    optimizers = make_optimizers(cfg, model, 2)
    scheduler = make_scheduler(cfg.SOLVER.STAGE2, optimizers)
    given = (loaders.augmented(2), optimizers, scheduler, run, NoEvaluation)
    do_train_stage2(cfg, model, Stage(2), *given, plain_loader=loaders.plain)


class NoEvaluation:
    def summary(self):
        return {}


@pytest.mark.parametrize("name", ["ViT-Tiny-16", "RN-Tiny"])
def test_stage_two_trains_every_parameter_it_should(config, name):
    sie = ["MODEL.SIE_VIEW", "True"] if name.startswith("ViT") else []
    cfg, run, loaders, model = parts(config, "MODEL.NAME", name, "MODEL.METRIC_LOSS_TYPE", "triplet_center", *sie)
    before = copy(model)
    train_stage2(cfg, run, loaders, model)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    fixed = {name for name in before if name.startswith(("prompt_learner.", "text_encoder."))}
    fixed |= {"bottleneck.bias", "bottleneck_proj.bias"}
    assert trained == {name for name, _ in model.named_parameters()} - fixed
    assert "criterion.center.centers" in trained
    for parameter_name, parameter in model.named_parameters():
        if parameter_name in fixed:
            assert parameter.grad is None, parameter_name
        else:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, parameter_name
    assert not changed(model, before) & fixed
    assert trained <= changed(model, before)


@pytest.mark.parametrize("name", ["ViT-Tiny-16", "RN-Tiny"])
def test_same_seed_same_bits(config, tmp_path, name):
    """Also with images read by other processes, and whatever was drawn in this one before."""
    options = {"MODEL.NAME": name, "MODEL.METRIC_LOSS_TYPE": "triplet_center"}
    states = []
    for number, (workers, seed) in enumerate(((0, 1234), (2, 1234), (0, 4321))):
        torch.rand(number + 1)
        folder = tmp_path / str(number)
        run(config, folder, options | {"DATALOADER.NUM_WORKERS": workers, "SOLVER.SEED": seed})
        files = [folder / f"{name}_stage1_1.pth", folder / f"{name}_1.pth"]
        states.append([torch.load(file, weights_only=True) for file in files])
    for first, second, other in zip(*states, strict=True):
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)
        assert not torch.equal(first["image_encoder.conv1.weight"], other["image_encoder.conv1.weight"])
