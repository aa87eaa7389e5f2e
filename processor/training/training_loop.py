"""The epoch loop of every stage: precision, logging, checks, checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from torch.optim import Optimizer
from tqdm import tqdm

from model.backbones.base import Outputs
from model.base import Batch, Method, Progress, Stage, TrainingSet
from processor.reports.curves import Curves
from processor.runs.run import Run, Stateful, TrainingProgress
from processor.training.train_step import TrainStep
from utils.compute.distributed import any_process, barrier
from utils.compute.precision import computing_in
from utils.compute.seed import RngState
from utils.console.interrupt import InterruptedRunError, interrupt_requested
from utils.console.logger import LOGGER, on_terminal
from utils.console.progress import PATIENCE, Meters
from utils.console.time_left import time_left

if TYPE_CHECKING:
    from torch.utils.data import Dataset
    from yacs.config import CfgNode


class Scheduler(Protocol):
    """Sets the learning rates for an epoch, counted from 1; fractions are of the way through it."""

    schedule: Callable[[float, float], float]

    def step(self, epoch: float) -> None: ...


class Batches(Sized, Iterable[Batch], Protocol):
    """The batches of an epoch, or of its rest."""


@dataclass
class StagePlan:
    """What distinguishes one stage from another.

    Attributes:
        stage: its number and what is cached.
        solver: ``SOLVER.STAGE<n>``.
        batches: from the epoch (1-based) and a number of iterations to leave out to the batches after those.
        outputs: from a batch to outputs and labels of the whole batch.
        dataset: the training images; a batch's index counts its ``records``.
        images: all training images, for :meth:`Method.begin_epoch`.
        optimizers: all are stepped on the total.
        scheduler: of their rates.
        frozen: what does not train in an epoch, see :meth:`Method.frozen`.
        still: modules that train and yet stay in eval mode: BatchNorms with fixed statistics.
        after_epoch: saves and evaluates where due; what it returns joins the epoch's history. It is called again when
            the run was interrupted in it.
    """

    stage: Stage
    solver: CfgNode
    batches: Callable[[int, int], Batches]
    outputs: Callable[[Batch, Progress], tuple[Outputs, Any]]
    dataset: Dataset
    images: TrainingSet
    optimizers: Sequence[Optimizer]
    scheduler: Scheduler
    frozen: Callable[[Progress], tuple[str, ...]]
    after_epoch: Callable[[int], dict | None]
    still: frozenset[str] = frozenset()


def train_epochs(plan: StagePlan, method: Method, run: Run) -> None:
    """Run the epochs of one stage, or the rest of them where the run was interrupted.

    Raises:
        ReIDError: a loss that is not finite, with the step, the terms and the files.
        InterruptedRunError: a signal requested a stop; the state is saved.
    """
    number = plan.stage.number
    scaler, meters = run.precision.scaler(), Meters()

    def short_names(batch: Batch) -> list[str]:
        return [run.shorten(plan.dataset.records[index].path) for index in batch.index.tolist()]

    step = TrainStep(
        method, plan.outputs, plan.optimizers, scaler, run.precision, plan.solver.CLIP_GRAD, short_names, run.output_dir
    )
    parts: dict[str, Stateful] = {"model": method, "scaler": scaler, "meters": meters, "random": RngState(run.device)}
    parts |= {f"optimizer{i}": optimizer for i, optimizer in enumerate(plan.optimizers)}
    trained = {name for name, p in method.named_parameters() if p.requires_grad}
    resumed = run.position.epoch and run.position.stage == number
    start = run.position if resumed else TrainingProgress(number, 1)
    run.restore(parts)
    curves = Curves(run, number, start.epoch)
    for epoch in range(start.epoch, plan.solver.MAX_EPOCHS + 1):
        here = start if epoch == start.epoch else TrainingProgress(number, epoch)
        if not here.ended:
            at = Progress(number, epoch)
            if not here.steps:
                method.eval()
                with computing_in(run.precision.autocast):
                    method.begin_epoch(plan.images, at)
            freeze(method, plan.frozen(at), trained, plan.still)
            plan.scheduler.step(epoch)
            _train_epoch(here, plan, run, step, parts, meters)
        run.history[-1] |= plan.after_epoch(epoch) or {}
        curves.refresh()
    curves.close()


def freeze(method: Method, frozen: Sequence[str], trained: set[str], still: frozenset[str] = frozenset()) -> None:
    """Train mode, except for what begins with a prefix of ``frozen``: that stays in eval mode and gets no gradients.

    Args:
        method: changed in place.
        frozen: see :meth:`Method.frozen`.
        trained: names of the parameters that the stage trains.
        still: names of modules that stay in eval mode although their parameters may train.
    """
    prefixes = tuple(frozen) or ("\0",)
    method.train()
    for name, module in method.named_modules():
        if name in still or (name and f"{name}.".startswith(prefixes)):
            module.eval()
    for name, parameter in method.named_parameters():
        parameter.requires_grad_(name in trained and not name.startswith(prefixes))


def _train_epoch(
    start: TrainingProgress,
    plan: StagePlan,
    run: Run,
    step: TrainStep,
    parts: dict[str, Stateful],
    meters: Meters,
) -> None:
    """One epoch, or the rest of it, with its entry in the history."""
    number, epoch, iteration, _ = start
    place = f"stage {number} epoch {epoch}/{plan.solver.MAX_EPOCHS}"
    batches = plan.batches(epoch, iteration)
    total = iteration + len(batches)
    began = saved = time.perf_counter()
    seen = meters.count
    bar = tqdm(batches, desc=place, unit=" batches", delay=PATIENCE, leave=False, disable=not on_terminal())
    for batch in bar:
        if plan.solver.STEP_EACH == "iteration":
            plan.scheduler.step(epoch + iteration / total)
        iteration += 1
        result = step(batch, Progress(number, epoch, iteration))
        meters.update({"loss": result.loss, **result.shown}, result.count)
        bar.set_postfix_str(f"{(meters.count - seen) / (time.perf_counter() - began):.0f} images/s", refresh=False)
        if iteration % plan.solver.LOG_PERIOD == 0:
            LOGGER.info("%s iteration %d: %s", place, iteration, _values(meters.means()))
        stop = any_process(interrupt_requested())
        if stop or time.perf_counter() - saved > 60 * run.minutes:
            run.save(TrainingProgress(number, epoch, iteration), parts)
            saved = time.perf_counter()
        if stop:
            barrier()  # torchrun ends the others when one leaves, and the first may still be writing
            raise InterruptedRunError(f"{place}, iteration {iteration}", saved=True)
    seconds = time.perf_counter() - began
    entry = {"stage": number, "epoch": epoch, **meters.means(), **rates(plan)}
    entry |= {"images_per_second": (meters.count - seen) / seconds, "seconds": seconds}
    run.history.append(entry)
    LOGGER.info("%s: %s", place, _values(entry, ("stage", "epoch")) + time_left(run.history, run.settings))
    meters.reset()
    run.save(TrainingProgress(number, epoch, iteration, ended=True), parts)


def rates(plan: StagePlan) -> dict[str, float]:
    """The current learning rates: ``lr``, which is BASE_LR under the schedule, and those of parts that have another."""
    base = plan.scheduler.schedule(plan.scheduler.epoch, plan.solver.BASE_LR)
    groups = [group for optimizer in plan.optimizers for group in optimizer.param_groups]
    others = {f"lr of {g['label']}": g["lr"] for g in groups if "label" in g and g["lr"] != base}
    return {"lr": base, **others}


def due(epoch: int, period: int, epochs: int) -> bool:
    """Whether something done every ``period`` epochs and at the end is done after ``epoch``."""
    return epoch % period == 0 or epoch == epochs


def _values(values: dict[str, float], skip: Sequence[str] = ()) -> str:
    shown = {"images_per_second": "{:.1f}", "seconds": "{:.1f}"}
    return "  ".join(
        f"{name} {('{:.3g}' if name.startswith('lr') else shown.get(name, '{:.4f}')).format(value)}"
        for name, value in values.items()
        if name not in skip
    )
