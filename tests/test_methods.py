"""Whole runs of the methods that CLIP-ReID is compared with: they learn, train what they should, survive a kill."""

import json
import signal

import pytest
import torch

import train_clipreid
from configs import load_config
from datasets import make_dataloader, make_dataset
from model import make_model
from model.base import Stage
from processor import do_train_stage2, start_run
from solver import make_optimizers, make_scheduler
from tests.run_client import Runs
from tests.scripts import words
from tests.toy_hands import write_config

METHODS = {
    "handid": {
        "MODEL.METHOD": "handid",
        "MODEL.PROMPT": "A photo of a X hand",
        "MODEL.TRIPLET_LOSS_WEIGHT": 0.0,
        "SOLVER.STAGE2.NEW_LR_FACTOR": 2.0,
    },
    "pcl": {"MODEL.METHOD": "pcl", "MODEL.TRIPLET_LOSS_WEIGHT": 0.0, "MODEL.ID_LOSS_WEIGHT": 0.25},
    "pcl once": {"MODEL.METHOD": "pcl", "MODEL.MEMORY_REBUILD": False},
    "tfmemory": {"MODEL.METHOD": "tfmemory"},
    "one stage": {"MODEL.ONE_STAGE": True, "MODEL.TEXT_LOSS": "i2t+t2i"},
}
FROZEN = ("text_encoder.", "all_texts", "bottleneck.bias", "bottleneck_proj.bias", "prompt_learner.token", "template.")


def train(file, options):
    """What the script does, step by step; the state before and after, and the losses."""
    cfg, _ = load_config(file, words(options))
    run = start_run(cfg)
    dataset = make_dataset(cfg)
    loaders = make_dataloader(cfg, dataset)
    model = make_model(cfg, train_clipreid.facts_of(cfg, dataset))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizers = make_optimizers(cfg, model, 2)
    scheduler = make_scheduler(cfg.SOLVER.STAGE2, optimizers)
    given = (loaders.augmented(2), optimizers, scheduler, run, None)
    do_train_stage2(cfg, model, Stage(2), *given, plain_loader=loaders.plain)
    after = model.state_dict()
    return before, after, {name for name, _ in model.named_parameters()}, run


@pytest.mark.parametrize("name", METHODS)
def test_it_learns_and_changes_what_it_should(hands, tmp_path, name):
    options = METHODS[name] | {
        **{"SOLVER.STAGES": [2], "SOLVER.STAGE2.MAX_EPOCHS": 5, "INPUT.RE_PROB": 0.0},
        "SOLVER.STAGE2.EVAL_PERIOD": 5,
    }
    before, after, parameters, run = train(write_config(hands, tmp_path / "run"), options)
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    frozen = {name for name in after if name.startswith(FROZEN)}
    assert parameters - frozen <= changed and not changed & frozen
    assert run.trained == {name: before[name].numel() for name in parameters - frozen}
    assert ("memory" in changed) == ("memory" in after)
    losses = [entry["loss"] for entry in run.history]
    assert losses[-1] < 0.95 * losses[0], losses


@pytest.mark.parametrize("name", METHODS)
def test_a_killed_run_resumes_to_the_same_bits(driver, hands, tmp_path, name):
    options = {key.replace(".", "__"): value for key, value in METHODS[name].items()} | {"SOLVER__STAGES": [2]}
    options |= {"MODEL__METRIC_LOSS_TYPE": "triplet", "TEST__BEFORE_TRAINING": False}
    options |= {"SOLVER__STAGE2__EVAL_PERIOD": 3, "SOLVER__STAGE2__MAX_EPOCHS": 2}
    folders = [tmp_path / name for name in ("whole", "killed")]
    whole, killed = (Runs(driver, hands, folder, **options) for folder in folders)
    assert whole()["status"] == 0
    # In the middle of the second epoch, the state behind its first iteration being the last.
    done = killed(4, "signal SIGKILL", "step: stage 2")
    assert done["status"] == -signal.SIGKILL, done["said"]
    done = killed()
    assert done["status"] == 0, done["said"]
    assert killed.numbers() == whole.numbers()
    found, expected = killed.weights(), whole.weights()
    assert found.keys() == expected.keys() and len(found) == 1
    for file, state in found.items():
        assert all(torch.equal(tensor, expected[file][key]) for key, tensor in state.items()), file


def test_a_checkpoint_with_a_memory_is_tested(hands, tmp_path):
    """The command line end: ``metrics.json`` counts what was trained, and the test leaves the memory alone."""
    import test_clipreid

    folder = tmp_path / "run"
    options = {"MODEL.METHOD": "tfmemory", "SOLVER.STAGES": [2]}
    argv = ["--config_file", str(write_config(hands, folder)), *words(options)]
    assert train_clipreid.main(argv) == 0
    metrics = json.loads((folder / "metrics.json").read_text())
    state = torch.load(folder / "ViT-Tiny-16_1.pth", weights_only=True)
    idle = ("memory", "bottleneck.bias", "bottleneck_proj.bias")
    counted = [
        t.numel() for name, t in state.items() if name not in idle and "running" not in name and "num_b" not in name
    ]
    assert metrics["parameters_trained"] == sum(counted)
    assert test_clipreid.main([*argv, "TEST.WEIGHT", str(folder / "ViT-Tiny-16_1.pth")]) == 0
    tested = json.loads((folder / "metrics.json").read_text())
    assert tested["parameters_trained"] == metrics["parameters_trained"]
    assert tested["results"]["test"]["mAP"] == pytest.approx(metrics["results"]["trained"]["mAP"])
