"""The epoch loop that both stages share: precision, logging, checks, checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer
from tqdm import tqdm

from processor.run import Run
from utils.errors import ReIDError
from utils.logger import LOGGER, on_terminal
from utils.meter import Meters

Batch = TypeVar("Batch")


class Scheduler(Protocol):
    """Sets the learning rate for an epoch (1-based) when that epoch begins."""

    def step(self, epoch: int) -> None: ...


class StepResult(NamedTuple):
    """One iteration: the total to differentiate, its named terms and other values to log, the number of images."""

    loss: Tensor
    parts: dict[str, Tensor]
    count: int


def train_epochs(
    stage: int,
    *,
    run: Run,
    epochs: int,
    log_period: int,
    batches: Callable[[int], Iterable[Batch]],
    step: Callable[[Batch], StepResult],
    optimizers: Sequence[Optimizer],
    scheduler: Scheduler,
    after_epoch: Callable[[int], dict | None],
) -> None:
    """Run the epochs of one stage.

    Args:
        stage: 1 or 2, for the log.
        run: device, precision, history.
        epochs: how many.
        log_period: iterations between log lines.
        batches: from the epoch (1-based) to its batches.
        step: from a batch to its losses; runs under autocast.
        optimizers: all are stepped on the total; the first one's rate is logged.
        scheduler: stepped at the start of every epoch.
        after_epoch: saves and evaluates where due; what it returns joins the epoch's history.

    Raises:
        ReIDError: a loss that is not finite, with the step and the term.
    """
    scaler = run.precision.scaler()
    for epoch in range(1, epochs + 1):
        scheduler.step(epoch)
        meters, start = Meters(), time.perf_counter()
        plan = batches(epoch)
        bar = tqdm(plan, desc=f"stage {stage} epoch {epoch}/{epochs}", leave=False, disable=not on_terminal())
        for iteration, batch in enumerate(bar, 1):
            with run.precision.autocast():
                result = step(batch)
            _check_finite(result, f"stage {stage}, epoch {epoch}, iteration {iteration}")
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            scaler.scale(result.loss).backward()
            for optimizer in optimizers:
                scaler.step(optimizer)
            scaler.update()
            meters.update({"loss": result.loss, **result.parts}, result.count)
            if iteration % log_period == 0:
                LOGGER.info("%s iteration %d: %s", _place(stage, epoch, epochs), iteration, _values(meters.means()))
        seconds = time.perf_counter() - start
        entry = {"stage": stage, "epoch": epoch, **meters.means(), "lr": optimizers[0].param_groups[0]["lr"]}
        entry |= {"images_per_second": meters.count / seconds, "seconds": seconds}
        LOGGER.info("%s: %s", _place(stage, epoch, epochs), _values(entry, skip=("stage", "epoch")))
        run.history.append(entry)
        entry |= after_epoch(epoch) or {}


def due(epoch: int, period: int, epochs: int) -> bool:
    """Whether something done every ``period`` epochs and at the end is done after ``epoch``."""
    return epoch % period == 0 or epoch == epochs


def _check_finite(result: StepResult, where: str) -> None:
    if torch.isfinite(result.loss):
        return
    terms = ", ".join(f"{name} = {float(value):.4g}" for name, value in result.parts.items())
    raise ReIDError(
        f"{where}: the loss is not finite ({terms}). Lower the learning rate, or set SOLVER.PRECISION to fp32; "
        "checkpoints written so far are kept."
    )


def _place(stage: int, epoch: int, epochs: int) -> str:
    return f"stage {stage} epoch {epoch}/{epochs}"


def _values(values: dict[str, float], skip: Sequence[str] = ()) -> str:
    shown = {"lr": "{:.3g}", "images_per_second": "{:.1f}", "seconds": "{:.1f}"}
    return "  ".join(
        f"{name} {shown.get(name, '{:.4f}').format(value)}" for name, value in values.items() if name not in skip
    )
