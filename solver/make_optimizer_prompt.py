"""Which parameters each stage trains, and at which rates.

Both stages take the bare model, on its device, before any wrapping for several GPUs: parameters go by their
names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from yacs.config import CfgNode

from utils.errors import ReIDError

OPTIMIZERS: dict[str, type[Optimizer]] = {"Adam": Adam, "AdamW": AdamW, "SGD": SGD}
"""From the name in SOLVER.STAGE1.OPTIMIZER_NAME and SOLVER.STAGE2.OPTIMIZER_NAME to the class."""

FUSED_DEVICES = frozenset({"cpu", "cuda"})
"""Where one kernel updates all parameters of a group."""

PROMPTS = "prompt_learner."
TEXT_ENCODER = "text_encoder."
IMAGE_ENCODER = "image_encoder."
NECK_BIASES = frozenset({"bottleneck.bias", "bottleneck_proj.bias"})
"""The two BNNecks have no shift (Luo et al., arXiv 1903.07071), so their biases stay 0."""

NamedRate = tuple[nn.Parameter, float, float]
"""A parameter with its learning rate and weight decay."""


def train_only(model: nn.Module, chosen: Callable[[str], bool]) -> dict[str, nn.Parameter]:
    """Let exactly the parameters whose name is ``chosen`` get gradients; freeze all others.

    Returns:
        The chosen parameters by name, in the model's order.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(chosen(name))
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def make_optimizer_1stage(cfg: CfgNode, model: nn.Module, fused: bool | None = None) -> Optimizer:
    """Optimizer of stage 1: the prompts alone; both encoders and everything else are frozen.

    Identities that are absent from a batch must move too, by weight decay and momentum, so updates are never
    sparse.

    Args:
        cfg: the whole configuration.
        model: a model with a ``prompt_learner``.
        fused: update in one kernel; None: where the device has one.

    Raises:
        ReIDError: the model has no prompts, or OPTIMIZER_NAME is unknown.
    """
    stage = cfg.SOLVER.STAGE1
    prompts = train_only(model, lambda name: name.startswith(PROMPTS))
    if not prompts:
        raise ReIDError(
            f"Stage 1 found no parameter named {PROMPTS}* in {type(model).__name__}; it trains no other. "
            "Hand over the bare CLIP-ReID model, or leave stage 1 out of SOLVER.STAGES."
        )
    return _build(stage, [(p, stage.BASE_LR, stage.WEIGHT_DECAY) for p in prompts.values()], fused)


def make_optimizer_2stage(
    cfg: CfgNode, model: nn.Module, center_criterion: nn.Module | None = None, fused: bool | None = None
) -> tuple[Optimizer, Optimizer | None]:
    """Optimizer of stage 2: all but the text encoder, the prompts and the necks' biases; these are frozen.

    MODEL.ONE_STAGE trains the prompts too. Parameters with "bias" in their name have their own rate (BIAS_LR_FACTOR)
    and decay (WEIGHT_DECAY_BIAS); LARGE_FC_LR doubles the rate of the classifiers, NEW_LR_FACTOR multiplies that of
    everything outside the image encoder.

    Args:
        cfg: the whole configuration.
        model: the re-identification model.
        center_criterion: the center loss, if there is one.
        fused: update in one kernel; None: where the device has one.

    Returns:
        The model's optimizer, and plain SGD at CENTER_LR for the centers or None.

    Raises:
        ReIDError: OPTIMIZER_NAME is unknown.
    """
    stage = cfg.SOLVER.STAGE2
    frozen = (TEXT_ENCODER,) if cfg.MODEL.ONE_STAGE else (PROMPTS, TEXT_ENCODER)
    trained = train_only(model, lambda name: not name.startswith(frozen) and name not in NECK_BIASES)
    optimizer = _build(stage, [(p, *_stage2_rate(name, stage)) for name, p in trained.items()], fused)
    if center_criterion is None:
        return optimizer, None
    return optimizer, SGD(center_criterion.parameters(), lr=stage.CENTER_LR)


def named_rates(optimizer: Optimizer, model: nn.Module) -> list[tuple[str, float, float]]:
    """(name, learning rate, weight decay) of every parameter in ``optimizer``, in the model's order."""
    rates = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    return [(name, *rates[id(p)]) for name, p in model.named_parameters() if id(p) in rates]


def _stage2_rate(name: str, stage: CfgNode) -> tuple[float, float]:
    lr, weight_decay = stage.BASE_LR, stage.WEIGHT_DECAY
    if "bias" in name:
        lr, weight_decay = lr * stage.BIAS_LR_FACTOR, stage.WEIGHT_DECAY_BIAS
    if stage.LARGE_FC_LR and name.startswith("classifier"):
        lr *= 2
    if not name.startswith(IMAGE_ENCODER):
        lr *= stage.NEW_LR_FACTOR
    return lr, weight_decay


def _build(stage: CfgNode, rates: Iterable[NamedRate], fused: bool | None) -> Optimizer:
    """One parameter group for each pair of rate and decay, so that each can be updated in few kernels."""
    if stage.OPTIMIZER_NAME not in OPTIMIZERS:
        raise ReIDError(f"OPTIMIZER_NAME = {stage.OPTIMIZER_NAME!r}: choose one of {', '.join(OPTIMIZERS)}.")
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter, lr, weight_decay in rates:
        groups.setdefault((lr, weight_decay), []).append(parameter)
    if fused is None:
        fused = all(p.device.type in FUSED_DEVICES for group in groups.values() for p in group)
        # torch's fused SGD takes a first step that loss scaling skips for done, with a momentum that nobody has filled.
        fused = fused and stage.OPTIMIZER_NAME != "SGD"
    options = {"momentum": stage.MOMENTUM} if stage.OPTIMIZER_NAME == "SGD" else {}
    return OPTIMIZERS[stage.OPTIMIZER_NAME](
        [
            {"params": group, "lr": lr, "weight_decay": weight_decay, "initial_lr": lr}
            for (lr, weight_decay), group in groups.items()
        ],
        lr=stage.BASE_LR,
        fused=fused,
        **options,
    )
