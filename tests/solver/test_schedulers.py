import math

import pytest
import torch

from configs import load_config
from configs.checks import check_config
from solver import (
    EpochScheduler,
    WarmupMultiStepLR,
    cosine_lr,
    create_scheduler,
    make_optimizers,
    make_scheduler,
    multistep_factor,
)
from tests.solver.conftest import CURVES, RECIPES, small_model
from utils.errors import ReIDError

COSINE = {"num_epochs": 60, "lr_min": 1e-6, "warmup_lr_init": 1e-5, "warmup_t": 5}
MULTISTEP = {
    "milestones": [30, 50],
    "gamma": 0.1,
    "warmup_factor": 0.1,
    "warmup_iters": 10,
    "warmup_method": "linear",
}


def sgd(*rates):
    return torch.optim.SGD([{"params": [torch.zeros(1)], "lr": lr} for lr in rates])


def curve(scheduler, epochs=131):
    """Rates before the first step and during epochs 1, 2, ..., as rows."""
    rows = [scheduler.get_lr()]
    for epoch in range(1, epochs):
        scheduler.step(epoch)
        rows.append([group["lr"] for group in scheduler.optimizers[0].param_groups])
    return rows


@pytest.mark.parametrize("recipe", RECIPES)
def test_golden_stage1(recipe):
    cfg = RECIPES[recipe]
    scheduler = make_scheduler(cfg.SOLVER.STAGE1, make_optimizers(cfg, small_model(), 1))
    rates = [row[0] for row in curve(scheduler)]
    assert rates == pytest.approx(CURVES[f"{recipe}.stage1_lr"], rel=0, abs=1e-12)


@pytest.mark.parametrize("recipe", RECIPES)
def test_golden_stage2(recipe):
    cfg = RECIPES[recipe]
    scheduler = make_scheduler(cfg.SOLVER.STAGE2, make_optimizers(cfg, small_model(), 2))
    weights, biases = zip(*curve(scheduler), strict=True)
    assert weights == pytest.approx(CURVES[f"{recipe}.stage2_lr_weights"], rel=0, abs=1e-12)
    assert biases == pytest.approx(CURVES[f"{recipe}.stage2_lr_biases"], rel=0, abs=1e-12)


def test_cosine_landmarks():
    def lr(epoch, **changes):
        return cosine_lr(epoch, 1e-3, **{**COSINE, **changes})

    assert lr(0) == 1e-5
    assert lr(30) == pytest.approx((1e-3 + 1e-6) / 2)
    assert lr(59) > 1e-6
    assert lr(60) == lr(61) == 1e-6
    assert lr(0, warmup_t=0) == 1e-3
    assert lr(5) < 1e-3  # the cosine has been running during the warm-up


def test_multistep_landmarks():
    def factor(epoch, **changes):
        return multistep_factor(epoch, **{**MULTISTEP, **changes})

    assert factor(0) == 0.1 and factor(5) == pytest.approx(0.55) and factor(10) == 1
    assert factor(29) == 1 and factor(30) == pytest.approx(0.1) and factor(50) == pytest.approx(0.01)
    assert factor(30, milestones=[50, 30]) == pytest.approx(0.1)
    assert factor(9, warmup_method="constant") == 0.1 and factor(10, warmup_method="constant") == 1
    assert factor(0, warmup_iters=0) == 1
    assert factor(5, milestones=[5]) == pytest.approx(0.055)


@pytest.mark.parametrize(
    "build", [lambda o: create_scheduler(o, **COSINE), lambda o: WarmupMultiStepLR(o, **MULTISTEP)]
)
def test_any_epoch_can_be_taken_up_again(build):
    scheduler = build(sgd(1e-3, 2e-3))
    assert isinstance(scheduler, EpochScheduler)
    rows = curve(scheduler, 70)
    scheduler.step(33)
    state = scheduler.state_dict()
    resumed = build(sgd(1e-3, 2e-3))
    resumed.load_state_dict(state)
    assert resumed.get_lr() == rows[33] and resumed.epoch == 33
    resumed.step(34)
    assert resumed.get_lr() == rows[34]


def test_base_rates_survive_an_optimizer_checkpoint():
    optimizer = sgd(1e-3)
    scheduler = WarmupMultiStepLR(optimizer, **MULTISTEP)
    scheduler.step(55)
    fresh = sgd(1e-3)
    fresh.load_state_dict(optimizer.state_dict())
    assert fresh.param_groups[0]["lr"] == pytest.approx(1e-5)
    restored = WarmupMultiStepLR(fresh, **MULTISTEP)
    restored.step(20)
    assert restored.get_lr() == [1e-3]


def test_each_group_keeps_its_own_base_rate():
    scheduler = create_scheduler(sgd(1e-3, 4e-3), **COSINE)
    scheduler.step(40)
    cosine = (1 + math.cos(math.pi * 40 / 60)) / 2
    assert scheduler.get_lr() == pytest.approx([1e-6 + (base - 1e-6) * cosine for base in (1e-3, 4e-3)])


def test_unknown_names_are_errors(vit):
    vit.SOLVER.STAGE1.SCHEDULER = "step"
    with pytest.raises(ReIDError, match="SCHEDULER = 'step': choose one of cosine, multistep"):
        make_scheduler(vit.SOLVER.STAGE1, sgd(1.0))
    with pytest.raises(ReIDError, match="WARMUP_METHOD = 'exp': choose one of linear, constant"):
        WarmupMultiStepLR(sgd(1.0), [30], warmup_method="exp")


def test_a_table_of_epochs_and_factors(vit):
    stage = vit.SOLVER.STAGE2
    stage.SCHEDULER, stage.STEPS, stage.FACTORS = "table", [3, 5, 6], [2.0, 0.5, 0.0]
    scheduler = make_scheduler(stage, sgd(1e-3, 1e-2))
    rates = [row[0] for row in curve(scheduler, 8)]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-3, 2e-3, 2e-3, 5e-4, 0, 0])


def test_a_table_without_a_factor_for_each_epoch_is_refused():
    cfg = load_config(None, ["SOLVER.STAGE2.SCHEDULER", "table", "SOLVER.STAGE2.FACTORS", "[0.1, 0.01]"])[0]
    cfg.defrost()
    for steps in ([10], [20, 10], [10, 10]):
        cfg.SOLVER.STAGE2.STEPS = steps
        with pytest.raises(ReIDError, match=r"STAGE2.STEPS = .*FACTORS.*rising epochs and a factor for each"):
            check_config(cfg)


def test_poly_is_the_polynomial_schedule_with_a_power():
    """(1 - i / n)^0.9 over the iterations, without warm-up."""
    words = {"SCHEDULER": "polynomial", "POWER": 0.9, "LR_MIN": 0.0, "WARMUP_EPOCHS": 0, "MAX_EPOCHS": 10}
    cfg = load_config(None, [str(w) for k, v in words.items() for w in (f"SOLVER.STAGE2.{k}", v)])[0]
    scheduler = make_scheduler(cfg.SOLVER.STAGE2, sgd(0.1))
    for done in range(40):
        scheduler.step(1 + done / 4)
        assert scheduler.get_lr()[0] == pytest.approx(0.1 * (1 - done / 40) ** 0.9)
