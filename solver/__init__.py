"""Optimizers and learning rate schedules of both training stages."""

from solver.lr_scheduler import EpochScheduler, WarmupMultiStepLR, cosine_lr, multistep_factor
from solver.make_optimizer_prompt import OPTIMIZERS, make_optimizers, named_rates
from solver.scheduler_factory import SCHEDULERS, create_scheduler, make_scheduler

__all__ = [
    "OPTIMIZERS",
    "SCHEDULERS",
    "EpochScheduler",
    "WarmupMultiStepLR",
    "cosine_lr",
    "create_scheduler",
    "make_optimizers",
    "make_scheduler",
    "multistep_factor",
    "named_rates",
]
