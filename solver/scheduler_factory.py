"""From a stage's configuration to its scheduler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch.optim import Optimizer
from yacs.config import CfgNode

from solver.lr_scheduler import EpochScheduler, WarmupMultiStepLR, cosine_lr, cycle_of, polynomial_lr, table_factor
from utils.errors import require_choice


def create_scheduler(
    optimizer: Optimizer | Sequence[Optimizer], num_epochs: int, lr_min: float, warmup_lr_init: float, warmup_t: int
) -> EpochScheduler:
    """Cosine with warm-up: :func:`~solver.lr_scheduler.cosine_lr`, whose arguments it takes."""
    schedule = partial(
        cosine_lr, num_epochs=num_epochs, lr_min=lr_min, warmup_lr_init=warmup_lr_init, warmup_t=warmup_t
    )
    return EpochScheduler(optimizer, schedule)


def _cosine(stage: CfgNode, optimizer: Optimizer | Sequence[Optimizer]) -> EpochScheduler:
    if not any(stage.CYCLES):
        return create_scheduler(optimizer, stage.MAX_EPOCHS, stage.LR_MIN, stage.WARMUP_LR_INIT, stage.WARMUP_EPOCHS)
    ends = {"lr_min": stage.LR_MIN, "warmup_lr_init": stage.WARMUP_LR_INIT, "warmup_t": stage.WARMUP_EPOCHS}

    def schedule(epoch: float, base: float) -> float:
        passed, length = cycle_of(epoch, stage.CYCLES)
        return cosine_lr(epoch - passed, base, num_epochs=length, **ends)

    return EpochScheduler(optimizer, schedule)


def _polynomial(stage: CfgNode, optimizer: Optimizer | Sequence[Optimizer]) -> EpochScheduler:
    schedule = partial(
        polynomial_lr,
        num_epochs=stage.MAX_EPOCHS,
        lr_min=stage.LR_MIN,
        warmup_lr_init=stage.WARMUP_LR_INIT,
        warmup_t=stage.WARMUP_EPOCHS,
        power=stage.POWER,
    )
    return EpochScheduler(optimizer, schedule)


def _multistep(stage: CfgNode, optimizer: Optimizer | Sequence[Optimizer]) -> EpochScheduler:
    return WarmupMultiStepLR(
        optimizer,
        stage.STEPS,
        stage.GAMMA,
        stage.WARMUP_FACTOR,
        stage.WARMUP_ITERS,
        stage.WARMUP_METHOD,
    )


def _table(stage: CfgNode, optimizer: Optimizer | Sequence[Optimizer]) -> EpochScheduler:
    factor = partial(table_factor, steps=stage.STEPS, factors=stage.FACTORS)
    return EpochScheduler(optimizer, lambda epoch, base: base * factor(epoch))


SCHEDULERS: dict[str, Callable[[CfgNode, Optimizer | Sequence[Optimizer]], EpochScheduler]] = {
    "cosine": _cosine,
    "multistep": _multistep,
    "polynomial": _polynomial,
    "table": _table,
}
"""From the name in SOLVER.STAGE<n>.SCHEDULER to what builds it."""


def make_scheduler(stage_cfg: CfgNode, optimizer: Optimizer | Sequence[Optimizer]) -> EpochScheduler:
    """The scheduler of one stage, ``cfg.SOLVER.STAGE<n>``, for its optimizers.

    Raises:
        ReIDError: SCHEDULER names none.
    """
    require_choice("SCHEDULER", stage_cfg.SCHEDULER, SCHEDULERS)
    scheduler = SCHEDULERS[stage_cfg.SCHEDULER](stage_cfg, optimizer)
    if stage_cfg.EPOCH_OFFSET:
        own, offset = scheduler.schedule, stage_cfg.EPOCH_OFFSET
        scheduler.schedule = lambda epoch, base: own(epoch + offset, base)
        scheduler.step(0)
    return scheduler
