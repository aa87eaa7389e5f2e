"""The epoch loop that both stages share: precision, logging, checks, checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from torch import nn
from torch.optim import Optimizer
from tqdm import tqdm

from processor.reports.curves import Curves
from processor.runs.run import Run, Stateful, TrainingProgress
from processor.train_step import Batch, StepResult, Update
from utils.distributed import any_process, barrier, in_parallel
from utils.interrupt import InterruptedRunError, interrupt_requested
from utils.logger import LOGGER, on_terminal
from utils.meter import Meters
from utils.progress import PATIENCE
from utils.seed import RngState


class Scheduler(Protocol):
    """Sets the learning rate for an epoch (1-based) when that epoch begins."""

    def step(self, epoch: int) -> None: ...


def train_epochs(
    stage: int,
    *,
    run: Run,
    epochs: int,
    log_period: int,
    clip: float,
    batches: Callable[[int, int], Iterable[Batch]],
    names: Callable[[Batch], Sequence[str]],
    step: Callable[[Batch], StepResult],
    parts: dict[str, Stateful],
    optimizers: Sequence[Optimizer],
    scheduler: Scheduler,
    after_epoch: Callable[[int], dict | None],
) -> None:
    """Run the epochs of one stage, from where the run was interrupted if it was.

    Args:
        stage: 1 or 2.
        run: device, precision, history, position.
        epochs: how many.
        log_period: iterations between log lines.
        clip: largest norm of the gradients of the first optimizer together; 0 for any.
        batches: from the epoch (1-based) and a number of iterations to leave out to the batches after those.
        names: from a batch to the files of its images.
        step: from a batch to its losses; runs under autocast. Of several processes each gets its share of the batch,
            and all compute the losses of the whole.
        parts: ``model`` and whatever else has a state that training changes, optimizers aside.
        optimizers: all are stepped on the total; the first one's rate is logged.
        scheduler: stepped at the start of every epoch.
        after_epoch: saves and evaluates where due; what it returns joins the epoch's history. It is called again when
            the run was interrupted in it.

    Raises:
        ReIDError: a loss that is not finite, with the step, the terms and the files.
        InterruptedRunError: a signal asked to stop; the state is saved.
    """
    scaler = run.precision.scaler()
    meters = Meters()

    def short_names(batch: Batch) -> list[str]:
        return [run.shorten(name) for name in names(batch)]

    step = in_parallel(step, [part for part in parts.values() if isinstance(part, nn.Module)])
    update = Update(step, optimizers, scaler, run.precision, clip, parts["model"], short_names, run.output_dir)
    parts = {**parts, "scaler": scaler, "meters": meters, "random": RngState(run.device)}
    parts |= {f"optimizer{i}": optimizer for i, optimizer in enumerate(optimizers)}
    start = run.position if run.position.stage == stage else TrainingProgress(stage, 1)
    run.restore(parts)
    curves = Curves(run, stage, start.epoch)
    for epoch in range(start.epoch, epochs + 1):
        here = start if epoch == start.epoch else TrainingProgress(stage, epoch)
        if not here.ended:
            scheduler.step(epoch)
            plan = batches(epoch, here.steps)
            _train_epoch(here, epochs, run, plan, update, parts, meters, log_period)
        run.history[-1] |= after_epoch(epoch) or {}
        curves.refresh()
    curves.close()


def _train_epoch(
    start: TrainingProgress,
    epochs: int,
    run: Run,
    plan: Iterable[Batch],
    update: Update[Batch],
    parts: dict[str, Stateful],
    meters: Meters,
    log_period: int,
) -> None:
    """One epoch, or the rest of it, with its entry in the history."""
    stage, epoch, iteration, _ = start
    place = f"stage {stage} epoch {epoch}/{epochs}"
    began = saved = time.perf_counter()
    seen = meters.count
    bar = tqdm(plan, desc=place, unit=" batches", delay=PATIENCE, leave=False, disable=not on_terminal())
    for batch in bar:
        iteration += 1
        result = update(batch, f"{place}, iteration {iteration}")
        meters.update({"loss": result.loss, **result.parts}, result.count)
        bar.set_postfix_str(f"{(meters.count - seen) / (time.perf_counter() - began):.0f} images/s", refresh=False)
        if iteration % log_period == 0:
            LOGGER.info("%s iteration %d: %s", place, iteration, _values(meters.means()))
        stop = any_process(interrupt_requested())
        if stop or time.perf_counter() - saved > 60 * run.minutes:
            run.save(TrainingProgress(stage, epoch, iteration), parts)
            saved = time.perf_counter()
        if stop:
            barrier()  # torchrun ends the others when one leaves, and the first may still be writing
            raise InterruptedRunError(f"{place}, iteration {iteration}", saved=True)
    seconds = time.perf_counter() - began
    entry = {"stage": stage, "epoch": epoch, **meters.means(), "lr": update.optimizers[0].param_groups[0]["lr"]}
    entry |= {"images_per_second": (meters.count - seen) / seconds, "seconds": seconds}
    LOGGER.info("%s: %s", place, _values(entry, skip=("stage", "epoch")))
    run.history.append(entry)
    meters.reset()
    run.save(TrainingProgress(stage, epoch, iteration, ended=True), parts)


def due(epoch: int, period: int, epochs: int) -> bool:
    """Whether something done every ``period`` epochs and at the end is done after ``epoch``."""
    return epoch % period == 0 or epoch == epochs


def _values(values: dict[str, float], skip: Sequence[str] = ()) -> str:
    shown = {"lr": "{:.3g}", "images_per_second": "{:.1f}", "seconds": "{:.1f}"}
    return "  ".join(
        f"{name} {shown.get(name, '{:.4f}').format(value)}" for name, value in values.items() if name not in skip
    )
