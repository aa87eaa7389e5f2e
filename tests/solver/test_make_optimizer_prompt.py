from pathlib import Path

import pytest
import torch
from torch import nn

from configs import load_config
from solver import make_optimizers, named_rates
from tests.solver.conftest import RATES, RECIPES, named_model, small_model
from utils.errors import ReIDError

ROOT = Path(__file__).resolve().parents[2]
NAMES = [name for name, _ in small_model().named_parameters()]
FROZEN_IN_STAGE2 = [
    "prompt_learner.cls_ctx",
    "text_encoder.ln_final.bias",
    "bottleneck.bias",
    "bottleneck_proj.bias",
]


def trainable(model):
    return [name for name, p in model.named_parameters() if p.requires_grad]


def golden_model(case):
    """All parameters of the published model: the trained ones in their order, then the frozen ones."""
    frozen = RATES[case]["requires_grad_false_after_building_stage2_optimizer"]
    return named_model(*(name for name, *_ in RATES[case]["stage2"]), *frozen)


@pytest.mark.parametrize("case", RATES)
def test_golden_rates(case):
    cfg, model = RECIPES[case.split("_")[0]], golden_model(case)
    (stage1,) = make_optimizers(cfg, model, 1)
    assert named_rates(stage1, model) == [tuple(row) for row in RATES[case]["stage1"]]
    assert trainable(model) == ["prompt_learner.cls_ctx"]

    (stage2,) = make_optimizers(cfg, model, 2)
    assert named_rates(stage2, model) == [tuple(row) for row in RATES[case]["stage2"]]
    assert {n for n, p in model.named_parameters() if not p.requires_grad} == set(
        RATES[case]["requires_grad_false_after_building_stage2_optimizer"]
    )
    assert isinstance(stage2, torch.optim.Adam)
    assert stage2.defaults["betas"] == (0.9, 0.999) and stage2.defaults["eps"] == 1e-8
    assert not stage2.defaults["amsgrad"] and not stage2.defaults["decoupled_weight_decay"]


def test_equal_rates_share_a_group(vit):
    (optimizer,) = make_optimizers(vit, small_model(), 2)
    assert [(g["lr"], g["initial_lr"], len(g["params"])) for g in optimizer.param_groups] == [
        (5e-6, 5e-6, 6),
        (1e-5, 1e-5, 1),
    ]


def test_stage2_restores_what_stage1_froze(vit):
    model = small_model()
    make_optimizers(vit, model, 1)
    assert trainable(model) == ["prompt_learner.cls_ctx"]
    make_optimizers(vit, model, 2)
    assert trainable(model) == [name for name in NAMES if name not in FROZEN_IN_STAGE2]


def test_biases_have_their_own_decay(vit):
    vit.SOLVER.STAGE2.WEIGHT_DECAY_BIAS = 0.0
    model = small_model()
    (optimizer,) = make_optimizers(vit, model, 2)
    decays = {name: weight_decay for name, _, weight_decay in named_rates(optimizer, model)}
    assert decays.pop("image_encoder.ln_post.bias") == 0
    assert set(decays.values()) == {1e-4}


def test_large_fc_lr_doubles_the_classifiers_rate(vit):
    vit.SOLVER.STAGE2.LARGE_FC_LR = True
    model = small_model()
    (optimizer,) = make_optimizers(vit, model, 2)
    rates = {name: lr for name, lr, _ in named_rates(optimizer, model)}
    assert rates["classifier.weight"] == rates["classifier_proj.weight"] == 1e-5
    assert rates["image_encoder.proj"] == rates["bottleneck.weight"] == 5e-6


def test_new_layers_have_a_rate_of_their_own():
    """CLIP-HandID: 5e-6 for the image encoder, 5e-5 for what is new."""
    cfg, _ = load_config(ROOT / "configs" / "hand" / "handid.yml")
    model = small_model()
    (optimizer,) = make_optimizers(cfg, model, 2)
    rates = {name: lr for name, lr, _ in named_rates(optimizer, model)}
    encoder = {name: rate for name, rate in rates.items() if name.startswith("image_encoder.")}
    assert len(encoder) == 2 and set(encoder.values()) == {5e-6}
    assert {round(rates[name], 9) for name in rates.keys() - encoder.keys()} == {5e-5}


