"""Optimizers and learning rate schedules of both training stages."""

from solver.lr_scheduler import EpochScheduler, WarmupMultiStepLR, cosine_lr, multistep_factor
from solver.make_optimizer_prompt import (
    OPTIMIZERS,
    make_optimizer_1stage,
    make_optimizer_2stage,
    named_rates,
    train_only,
)
from solver.scheduler_factory import SCHEDULERS, create_scheduler, make_scheduler

__all__ = [
    "OPTIMIZERS",
    "SCHEDULERS",
    "EpochScheduler",
    "WarmupMultiStepLR",
    "cosine_lr",
    "create_scheduler",
    "make_optimizer_1stage",
    "make_optimizer_2stage",
    "make_scheduler",
    "multistep_factor",
    "named_rates",
    "train_only",
]
