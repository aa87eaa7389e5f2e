"""Learning rates as functions of the epoch, and the scheduler that applies them.

Epochs count from 1; a scheduler is stepped at the start of each. Epoch 0 is the state before the first one.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch.optim import Optimizer

from utils.errors import require_choice


def cosine_lr(
    epoch: float, base: float, *, num_epochs: int, lr_min: float, warmup_lr_init: float, warmup_t: int
) -> float:
    """Learning rate of one epoch: linear warm-up, then half a cosine down to ``lr_min``.

    The cosine is not shifted by the warm-up, and from epoch ``num_epochs`` on, the last one included, the
    rate is ``lr_min`` exactly: stage 1 of the published CLIP-ReID.

    Args:
        epoch: e.
        base: peak rate.
        num_epochs: E; the cosine's phase is pi e / E.
        lr_min: rate at the end.
        warmup_lr_init: rate at epoch 0.
        warmup_t: epochs of warm-up; 0 for none.
    """
    if epoch < warmup_t:
        return warmup_lr_init + epoch * (base - warmup_lr_init) / warmup_t
    if epoch >= num_epochs:
        return lr_min
    return lr_min + (base - lr_min) / 2 * (1 + math.cos(math.pi * epoch / num_epochs))


def cycle_of(epoch: float, lengths: Sequence[int]) -> tuple[int, int]:
    """Epochs before the cycle in which ``epoch`` lies, and the length of that cycle; the last one has no end."""
    passed = 0
    for length in lengths[:-1]:
        if epoch < passed + length + 1:
            return passed, length
        passed += length
    return passed, lengths[-1]


def polynomial_lr(
    epoch: float, base: float, *, num_epochs: int, lr_min: float, warmup_lr_init: float, warmup_t: int, power: float
) -> float:
    """Learning rate after ``epoch`` - 1 epochs: linear warm-up, then a power of the rest of the way to ``lr_min``.

    It is made to be stepped each iteration: the first one of all has ``warmup_lr_init``.

    Args:
        epoch: e, from 1, with the fraction of it that is done.
        base: peak rate, reached after ``warmup_t`` epochs.
        num_epochs: E.
        lr_min: rate after the last epoch.
        warmup_lr_init: rate at the start.
        warmup_t: epochs of warm-up; 0 for none.
        power: of the rest, 1 - t, where t goes from 0 after the warm-up to 1.
    """
    done = max(epoch - 1, 0)
    if done < warmup_t:
        return warmup_lr_init + done * (base - warmup_lr_init) / warmup_t
    rest = 1 - min((done - warmup_t) / max(num_epochs - warmup_t, 1), 1.0)
    return lr_min + (base - lr_min) * rest**power


def multistep_factor(
    epoch: float,
    *,
    milestones: Sequence[int],
    gamma: float,
    warmup_factor: float,
    warmup_iters: int,
    warmup_method: str,
) -> float:
    """Factor on the base rate in one epoch: warm-up times ``gamma`` for every milestone reached.

    Args:
        epoch: e; a milestone equal to it has been reached.
        milestones: epochs at which the rate falls.
        gamma: by this factor.
        warmup_factor: factor at epoch 0.
        warmup_iters: epochs of warm-up; the full rate is reached in this epoch.
        warmup_method: ``"linear"`` rises to 1; ``"constant"`` stays at ``warmup_factor``.

    Raises:
        ReIDError: ``warmup_method`` is neither.
    """
    require_choice("WARMUP_METHOD", warmup_method, ("linear", "constant"))
    warmup = 1.0
    if epoch < warmup_iters:
        done = epoch / warmup_iters if warmup_method == "linear" else 0.0
        warmup = warmup_factor * (1 - done) + done
    return warmup * gamma ** bisect_right(sorted(milestones), epoch)


def table_factor(epoch: float, *, steps: Sequence[int], factors: Sequence[float]) -> float:
    """Factor on the base rate in one epoch: that of the last of the rising ``steps`` reached, 1 in front of them."""
    reached = bisect_right(steps, epoch)
    return factors[reached - 1] if reached else 1.0


class EpochScheduler:
    """Sets the learning rate of every scheduled parameter group from the group's own base rate.

    The base rate is the group's ``initial_lr``, or its ``lr`` where there is none. Building a scheduler sets
    the rates of epoch 0; call :meth:`step` at the start of each epoch, or of each iteration with a fraction.

    Args:
        optimizers: whose rates are set; one or several.
        schedule: (epoch, base rate) -> rate, a pure function.
    """

    def __init__(self, optimizers: Optimizer | Sequence[Optimizer], schedule: Callable[[float, float], float]) -> None:
        self.optimizers = [optimizers] if isinstance(optimizers, Optimizer) else list(optimizers)
        self.schedule = schedule
        for group in self._groups():
            group.setdefault("initial_lr", group["lr"])
        self.step(0)

    def step(self, epoch: float) -> None:
        """Set the rates of ``epoch``, counted from 1; 1.5 is half-way through the first."""
        self.epoch = epoch
        for group in self._groups():
            group["lr"] = self.schedule(epoch, group["initial_lr"])

    def get_lr(self) -> list[float]:
        """The current rate of each scheduled parameter group."""
        return [group["lr"] for group in self._groups()]

    def state_dict(self) -> dict[str, Any]:
        """The epoch; everything else is configuration."""
        return {"epoch": self.epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the epoch in ``state``."""
        self.step(state["epoch"])

    def _groups(self) -> list[dict[str, Any]]:
        return [group for o in self.optimizers for group in o.param_groups if group.get("scheduled", True)]


class WarmupMultiStepLR(EpochScheduler):
    """The base rate times :func:`multistep_factor`, whose arguments it takes, for every parameter group."""

    def __init__(
        self,
        optimizer: Optimizer | Sequence[Optimizer],
        milestones: Sequence[int],
        gamma: float = 0.1,
        warmup_factor: float = 0.01,
        warmup_iters: int = 10,
        warmup_method: str = "linear",
    ) -> None:
        factor = partial(
            multistep_factor,
            milestones=milestones,
            gamma=gamma,
            warmup_factor=warmup_factor,
            warmup_iters=warmup_iters,
            warmup_method=warmup_method,
        )
        super().__init__(optimizer, lambda epoch, base: base * factor(epoch))
