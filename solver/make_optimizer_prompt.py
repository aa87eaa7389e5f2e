"""Optimizers of a stage from the rates that a method gives its parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from yacs.config import CfgNode

from utils.errors import ReIDError, require_choice

if TYPE_CHECKING:
    from model.base import Method, Rate

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "Adam": Adam,
    "AMSGrad": partial(Adam, amsgrad=True),
    "AdamW": AdamW,
    "SGD": SGD,
}
"""From the name in SOLVER.STAGE<n>.OPTIMIZER_NAME, or of a :class:`model.base.Rate`, to the class."""

FUSED_DEVICES = frozenset({"cpu", "cuda"})
"""Where one kernel updates all parameters of a group."""


def make_optimizers(cfg: CfgNode, method: Method, stage: int, fused: bool | None = None) -> list[Optimizer]:
    """The optimizers of one stage: exactly the parameters that have a rate in it are trained, all others frozen.

    Updates are never sparse: identities that are absent from a batch move too, by weight decay and momentum.

    Args:
        cfg: the whole configuration.
        method: on its device.
        stage: its number; ``SOLVER.STAGE<stage>`` is read.
        fused: update in one kernel; None: where the device has one.

    Returns:
        That of ``OPTIMIZER_NAME`` first, then one for each other name that a rate has.

    Raises:
        ReIDError: the stage trains nothing, or an optimizer or the layer in ``SOLVER.STAGE2.FREEZE`` is unknown.
    """
    solver = cfg.SOLVER[f"STAGE{stage}"]
    rates: dict[str, list[tuple[nn.Parameter, str, Rate]]] = {}
    frozen = method.layers_up_to(solver.FREEZE) if stage == 2 and solver.FREEZE else ()
    for name, parameter in method.named_parameters():
        rate = None if name.startswith(frozen) else method.rate(name, stage, solver)
        parameter.requires_grad_(rate is not None)
        if rate is not None:
            rates.setdefault(rate.optimizer, []).append((parameter, name, rate))
    if not rates:
        raise ReIDError(
            f"Stage {stage} of {type(method).__name__} trains no parameter. Leave {stage} out of SOLVER.STAGES."
        )
    return [_build(name or solver.OPTIMIZER_NAME, solver, rates[name], fused) for name in sorted(rates)]


def named_rates(optimizer: Optimizer, model: nn.Module) -> list[tuple[str, float, float]]:
    """(name, learning rate, weight decay) of every parameter in ``optimizer``, in the model's order."""
    rates = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    return [(name, *rates[id(p)]) for name, p in model.named_parameters() if id(p) in rates]


def _build(
    name: str, solver: CfgNode, rates: Iterable[tuple[nn.Parameter, str, Rate]], fused: bool | None
) -> Optimizer:
    """One parameter group for each different rate, so that each can be updated in few kernels."""
    require_choice("OPTIMIZER_NAME", name, OPTIMIZERS)
    groups: dict[Rate, dict[str, Any]] = {}
    for parameter, own_name, rate in rates:
        group = groups.setdefault(rate, {"params": [], "names": []})
        group["params"].append(parameter)
        group["names"].append(own_name)
    if fused is None:
        fused = all(p.device.type in FUSED_DEVICES for group in groups.values() for p in group["params"])
        # torch's fused SGD treats a first step that loss scaling skips as done, with an empty momentum.
        fused = fused and name != "SGD"
    return OPTIMIZERS[name]([_group(name, solver, *item) for item in groups.items()], lr=solver.BASE_LR, fused=fused)


def _group(name: str, solver: CfgNode, rate: Rate, found: dict[str, Any]) -> dict[str, Any]:
    group = {
        "params": found["params"],
        "lr": rate.lr,
        "weight_decay": rate.weight_decay,
        "initial_lr": rate.lr,
        "scheduled": rate.scheduled,
        "label": _label(found["names"]),
    }
    if name == "SGD":
        group["momentum"] = solver.MOMENTUM if rate.momentum is None else rate.momentum
        group["nesterov"] = solver.NESTEROV and group["momentum"] > 0
    return group


def _label(names: list[str]) -> str:
    """What a group holds, for logs: "image_encoder biases", "classifier and 3 more"."""
    parts = sorted({name.partition(".")[0] for name in names})
    label = parts[0] if len(parts) == 1 else f"{parts[0]} and {len(parts) - 1} more"
    return f"{label} biases" if all("bias" in name for name in names) else label