@pytest.mark.parametrize("name", ["Adam", "AMSGrad", "AdamW", "SGD"])
def test_a_first_step_that_loss_scaling_skips_leaves_no_trace(vit, name, monkeypatch):
    """float16 begins with gradients that overflow; uninitialised memory holds any values."""
    monkeypatch.setattr(torch, "empty_like", lambda tensor, **kind: torch.full_like(tensor, torch.nan, **kind))
    vit.SOLVER.STAGE2.OPTIMIZER_NAME = name
    model = small_model()
    (optimizer,) = make_optimizers(vit, model, 2)
    scaler = torch.amp.GradScaler("cpu")
    for factor in (torch.inf, 1.0, 1.0):
        optimizer.zero_grad()
        scaler.scale(sum(p.sum() for p in model.parameters() if p.requires_grad) * factor).backward()
        scaler.step(optimizer)
        scaler.update()
    assert all(torch.isfinite(p).all() and (p < 1).all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", ["Adam", "AMSGrad", "AdamW", "SGD"])
def test_optimizer_names(vit, name):
    vit.SOLVER.STAGE1.OPTIMIZER_NAME = vit.SOLVER.STAGE2.OPTIMIZER_NAME = name
    vit.SOLVER.STAGE1.MOMENTUM = vit.SOLVER.STAGE2.MOMENTUM = 0.8
    model = small_model()
    for optimizer in (*make_optimizers(vit, model, 1), *make_optimizers(vit, model, 2)):
        assert type(optimizer) is getattr(torch.optim, "Adam" if name == "AMSGrad" else name)
        assert optimizer.defaults.get("amsgrad", False) == (name == "AMSGrad")
        assert optimizer.param_groups[0].get("momentum") == (0.8 if name == "SGD" else None)


def test_centers_have_an_optimizer_of_their_own(vit):
    model = small_model()
    model.criterion = named_model("center.centers")
    optimizer, of_centers = make_optimizers(vit, model, 2)
    assert isinstance(of_centers, torch.optim.SGD)
    (group,) = of_centers.param_groups
    assert group["lr"] == 0.5 and group["momentum"] == 0 and group["weight_decay"] == 0 and not group["scheduled"]
    assert group["params"][0] is model.criterion.center.centers
    assert all(p is not group["params"][0] for g in optimizer.param_groups for p in g["params"])


def adam_float64(start, gradients, lr, weight_decay):
    """Adam with the decay added to the gradient, as its paper has it."""
    x = start.double()
    m, v = torch.zeros_like(x), torch.zeros_like(x)
    for t, gradient in enumerate(gradients, start=1):
        g = gradient.double() + weight_decay * x
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        x = x - lr * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
    return x


@pytest.mark.parametrize("fused", [None, True, False])
def test_stage1_is_adam_with_coupled_decay_on_every_prompt(vit, fused):
    torch.manual_seed(0)
    vit.SOLVER.STAGE1.WEIGHT_DECAY = 1e-2
    model = named_model("prompt_learner.cls_ctx")
    prompts = model.prompt_learner.cls_ctx = nn.Parameter(torch.randn(5, 4, 8) * 0.02)
    start, gradients = prompts.detach().clone(), torch.randn(30, 5, 4, 8) * 1e-3
    gradients[:, 3:] = 0  # identities without an image
    (optimizer,) = make_optimizers(vit, model, 1, fused)
    for gradient in gradients:
        prompts.grad = gradient.clone()
        optimizer.step()
    expected = adam_float64(start, gradients, 3.5e-4, 1e-2)
    moved = (expected - start.double()).abs()
    torch.testing.assert_close(prompts.detach().double(), expected, rtol=0, atol=1e-5 * moved.max().item())
    assert (prompts - start)[3:].abs().mean() > (prompts - start)[:3].abs().mean()


def test_fusing_follows_the_device(vit):
    (on_cpu,) = make_optimizers(vit, small_model(), 1)
    (on_meta,) = make_optimizers(vit, small_model().to("meta"), 1)
    assert on_cpu.defaults["fused"] is True and on_meta.defaults["fused"] is False


def test_a_model_without_prompts_cannot_run_stage1(vit):
    with pytest.raises(ReIDError, match="Stage 1 of CLIPReID trains no parameter"):
        make_optimizers(vit, named_model("image_encoder.proj"), 1)


def test_unknown_optimizer_is_an_error(vit):
    vit.SOLVER.STAGE2.OPTIMIZER_NAME = "Lion"
    with pytest.raises(ReIDError, match="OPTIMIZER_NAME = 'Lion': choose one of Adam, AMSGrad, AdamW, SGD"):
        make_optimizers(vit, small_model(), 2)


def test_nesterov_looks_ahead(vit):
    """w <- w - lr (g + m v) with v <- m v + g, against g + m v with the old v."""
    stage = vit.SOLVER.STAGE2
    stage.OPTIMIZER_NAME, stage.MOMENTUM, stage.NESTEROV = "SGD", 0.9, True
    model = small_model()
    (optimizer,) = make_optimizers(vit, model, 2)
    (group, *_) = optimizer.param_groups
    group["weight_decay"], parameter = 0.0, group["params"][0]
    expected, velocity = parameter.detach().clone(), 0.0
    for gradient in (1.0, -0.5, 2.0):
        parameter.grad = torch.full_like(parameter, gradient)
        optimizer.step()
        velocity = 0.9 * velocity + gradient
        expected -= group["lr"] * (gradient + 0.9 * velocity)
    torch.testing.assert_close(parameter.detach(), expected)
