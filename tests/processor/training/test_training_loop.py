"""What an epoch logs and freezes."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from processor.training.training_loop import freeze, rates
from solver import make_optimizers, make_scheduler
from tests.model.methods.toy import build, config


@pytest.mark.parametrize(("recipe", "base", "other"), [("handid", 5e-6, 5e-5), ("clipreid", 5e-6, 1e-5)])
def test_the_rate_that_is_logged_is_that_of_the_encoder(recipe, base, other):
    """BASE_LR under the schedule, not the rate of the first group; other parts have their own rates, by name."""
    cfg = config(recipe)
    method = build(cfg)
    optimizers = make_optimizers(cfg, method, 2)
    scheduler = make_scheduler(cfg.SOLVER.STAGE2, optimizers)
    scheduler.step(11)  # behind the warm-up
    encoder = method.image_encoder.conv1.weight
    (own,) = [g["lr"] for o in optimizers for g in o.param_groups if any(p is encoder for p in g["params"])]
    found = rates(SimpleNamespace(scheduler=scheduler, optimizers=optimizers, solver=cfg.SOLVER.STAGE2))
    assert found["lr"] == pytest.approx(own) == pytest.approx(base)
    others = [rate for name, rate in found.items() if name != "lr"]
    assert all(name.startswith("lr of ") for name in found if name != "lr")
    assert any(rate == pytest.approx(other) for rate in others)


def test_what_is_frozen_stays_in_eval_mode_and_gets_no_gradient():
    model = nn.ModuleDict({"layer1": nn.BatchNorm1d(3), "layer10": nn.BatchNorm1d(3), "head": nn.Linear(3, 2)})
    trained = {name for name, _ in model.named_parameters()} - {"head.bias"}
    freeze(model, ("layer1.",), trained)
    assert not model["layer1"].training and model["layer10"].training and model["head"].training
    gets = {name for name, p in model.named_parameters() if p.requires_grad}
    assert gets == {"layer10.weight", "layer10.bias", "head.weight"}
    before = model["layer1"].running_mean.clone()
    model["layer1"](torch.randn(4, 3))
    assert torch.equal(before, model["layer1"].running_mean)
    freeze(model, (), trained)
    assert model["layer1"].training and model["layer1"].weight.requires_grad
