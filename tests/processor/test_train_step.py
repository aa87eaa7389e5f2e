"""One iteration: clipped gradients, and what happens to a loss that is not finite."""

import pytest
import torch
from torch import nn
from torch.optim import SGD

from processor.train_step import StepResult, Update
from utils.device import Precision
from utils.errors import ReIDError

CPU = torch.device("cpu")


def update(tmp_path, model, step, dtype=torch.float32, clip=0.0, scale=None):
    scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
    return Update(
        step, [SGD(model.parameters(), lr=1.0)], scaler, Precision(CPU, dtype), clip, model, lambda b: b, tmp_path
    )


@pytest.mark.parametrize(("clip", "moved"), [(0.0, 5.0), (0.5, 0.5), (9.0, 5.0)])
@pytest.mark.parametrize("scale", [None, 2.0**10])
def test_gradients_are_clipped_to_a_norm(tmp_path, clip, moved, scale):
    """Those of the loss, not of the loss times what float16 needs."""
    model = nn.Linear(2, 1, bias=False)
    before = model.weight.detach().clone()

    def step(batch):
        return StepResult(model(torch.tensor([[3.0, 4.0]])).sum(), {}, 1)

    update(tmp_path, model, step, clip=clip, scale=scale)([], "here")
    assert float((model.weight - before).norm().detach()) == pytest.approx(moved, rel=1e-4)


def test_a_loss_that_is_not_finite_names_step_term_and_files(tmp_path):
    model = nn.Linear(2, 1)

    def step(batch):
        term = model.weight.sum() * torch.inf
        return StepResult(term, {"triplet": term.detach()}, 4)

    with pytest.raises(ReIDError, match=r"stage 2, iteration 7.*triplet = .*a\.jpg, b\.jpg, c\.jpg"):
        update(tmp_path, model, step)(["a.jpg", "b.jpg", "c.jpg", "d.jpg"], "stage 2, iteration 7")
    assert (tmp_path / "not_finite.txt").read_text().split() == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]


def test_float16_overflow_is_computed_again_in_float32(tmp_path):
    model = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1))
    dtypes = []

    def step(batch):
        product = model[0](torch.full((2, 2), 4e4) + torch.eye(2))
        dtypes.append(product.dtype)
        model[1](product.float() * (torch.inf if product.dtype is torch.float16 else 1))
        total = product.float().sum() * (torch.inf if product.dtype is torch.float16 else 1)
        return StepResult(total, {}, 2)

    result = update(tmp_path, model, step, torch.float16)([], "here")
    assert dtypes == [torch.float16, torch.float32] and torch.isfinite(result.loss)
    assert all(torch.isfinite(buffer).all() for buffer in model.buffers())
    assert int(model[1].num_batches_tracked) == 1


def test_a_loss_that_float32_cannot_save_either_stops_after_one_more_try(tmp_path):
    model, tries = nn.Linear(2, 1), []

    def step(batch):
        tries.append(torch.is_autocast_enabled("cpu"))
        return StepResult(model.weight.sum() * torch.nan, {"id": torch.tensor(torch.nan)}, 1)

    with pytest.raises(ReIDError, match=r"epoch 3, iteration 2: the loss is not finite \(id = nan\)"):
        update(tmp_path, model, step, torch.float16)(["a.jpg"], "epoch 3, iteration 2")
    assert tries == [True, False]
